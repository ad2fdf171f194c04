// The plan of a model: all arrays of all parameters, laid end to end in one index space that is cut
// into blocks. Built once; a step allocates nothing.
//
// A step goes through phases, each with one thread team:
// - measure: what the gradients tell, if something asks for it: their norm, whether all are finite;
// - prepare: counts, and scalars for the update;
// - measure_units: of groups that clip gradients unit by unit, the factors of the units;
// - update: one pass over the blocks. With sums, two over each tensor, the second of which finds a
//   small tensor in the cache;
// - update_rows: of parameters whose gradient holds some rows alone, those rows.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "registry.h"
#include "touched_rows.h"
#include "units.h"

namespace fusestep {

// One parameter with its state.
struct Leaf {
    void* parameter = nullptr;
    void* state[kMaxStates] = {};
    std::size_t size = 0;  // elements
    DataType type = kFloat32;
    int group = 0;
    const void* gradient = nullptr;  // nullptr: the parameter takes no part, or:
    int prepared = 0;                // which of the plan's scalars this step uses
    bool has_rows = false;           // the gradient holds some rows alone, and the above is nullptr

    bool takes_part() const { return gradient != nullptr || has_rows; }
};

// What an update of a parameter writes besides it and the rule's state.
struct Output {
    void* average = nullptr;
    void* copy = nullptr;
    DataType copy_type = kFloat32;
};

// The weighted sum of one parameter's gradients, and whether it holds any.
struct Accumulator {
    void* data = nullptr;
    bool holds = false;
    bool takes_rows = false;
    bool is_zero = false;  // all of the memory, but for the rows below
    bool has_rows = false;
    std::vector<std::uint32_t>
        rows;  // ascending: what it holds of the parameter, where it has rows
};

// A sum of squares; each term was multiplied by `scale` before it was squared.
struct SquaredNorm {
    double sum = 0.0;
    double scale = 1.0;
};

enum class NonFinite { kPropagate, kSkip, kRaise };

struct StepOptions {
    double grad_scale = 1.0;  // gradients are divided by this first
    bool clip_by_norm = false;
    double clip_norm = 0.0;
    double clip_value = kUnbounded;
    NonFinite nonfinite = NonFinite::kPropagate;
    bool take_norm = false;                   // even if nothing above asks for it
    std::optional<SquaredNorm> squared_norm;  // of gradients that are not all here
    bool scales_later = false;  // the clipping factor is not known when scalars are prepared
};

constexpr std::ptrdiff_t kPrepared = -1;

struct StepResult {
    bool applied = true;
    bool finite = true;  // whether all gradients are; meaningful where the norm was taken
    std::ptrdiff_t unprepared = kPrepared;  // as prepare() returns; nothing was written then
    bool has_norm = false;
    double grad_norm = 0.0;  // of the gradients divided by grad_scale, before clipping
    double factor = 1.0;     // of clipping
};

class Plan {
 public:
    // A group is a row of `settings`: the rule's columns, then the common ones. The table belongs
    // to the caller, who may change values between steps.
    // Outputs are one for each leaf, or none, and so are units.
    Plan(const RuleEntry& rule, std::vector<Leaf> leaves, int groups, const double* settings,
         std::vector<Output> outputs = {}, std::vector<Units> units = {});
    ~Plan();

    const RuleEntry& rule() const { return rule_; }
    const std::vector<Leaf>& leaves() const { return leaves_; }
    const std::vector<Output>& outputs() const { return outputs_; }
    const std::vector<Units>& units() const { return units_; }
    // Whether a group's gradients are clipped unit by unit.
    bool clips_units(int group) const { return common(kAgc, group) != 0.0; }
    // A leaf's array of state, counted as the rule's all_states(); nullptr: it has none.
    void* state_of(std::size_t leaf, int k) const {
        if (k < rule_.states) return leaves_[leaf].state[k];
        return outputs_.empty() ? nullptr : outputs_[leaf].average;
    }
    // How many times each parameter was updated.
    std::vector<std::int64_t>& updates() { return updates_; }
    const std::vector<std::int64_t>& updates() const { return updates_; }
    // What the last update of each parameter has left for the next one: the rule's values.
    std::vector<double>& values() { return values_; }
    const std::vector<double>& values() const { return values_; }

    // Leaves are read by all threads: writing one only where it changes keeps it in every core's
    // cache.
    void set_gradient(std::size_t leaf, const void* gradient) {
        if (leaves_[leaf].gradient != gradient) leaves_[leaf].gradient = gradient;
    }

    // Rows.
    //
    // A row that a gradient does not hold misses an update with a gradient of 0. With lazy="exact"
    // what such an update used is logged, and the row catches up before it is next updated, or when
    // it is asked for; a full log makes all rows catch up. With "skip" it never does.

