// The seam between kernels and runtime: plain tables of function pointers, one per instruction set.
#pragma once
#include <stddef.h>

#include "../portable/average.h"
#include "../portable/convert.h"
#include "../portable/sums.h"
#include "../portable/units.h"
#include "../rules/all.h"
#include "exactness.h"

#if defined(_MSC_VER)
#define FUSESTEP_PREFETCH(address) static_cast<void>(0)
#else
#define FUSESTEP_PREFETCH(address) __builtin_prefetch(address)
#endif

namespace fusestep {

enum DataType : int { kFloat32, kFloat64, kDataTypes };

constexpr size_t item_size(DataType type) {
    return type == kFloat32 ? sizeof(float) : sizeof(double);
}

// Updates n elements. scalars points to Rule::Scalars<T>, gradient_scalars to GradientScalars<T>;
// factors, of variants with sums, to Rule::Factors<T>.
using Update = void (*)(const void* scalars, const void* gradient_scalars, size_t n,
                        void* parameter, const void* gradient, void* const* state,
                        const void* factors);

// The first pass of variants with sums, over n elements from the beginning of a block on. Sum j of
// the terms of block b goes to sums[j * stride + b].
using Collect = void (*)(const void* scalars, const void* gradient_scalars, size_t n,
                         const void* parameter, const void* gradient, void* const* state,
                         size_t stride, double* sums);

// Sums squares of n elements in double into kLanes lanes; element i goes to lane (lane + i) %
// kLanes. The scaled kind multiplies by `scale` first.
using SumSquares = void (*)(size_t n, const void* x, double scale, size_t lane, double* lanes);

enum SumVariant : int { kPlain, kScaledSum, kSumVariants };

// Columns that are summed at once: many, so that memory is read in long pieces, but so few that the
// first cache holds their lanes.
constexpr size_t kColumns = 128;

// The sums of squares of some columns (kColumns at most) of a block of rows, each row `stride`
// elements behind the one before, of what treat() makes of the elements; row i is of lane
// i % kLanes. `lanes` are kLanes * kColumns zeros, which change.
using SumColumns = void (*)(const void* gradient_scalars, size_t rows, size_t columns,
                            size_t stride, const void* x, double* lanes, double* sums);

// target = treat(gradient) times the factor of the unit that the element belongs to, for n elements
// from the first on, to which `gradient` points.
using ClipUnits = void (*)(const void* gradient_scalars, const Units& units, size_t first, size_t n,
                           const void* gradient, const void* factors, void* target);

// accumulator = weight * gradient where it is the first one, else accumulator + weight * gradient.
using Accumulate = void (*)(size_t n, double weight, const void* gradient, void* accumulator);

enum AccumulateVariant : int { kAddTo, kBegin, kAccumulateVariants };

// average = averaged(average, parameter, rate).
using Average = void (*)(size_t n, double rate, const void* parameter, void* average);

// copy = parameter, rounded to the type of the copy.
using RoundTo = void (*)(size_t n, const void* parameter, void* copy);

// target = converted(source, scale, shift), for n elements.
using Convert = void (*)(size_t n, const void* source, float scale, float shift, float* target);

// Whether this object computes as written.
using IsExact = bool (*)(const Operands<float>&, const Operands<double>&);

struct KernelTable {
    IsExact is_exact;
    Update update[kRules][kDataTypes][kMaxVariants][kTreatments];
    Collect collect[kRules][kDataTypes][kMaxVariants][kTreatments];
    SumSquares sum_squares[kDataTypes][kSumVariants];
    SumColumns sum_columns[kDataTypes][kTreatments];
    ClipUnits clip_units[kDataTypes][kTreatments];
    Accumulate accumulate[kDataTypes][kAccumulateVariants];
    Average average[kDataTypes];
    RoundTo round_to[kDataTypes][kDataTypes];  // from, to: not the same
    Convert convert[kElements];
};

}  // namespace fusestep
