// The plan of a model: all arrays of all parameters, laid end to end in one index space that is cut
// into blocks. One step walks the blocks with one thread team. Built once; a step allocates
// nothing.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "registry.h"

namespace fusestep {

// One parameter with its state.
struct Leaf {
    void* parameter = nullptr;
    void* state[kMaxStates] = {};
    std::size_t size = 0;  // elements
    DataType type = kFloat32;
    int group = 0;
    const void* gradient = nullptr;  // nullptr: the parameter takes no part in this step
    int prepared = 0;                // which of the plan's scalars this step uses
};

// The weighted sum of one parameter's gradients, and whether it holds any.
struct Accumulator {
    void* data = nullptr;
    bool holds = false;
};

enum class NonFinite { kPropagate, kSkip, kRaise };

struct StepOptions {
    double grad_scale = 1.0;  // gradients are divided by this first
    bool clip_by_norm = false;
    double clip_norm = 0.0;
    double clip_value = kUnbounded;
    NonFinite nonfinite = NonFinite::kPropagate;
    bool take_norm = false;     // even if nothing above asks for it
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
    Plan(const RuleEntry& rule, std::vector<Leaf> leaves, int groups, const double* settings);

    const RuleEntry& rule() const { return rule_; }
    const std::vector<Leaf>& leaves() const { return leaves_; }
    // How many times each parameter was updated.
    std::vector<std::int64_t>& updates() { return updates_; }
    const std::vector<std::int64_t>& updates() const { return updates_; }

    // Leaves are read by all threads: writing one only where it changes keeps it in every core's
    // cache.
    void set_gradient(std::size_t leaf, const void* gradient) {
        if (leaves_[leaf].gradient != gradient) leaves_[leaf].gradient = gradient;
    }

    void set_parameter(std::size_t leaf, void* data) { leaves_[leaf].parameter = data; }

    const double* hyper(int group) const {
        return settings_ + group * (rule_.columns + kCommonColumns);
    }
    // A setting of the whole model, or of one group.
    double common(CommonColumn column, int group = 0) const {
        return hyper(group)[rule_.columns + column];
    }

    // Whether a step is large enough for more than one thread.
    bool is_large() const;

    // Updates every leaf that has a gradient, or none.
    StepResult step(const StepOptions& options) noexcept;
    // Its two halves: what the gradients tell, and, if the result says applied, the update.
    StepResult measure(const StepOptions& options) noexcept;
    void apply(const StepOptions& options, StepResult& result) noexcept;

    // One for each leaf, or none before the first use: memory of the leaf's size and type.
    std::vector<Accumulator>& accumulators() { return accumulators_; }
    const std::vector<Accumulator>& accumulators() const { return accumulators_; }

    // Adds weight * gradient to the accumulators of all leaves that have a gradient, and returns
    // the plain sum of squares of the gradients: one pass over the memory.
    double accumulate(double weight) noexcept;

    // Makes what the accumulators hold the gradients of the next step.
    void use_accumulated() noexcept;

    // Whether any parameter is of that type.
    bool has(DataType type) const { return has_[type]; }

    // "NaN" or "infinity" if the gradient of the leaf holds one, else nullptr.
    static const char* nonfinite_in(const Leaf& leaf);

    // What the update of some leaves needs, shared by those of one group, type and update number.
    struct Prepared {
        alignas(64) unsigned char scalars[kScalarBytes];
        Update update;
        const void* gradient_scalars;
        std::int64_t update_number;
        DataType type;
        Treatment treatment;
        unsigned variant;
    };
    // Counts an update of every leaf that has a gradient and prepares for it; `factor` is that of
    // clipping. Returns kPrepared, or, with nothing counted, a leaf for whose type a scalar is too
    // large.
    std::ptrdiff_t prepare(const StepOptions& options, double factor) noexcept;
    const std::vector<Prepared>& prepared() const { return prepared_; }

 private:
    struct Range;

    double sum_of_squares(double scale) noexcept;
    GradientNorm norm(double grad_scale) noexcept;
    template <class Visit>
    double block_sum_of_squares(std::size_t block, double scale, Visit visit) const;
    double add_partial_sums() noexcept;
    void update() noexcept;
    void update_piece(const Leaf& leaf, std::size_t first, std::size_t count) const;
    Range block_range(std::size_t begin, std::size_t end) const;
    template <class Visit>
    void walk(Range range, Visit visit) const;
    template <class Visit>
    void for_chunks(Visit visit) const;

    // What a group does to its gradients: the sign of the factor differs between groups.
    struct GroupTreatment {
        Treatment treatment;
        GradientScalars<float> float32;
        GradientScalars<double> float64;
        int latest[kDataTypes];  // the group's latest entry in prepared_, or -1
    };

    const RuleEntry& rule_;
    std::vector<Leaf> leaves_;
    std::vector<std::size_t> begins_;  // of each leaf in the index space
    std::size_t total_ = 0;
    bool has_[kDataTypes] = {};
    const double* settings_;
    Powers powers_;
    std::vector<GroupTreatment> groups_;
    std::vector<Prepared> prepared_;
    std::vector<std::int64_t> updates_;
    std::vector<double> partial_sums_;
    std::vector<Accumulator> accumulators_;
};

}  // namespace fusestep