    // Makes some of the leaf's `rows` its gradient. Returns how many of the numbers are among them,
    // from the first on: the leaf has none if that is not all. Nothing, or std::bad_alloc, where
    // there is no memory. No parameter has changed.
    [[nodiscard]] std::optional<std::size_t> set_rows(std::size_t leaf, std::size_t rows,
                                                      const RowNumbers& numbers,
                                                      const void* values);
    // Leaves have no rows until they are set again.
    void forget_rows() noexcept;
    bool has_rows() const { return !with_rows_.empty(); }
    // Whether any row may have missed an update.
    bool is_behind() const;
    // How many updates a log holds. Setting it has all rows catch up.
    std::size_t history() const { return history_; }
    [[nodiscard]] bool set_history(std::size_t updates) noexcept;
    // Has some of the leaf's `rows` catch up; returns as above, and none does if it is not all.
    std::size_t fetch(std::size_t leaf, std::size_t rows, const RowNumbers& numbers);
    // Has all rows of all leaves catch up.
    void flush() noexcept;

    void set_parameter(std::size_t leaf, void* data) { leaves_[leaf].parameter = data; }

    const double* hyper(int group) const {
        return settings_ + group * (rule_.columns + kCommonColumns);
    }
    double lr() const { return hyper(0)[rule_.lr]; }  // of the first group
    // A setting of the whole model, or of one group.
    double common(CommonColumn column, int group = 0) const {
        return hyper(group)[rule_.columns + column];
    }

    // Elements of the index space.
    std::size_t size() const { return total_; }
    // Whether so many are enough for more than one thread.
    static bool is_large(std::size_t elements);
    bool is_large() const { return is_large(total_); }

    // Updates every leaf that has a gradient, or none.
    StepResult step(const StepOptions& options) noexcept;
    // Its first phase; the others follow if the result says applied.
    StepResult measure(const StepOptions& options) noexcept;
    void apply(const StepOptions& options, StepResult& result) noexcept;

    // One for each leaf, or none before the first use: memory of the leaf's size and type.
    std::vector<Accumulator>& accumulators() { return accumulators_; }
    const std::vector<Accumulator>& accumulators() const { return accumulators_; }

    // Adds weight * gradient to the accumulators of all leaves that have a gradient, and returns
    // the plain sum of squares of the gradients: one pass over the memory.
    double accumulate(double weight);
    void forget_accumulated() noexcept;

    // Makes what the accumulators hold the gradients of the next step.
    void use_accumulated();

    // Whether any parameter is of that type.
    bool has(DataType type) const { return has_[type]; }

    // "NaN" or "infinity" if the gradient of the leaf holds one, else nullptr.
    static const char* nonfinite_in(const Leaf& leaf);
    const char* nonfinite_in_rows(std::size_t leaf) const;

    // What the update of some leaves needs, shared by those of one group, type and update number.
    struct Prepared {
        alignas(64) unsigned char scalars[kScalarBytes];
        Update update;
        Collect collect;      // nullptr: one pass, without sums
        double average_rate;  // rounded to the type; 0: averages stay as they are
        const void* gradient_scalars;
        std::int64_t update_number;
        std::size_t leaf;  // the first of them
        DataType type;
        Treatment treatment;  // of the gradient as it is passed
        unsigned variant;
        bool clips_units;  // after the treatment; the kernels above then read what comes of both
        double agc;
        double agc_eps;
    };
    // The second phase: counts an update of every leaf that has a gradient and prepares for it;
    // `factor` is that of clipping. Returns kPrepared, or, with nothing counted, a leaf for whose
    // type a scalar is too large, or which has rows where its update needs the whole tensor.
    std::ptrdiff_t prepare(const StepOptions& options, double factor) noexcept;
    const std::vector<Prepared>& prepared() const { return prepared_; }
    // Whether the leaf's update takes all of the tensor: for a sum over it, or for norms of units.
    bool needs_whole(std::size_t leaf) const {
        const Prepared& entry = prepared_for(leaf);
        return entry.collect != nullptr || entry.clips_units;
    }
    // Whether any of them has sums over tensors.
    bool collects() const { return collects_; }
    // Counts as before the last prepare().
    void take_back_prepared() noexcept;

    // The third phase, for elements first to last of the index space: multiples of kBlock, or the
    // end. All ranges together, in order and without gaps, have the bits of one for all. With
    // sums, a tensor is updated with the range that its last element is in.
    void update(std::size_t first, std::size_t last) noexcept;

 private:
    static const char* nonfinite_name(double sum);
    struct Range;
    struct LeafRows;
    struct Logged;
    // A row, and how many of the logged updates it has seen.
    struct Stale {
        std::uint32_t row;
        std::uint32_t seen;
    };

    // What an update of some elements used.
    struct Used {
        const void* scalars;
        const void* gradient_scalars;
        Update update;
        double average_rate;
    };

