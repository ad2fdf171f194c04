// What kernels are launched with, and what lies in the memory that they share with the host: the
// one description of these structs. Python, the tests and whoever else needs their layout is given
// it by bind/launch_structs.cpp.
//
// A model is a list of leaves. All their elements together are the index space in which gradient
// norms are taken; what is updated is cut into chunks that never cross a leaf.
#pragma once
#include "../portable/average.h"
#include "../portable/feistel.h"
#include "../portable/units.h"
#include "../rules/all.h"

namespace fusestep {
namespace device {

constexpr unsigned kThreads = 256;        // of a thread block, in all kernels
constexpr unsigned kChunk = 4096;         // elements that a thread block updates
constexpr unsigned kInlineEntries = 8;    // more of them go to memory
constexpr unsigned kCollectThreads = 64;  // one for each lane of a chunk
constexpr unsigned kBlocksPerGroup = 16;  // blocks of a sum that one thread block takes
constexpr unsigned kUnitSlots = 16;       // units, or blocks of one, that a thread block measures
constexpr unsigned kMostColumns = 64;     // of a launch

// One parameter. Written once, when the optimizer is built; the accumulator when it is needed.
struct Leaf {
    void* parameter;
    void* state[kMaxStates];  // nullptr: unused
    void* accumulator;
    void* average;  // nullptr, or what updates write besides, as the next
    void* copy;
    unsigned long long copy_type;
    unsigned long long begin;  // in the index space
    unsigned long long size;   // elements
    unsigned long long type;   // 0 for float32, 1 for float64
    unsigned long long sums;   // of rules with sums over tensors: where those of its blocks begin
    void* unit_factors;        // of the parameter's type; of leaves with units, like the next
    Units units;
    unsigned long long units_together;  // that a thread block measures
};

// Elements kChunk * index to kChunk * (index + 1) of a leaf, as far as there are any.
struct Chunk {
    unsigned leaf;
    unsigned index;
};

// What the update of some leaves needs in one step. `kernel_case` is (((units * 2 + outputs) * 2 +
// type) * kTreatments + treatment) * kMaxVariants + variant; `outputs` is 1 for a model of which
// any leaf has an average or a copy, `units` where gradients are clipped unit by unit.
struct alignas(16) Entry {
    unsigned char scalars[kScalarBytes];  // Rule::Scalars<T>
    double divisor;                       // a number of type T, like the limit
    double limit;
    double sign;          // of the clipping factor: -1 to maximize
    double average_rate;  // rounded to T; 0: averages stay as they are
    double agc;           // 0: gradients are not clipped unit by unit
    double agc_eps;
    unsigned kernel_case;
    unsigned reserved[3];
};

// What is counted on the device where the host cannot know it: with nonfinite="skip", and when a
// captured step is replayed. The settings of update number `applied + 1` are in row `applied -
// base` of a table.
struct Progress {
    long long attempted;
    long long applied;
    long long base;
    long long rows;
};

// What the sum of squares leaves for the update that follows.
struct Outcome {
    double factor;           // of clipping, before the sign
    unsigned long long row;  // of the table
    unsigned long long applies;
};

// What the host may read, in memory of its own that the device writes; `number` comes last.
struct Report {
    double sum;        // of squares
    double grad_norm;  // of the gradients divided by their scale
    long long attempted;
    long long applied;
    unsigned long long applies;
    unsigned long long exhausted;  // the table has no row for this update, which is left out
    unsigned long long number;
};

// The elements of the index space that are updated: all, or a part of a step. The chunks are those
// that have some of them. With sums over tensors they are those of whole tensors.
struct UpdateLaunch {
    const Leaf* leaves;
    const Chunk* chunks;
    const Chunk* unit_chunks;      // an index is one of units_together units of the leaf
    const void* const* gradients;  // by leaf; nullptr: takes no part
    const unsigned* entry_of;      // by leaf; nullptr: entry 0 for all
    const Entry* table;            // rows of `entries` entries; nullptr: those below
    const Outcome* outcome;        // nullptr: applies, with a factor of 1 and row 0
    unsigned long long entries;
    double* sums;            // of rules with sums over tensors, like the next: of all blocks
    unsigned char* factors;  // kFactorBytes for each leaf
    unsigned long long first;
    unsigned long long last;
    unsigned long long first_leaf;  // whose sums the first thread block combines
    Entry entry[kInlineEntries];
};

// Concludes a step before its update: counts it, and tells whether and how it applies.
struct Conclusion {
    double sum;  // of squares that come from elsewhere, multiplied by `scale` before
    double scale;
    double grad_scale;
    double clip_norm;          // NaN: no clipping
    const double* clip_norms;  // by row; nullptr: the one above
    unsigned long long has_sum;
    unsigned long long skips;   // what is not finite
    unsigned long long number;  // of the report
    Progress* progress;         // nullptr: the host counts
    Outcome* outcome;           // nullptr, as the next: nobody reads it
    Report* report;
};

// The sum of squares of all gradients, and on the way, where there is a weight, the accumulators
// become or grow by weight * gradient. A plain sum that has left the range of double is taken once
// more, of scaled gradients, by a second launch, which does nothing otherwise.
struct SumLaunch {
    const Leaf* leaves;
    const void* const* gradients;
    const unsigned char* holds;  // by leaf, whether its accumulator holds something
    unsigned long long leaf_count;
    unsigned long long total;  // elements of the index space
    double weight;             // 0: nothing is accumulated
    double* partial;           // room for the sums of all levels
    unsigned* arrived;         // one counter for each group of all levels, 0 before and after
    const double* plain_sum;   // nullptr, or the sum that this one is to stand in for
    double* sum;               // nullptr, or where the sum goes
    double* weighted_sum;      // nullptr, or what grows by weight * sum
    unsigned long long concludes;
    unsigned long long is_followed;  // by another that concludes where this one is out of range
    Conclusion conclusion;
};

// An array: rows `stride` bytes apart become rows side by side.
struct GatherColumn {
    const char* source;
    long long stride;
    char* target;
    unsigned long long units;  // of a row, not 0
    unsigned width;            // of a unit: in bytes, or in elements that are converted
    int element;               // of Element; -1: copied as they are
    float scale;               // otherwise scale * float32(x) + shift
    float shift;
};

// Row i of every target becomes row places[i] of its source.
struct GatherLaunch {
    const unsigned long long* places;  // nullptr: begin, begin + 1, ...
    unsigned long long begin;
    unsigned long long rows;
    GatherColumn columns[kMostColumns];
};

// places[i] = permuted(feistel, begin + i)
struct PlacesLaunch {
    Feistel feistel;
    unsigned long long begin;
    unsigned long long rows;
    unsigned long long* places;
};

static_assert(sizeof(UpdateLaunch) <= 4096 && sizeof(SumLaunch) <= 4096 &&
                  sizeof(GatherLaunch) <= 4096,
              "a kernel takes so many bytes by value");

}  // namespace device
}  // namespace fusestep
