#include "plan.h"

#include <algorithm>
#include <cmath>

#include "float_environment.h"
#include "isa.h"
#include "leaf_rows.h"
#include "walks.h"

namespace fusestep {
namespace {

double rounded(DataType type, double x) {
    return type == kFloat32 ? static_cast<double>(static_cast<float>(x)) : x;
}

template <class T>
GradientScalars<T> gradient_scalars(const StepOptions& options, double factor) {
    const double largest = sizeof(T) == sizeof(float) ? 3.402823466385288598e38 : kUnbounded;
    GradientScalars<T> scalars;
    scalars.divisor = static_cast<T>(options.grad_scale);
    scalars.limit = static_cast<T>(options.clip_value < largest ? options.clip_value : HUGE_VAL);
    set_factor(scalars, factor);
    return scalars;
}

}  // namespace

Plan::Plan(const RuleEntry& rule, std::vector<Leaf> leaves, int groups, const double* settings,
           std::vector<Output> outputs, std::vector<Units> units)
    : rule_(rule),
      leaves_(std::move(leaves)),
      outputs_(std::move(outputs)),
      settings_(settings),
      groups_(static_cast<std::size_t>(groups)),
      units_(std::move(units)) {
    begins_.reserve(leaves_.size());
    for (const Leaf& leaf : leaves_) {
        begins_.push_back(total_);
        total_ += leaf.size;
        has_[leaf.type] = true;
    }
    prepared_.reserve(leaves_.size());
    updates_.resize(leaves_.size());
    for (std::size_t i = 0; i < leaves_.size(); ++i) {
        for (int k = 0; k < rule_.values; ++k) values_.push_back(rule_.value[k].initial);
    }
    next_values_ = values_;
    partial_sums_.resize(divide_up(total_, kBlock));
    if (!units_.empty()) list_unit_pieces();
    if (rule_.sums == 0) return;
    std::size_t sums = 0;
    for (const Leaf& leaf : leaves_) {
        sums_begin_.push_back(sums);
        sums += divide_up(leaf.size, kBlock) * static_cast<std::size_t>(rule_.sums);
    }
    sums_.resize(sums);
    factors_.resize(leaves_.size());
    small_.reserve(leaves_.size());
    large_.reserve(leaves_.size() + total_ / (kSmallestChunk * kBlock));
}

// As many whole units as are worth a thread's turn.
void Plan::list_unit_pieces() {
    std::size_t bytes = 0;
    for (std::size_t i = 0; i < units_.size(); ++i) {
        unit_factors_begin_.push_back(bytes);
        const auto count = static_cast<std::size_t>(units_[i].count);
        bytes += count * sizeof(double);
        if (count == 0 || leaves_[i].size == 0) continue;
        const std::size_t worth =
            kParallelElements / static_cast<std::size_t>(unit_size(units_[i]));
        const std::size_t turn = units_[i].inner == 1 ? divide_up(worth + 1, kColumns) * kColumns
                                                      : std::max<std::size_t>(1, worth);
        for (std::size_t first = 0; first < count; first += turn) {
            unit_pieces_.push_back({i, first, std::min(turn, count - first)});
        }
    }
    unit_factors_.resize(bytes);
}

Plan::~Plan() = default;

bool Plan::is_large(std::size_t elements) { return elements >= kParallelElements; }

// Calls visit(leaf index, first element, elements) for each piece it has summed, which the cache
// still holds then.
template <class Visit>
double Plan::block_sum_of_squares(std::size_t block, double scale, Visit visit) const {
    const KernelTable& kernels = active_kernels();
    const SumVariant variant = scale == 1.0 ? kPlain : kScaledSum;
    const Range range = block_range(block, block + 1);
    double lanes[kLanes] = {};
    walk(range, [&](std::size_t i, std::size_t first, std::size_t count) {
        const Leaf& leaf = leaves_[i];
        const char* data = static_cast<const char*>(leaf.gradient) + first * item_size(leaf.type);
        kernels.sum_squares[leaf.type][variant](count, data, scale, (begins_[i] + first) % kLanes,
                                                lanes);
        visit(i, first, count);
    });
    return add_lanes(lanes);
}

double Plan::sum_of_squares(double scale) noexcept {
    if (has_rows()) return sum_of_squares_with_rows(scale);
    for_chunks(0, partial_sums_.size(), [&](std::size_t begin, std::size_t end) {
        for (std::size_t i = begin; i < end; ++i) {
            partial_sums_[i] =
                block_sum_of_squares(i, scale, [](std::size_t, std::size_t, std::size_t) {});
        }
    });
    return add_sums(partial_sums_.data(), partial_sums_.size());
}

GradientNorm Plan::norm(double grad_scale) noexcept {
    double sum = sum_of_squares(1.0);
    // squares of float32 stay far inside the range of double
    const double scale = has_[kFloat64] ? scale_for(sum) : 1.0;
    if (scale != 1.0) sum = sum_of_squares(scale);
    return norm_of_sum(sum, scale, grad_scale);
}

void Plan::accumulate_piece(std::size_t i, std::size_t first, std::size_t count,
                            double weight) const {
    const Leaf& leaf = leaves_[i];
    const Accumulator& sum = accumulators_[i];
    const std::size_t bytes = first * item_size(leaf.type);
    active_kernels().accumulate[leaf.type][sum.holds ? kAddTo : kBegin](
        count, weight, static_cast<const char*>(leaf.gradient) + bytes, advance(sum.data, bytes));
}

double Plan::accumulate(double weight) {
    FloatEnvironment environment;
    const auto add = [&](std::size_t i, std::size_t first, std::size_t count) {
        accumulate_piece(i, first, count, weight);
    };
    double sum = 0.0;
    if (has_rows()) {
        merge_accumulated();
        sum = sum_of_squares_with_rows(1.0, &weight);
    } else {
        for_chunks(0, partial_sums_.size(), [&](std::size_t begin, std::size_t end) {
            for (std::size_t i = begin; i < end; ++i) {
                partial_sums_[i] = block_sum_of_squares(i, 1.0, add);
            }
        });
        sum = add_sums(partial_sums_.data(), partial_sums_.size());
    }
    for (std::size_t i = 0; i < leaves_.size(); ++i) {
        if (leaves_[i].has_rows) accumulate_rows(i, weight);
        if (leaves_[i].gradient == nullptr) continue;
        accumulators_[i].holds = true;
        accumulators_[i].is_zero = accumulators_[i].has_rows = false;
        accumulators_[i].rows.clear();
    }
    return sum;
}

void Plan::use_accumulated() {
    forget_rows();
    for (std::size_t i = 0; i < leaves_.size(); ++i) {
        const bool holds = i < accumulators_.size() && accumulators_[i].holds;
        const bool has_rows = holds && accumulators_[i].has_rows && !clips_units(leaves_[i].group);
        set_gradient(i, holds && !has_rows ? accumulators_[i].data : nullptr);
        if (has_rows) use_accumulated_rows(i);
    }
    if (has_rows()) make_room_for_sums();
}

std::ptrdiff_t Plan::prepare(const StepOptions& options, double factor) noexcept {
    const bool clamps = options.clip_value < kUnbounded;
    for (std::size_t g = 0; g < groups_.size(); ++g) {
        GroupTreatment& group = groups_[g];
        const bool maximize = common(kMaximize, static_cast<int>(g)) != 0.0;
        const double signed_factor = maximize ? -factor : factor;
        group.treatment = kAsIs;
        if (clamps || signed_factor != 1.0 || options.scales_later) group.treatment = kScaled;
        if (options.grad_scale != 1.0) group.treatment = kDivided;
        group.float32 = gradient_scalars<float>(options, signed_factor);
        group.float64 = gradient_scalars<double>(options, signed_factor);
        group.latest[kFloat32] = group.latest[kFloat64] = -1;
    }
    prepared_.clear();
    collects_ = false;
    const auto give_up = [&](std::size_t i) {
        for (std::size_t k = 0; k <= i; ++k) {
            if (leaves_[k].takes_part()) --updates_[k];
        }
        return static_cast<std::ptrdiff_t>(i);
    };
    const std::size_t values = static_cast<std::size_t>(rule_.values);
    if (values > 0) next_values_ = values_;
    const KernelTable& kernels = active_kernels();
    for (std::size_t i = 0; i < leaves_.size(); ++i) {
        Leaf& leaf = leaves_[i];
        if (!leaf.takes_part()) continue;
        const std::int64_t update_number = ++updates_[i];
        GroupTreatment& group = groups_[static_cast<std::size_t>(leaf.group)];
        int& latest = group.latest[leaf.type];
        const Prepared* const shared =
            latest < 0 ? nullptr : &prepared_[static_cast<std::size_t>(latest)];
        if (shared != nullptr && shared->update_number == update_number &&
            (values == 0 || have_same_values(shared->leaf, i))) {
            const auto from = next_values_.begin();
            if (values > 0) std::copy_n(from + shared->leaf * values, values, from + i * values);
        } else {
            latest = static_cast<int>(prepared_.size());
            prepared_.emplace_back();
            Prepared& entry = prepared_.back();
            entry.type = leaf.type;
            entry.treatment = group.treatment;
            entry.leaf = i;
            const int variant =
                rule_.prepare[leaf.type](hyper(leaf.group), update_number, powers_,
                                         next_values_.data() + i * values, entry.scalars);
            if (variant < 0) return give_up(i);
            entry.variant = static_cast<unsigned>(variant);
            entry.clips_units = clips_units(leaf.group);
            entry.agc = common(kAgc, leaf.group);
            entry.agc_eps = common(kAgcEps, leaf.group);
            const Treatment rest = entry.clips_units ? kAsIs : group.treatment;
            entry.update = kernels.update[rule_.index][leaf.type][entry.variant][rest];
            entry.collect = kernels.collect[rule_.index][leaf.type][entry.variant][rest];
            if (entry.collect != nullptr) collects_ = true;
            const bool averages = common(kAverages, leaf.group) != 0.0;
            entry.average_rate = 0.0;
            if (averages) {
                entry.average_rate = rounded(
                    leaf.type,
                    average_rate(common(kEma, leaf.group), common(kEmaEvery), update_number));
            }
            entry.gradient_scalars = leaf.type == kFloat32
                                         ? static_cast<const void*>(&group.float32)
                                         : static_cast<const void*>(&group.float64);
            entry.update_number = update_number;
        }
        if (leaf.prepared != latest) leaf.prepared = latest;
        if (leaf.has_rows && needs_whole(i)) return give_up(i);
    }
    values_.swap(next_values_);
    return kPrepared;
}

void Plan::take_back_prepared() noexcept {
    for (std::size_t i = 0; i < leaves_.size(); ++i) {
        if (leaves_[i].takes_part()) --updates_[i];
    }
    values_.swap(next_values_);
}

// Whether the last updates of two leaves have left the same for the next one.
bool Plan::have_same_values(std::size_t i, std::size_t j) const {
    const std::size_t values = static_cast<std::size_t>(rule_.values);
    const double* const first = values_.data() + i * values;
    return std::equal(first, first + values, values_.data() + j * values);
}

StepResult Plan::measure(const StepOptions& options) noexcept {
    FloatEnvironment environment;
    StepResult result;
    if (options.take_norm || options.clip_by_norm || options.squared_norm ||
        options.nonfinite != NonFinite::kPropagate) {
        const GradientNorm norm = options.squared_norm
                                      ? norm_of_sum(options.squared_norm->sum,
                                                    options.squared_norm->scale, options.grad_scale)
                                      : this->norm(options.grad_scale);
        result.has_norm = true;
        result.grad_norm = norm.value;
        result.finite = std::isfinite(norm.scaled);
        if (!result.finite && options.nonfinite != NonFinite::kPropagate) {
            result.applied = false;
            return result;
        }
        if (options.clip_by_norm) result.factor = clip_factor(options.clip_norm, norm);
    }
    return result;
}

void Plan::apply(const StepOptions& options, StepResult& result) noexcept {
    FloatEnvironment environment;
    result.unprepared = prepare(options, result.factor);
    if (result.unprepared != kPrepared) {
        result.applied = false;
        return;
    }
    if (!leaf_rows_.empty()) begin_rows();
    if (!units_.empty()) measure_units();
    update(0, total_);
    if (has_rows()) update_rows();
}

StepResult Plan::step(const StepOptions& options) noexcept {
    StepResult result = measure(options);
    if (result.applied) apply(options, result);
    return result;
}

const char* Plan::nonfinite_in(const Leaf& leaf) {
    FloatEnvironment environment;
    double lanes[kLanes] = {};
    active_kernels().sum_squares[leaf.type][kScaledSum](leaf.size, leaf.gradient,
                                                        scale_for(HUGE_VAL), 0, lanes);
    return nonfinite_name(add_lanes(lanes));
}

const char* Plan::nonfinite_name(double sum) {
    return std::isnan(sum) ? "NaN" : std::isinf(sum) ? "infinity" : nullptr;
}

}  // namespace fusestep