    LeafRows* find_rows(std::size_t leaf) const;
    std::vector<std::unique_ptr<LeafRows>>::const_iterator place_of_rows(std::size_t leaf) const;
    void begin_rows() noexcept;
    void update_rows() noexcept;
    void update_touched(LeafRows& rows) noexcept;
    void update_touched(LeafRows& rows, std::size_t begin, std::size_t end) const;
    void update_used(const Used& used, std::size_t i, std::size_t first, std::size_t count,
                     const void* gradient) const;
    Rest rest_of(std::size_t i) const;
    void catch_up(const LeafRows& rows, std::size_t row, std::size_t count, std::size_t seen,
                  std::size_t logged) const;
    void catch_up_all(LeafRows& rows) noexcept;
    void prefetch_row(const LeafRows& rows, std::size_t row) const;
    bool is_without_state(std::size_t i, std::size_t first, std::size_t count) const;
    template <class Visit>
    void for_spans(std::size_t first, std::size_t last, Visit visit) const;
    template <class Visit>
    void for_turns(std::size_t count, std::size_t work, Visit visit) const;
    void list_blocks() noexcept;
    void make_room_for_sums();
    // With a weight, what is dense is accumulated on the way.
    double sum_of_squares_with_rows(double scale, const double* weight = nullptr) noexcept;
    double block_sum_with_rows(std::size_t block, double scale, const double* weight) const;
    void accumulate_piece(std::size_t i, std::size_t first, std::size_t count, double weight) const;
    void merge_accumulated();
    void accumulate_rows(std::size_t i, double weight) noexcept;
    void use_accumulated_rows(std::size_t i);

    void list_unit_pieces();
    void measure_units() noexcept;
    double sum_of_squares(double scale) noexcept;
    GradientNorm norm(double grad_scale) noexcept;
    template <class Visit>
    double block_sum_of_squares(std::size_t block, double scale, Visit visit) const;
    bool have_same_values(std::size_t i, std::size_t j) const;
    void update_elements(std::size_t first, std::size_t last) noexcept;
    void update_tensors(std::size_t first, std::size_t last) noexcept;
    void list_tensors(std::size_t first, std::size_t last);
    void update_piece(std::size_t i, std::size_t first, std::size_t count,
                      const void* factors) const;
    bool collects(std::size_t i) const;
    void update_outputs(std::size_t i, std::size_t first, std::size_t count,
                        const void* factors) const;
    void write_outputs(std::size_t i, std::size_t first, std::size_t count,
                       double average_rate) const;
    void update_run(std::size_t i, std::size_t first, std::size_t count, const void* gradient,
                    const void* factors) const;
    template <class Visit>
    void for_clipped(std::size_t i, std::size_t first, std::size_t count, Visit visit) const;
    const void* gradient_of(std::size_t i, std::size_t first) const;
    const Prepared& prepared_for(std::size_t i) const {
        return prepared_[static_cast<std::size_t>(leaves_[i].prepared)];
    }
    void collect_piece(std::size_t i, std::size_t first, std::size_t count);
    void conclude(std::size_t i);
    Range block_range(std::size_t begin, std::size_t end) const;
    template <class Visit>
    void walk(Range range, Visit visit) const;
    template <class Visit>
    void for_chunks(std::size_t begin, std::size_t end, Visit visit) const;

    // A run of small tensors, or a piece of a large one.
    struct Run {
        std::size_t first;
        std::size_t last;
        std::size_t elements;
    };
    struct Piece {
        std::size_t leaf;
        std::size_t first;
        std::size_t count;
    };
    struct Factors {
        alignas(16) unsigned char bytes[kFactorBytes];
    };

    // What a group does to its gradients: the sign of the factor differs between groups.
    struct GroupTreatment {
        Treatment treatment;
        GradientScalars<float> float32;
        GradientScalars<double> float64;
        int latest[kDataTypes];  // the group's latest entry in prepared_, or -1
    };

    const RuleEntry& rule_;
    std::vector<Leaf> leaves_;
    std::vector<Output> outputs_;
    std::vector<std::size_t> begins_;  // of each leaf in the index space
    std::size_t total_ = 0;
    bool has_[kDataTypes] = {};
    const double* settings_;
    Powers powers_;
    std::vector<GroupTreatment> groups_;
    std::vector<Prepared> prepared_;
    bool collects_ = false;
    std::vector<std::int64_t> updates_;
    std::vector<double> values_;
    std::vector<double> next_values_;  // while a step is prepared
    std::vector<double> partial_sums_;
    std::vector<Accumulator> accumulators_;
    // of leaves with units
    std::vector<Units> units_;
    std::vector<std::size_t> unit_factors_begin_;  // of each leaf in the next: bytes
    std::vector<unsigned char> unit_factors_;
    std::vector<Piece> unit_pieces_;  // counted in units
    // of rules with sums
    std::vector<std::size_t> sums_begin_;  // of each leaf in the next
    std::vector<double> sums_;             // of each block, for one sum after the other
    std::vector<Factors> factors_;         // of each leaf
    std::vector<Run> small_;
    std::vector<Piece> large_;
    // of parameters that were given rows
    std::vector<std::unique_ptr<LeafRows>> leaf_rows_;  // in the order of leaves
    std::size_t history_ = 1;
    std::vector<std::size_t> with_rows_;  // leaves whose gradient holds some rows
    std::vector<Stale> stale_;            // rows that are fetched
    struct BlockSum {
        std::size_t block;
        double sum;
    };
    std::vector<BlockSum> block_sums_;
};

}  // namespace fusestep
