#include "plan.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "float_environment.h"
#include "isa.h"
#include "pool.h"

namespace fusestep {
namespace {

// Measured on two cores. Fewer elements than the first are done sooner by the calling thread alone;
// from the second on, waking helpers pays even beside a BLAS whose threads spin.
constexpr std::size_t kParallelElements = 32 * 1024;
constexpr std::size_t kWorthWaking = 320 * 1024;

// Threads take chunks of this many blocks.
constexpr std::size_t kSmallestChunk = 8;
constexpr std::size_t kLargestChunk = 128;
constexpr std::size_t kChunksPerThread = 8;

// So much of a parameter is updated before its average and copy are: what the update has touched by
// then fits the second cache of any core. Measured, 32k elements are no faster.
constexpr std::size_t kOutputRun = 8 * 1024;

// A tensor of at most so many blocks, with its gradient and state, fits the cache of a core.
constexpr std::size_t kSmallTensor = 32;

std::size_t divide_up(std::size_t a, std::size_t b) { return (a + b - 1) / b; }

void* advance(void* pointer, std::size_t bytes) {
    return pointer == nullptr ? nullptr : static_cast<char*>(pointer) + bytes;
}

double rounded(DataType type, double x) {
    return type == kFloat32 ? static_cast<double>(static_cast<float>(x)) : x;
}

// Adds sums of blocks in the order of portable/sums.h until one is left.
double add_sums(double* sums, std::size_t count) {
    while (count > 1) {
        const std::size_t blocks = divide_up(count, kBlock);
        for (std::size_t block = 0; block < blocks; ++block) {
            double lanes[kLanes] = {};
            const std::size_t end = std::min(count, (block + 1) * kBlock);
            for (std::size_t i = block * kBlock; i < end; ++i) lanes[i % kLanes] += sums[i];
            sums[block] = add_lanes(lanes);
        }
        count = blocks;
    }
    return count == 0 ? 0.0 : sums[0];
}

// For each thread many, for balance, but long enough for memory to stream.
std::size_t chunk_size(std::size_t blocks) {
    const std::size_t shares = static_cast<std::size_t>(thread_count()) * kChunksPerThread;
    return std::clamp(divide_up(blocks, shares), kSmallestChunk, kLargestChunk);
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

struct Plan::Range {
    std::size_t begin;
    std::size_t end;
};

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

bool Plan::is_large(std::size_t elements) { return elements >= kParallelElements; }

// Calls visit(leaf index, first element, elements) for the pieces of leaves that lie in the range.
template <class Visit>
void Plan::walk(Range range, Visit visit) const {
    const auto next = std::upper_bound(begins_.begin(), begins_.end(), range.begin);
    std::size_t i = static_cast<std::size_t>(next - begins_.begin()) - 1;
    while (range.begin < range.end) {
        const Leaf& leaf = leaves_[i];
        const std::size_t first = range.begin - begins_[i];
        const std::size_t count = std::min(range.end - range.begin, leaf.size - first);
        if (count > 0 && leaf.gradient != nullptr) visit(i, first, count);
        range.begin += count;
        ++i;
    }
}

Plan::Range Plan::block_range(std::size_t begin, std::size_t end) const {
    return {begin * kBlock, std::min(total_, end * kBlock)};
}

// Calls visit(begin, end) for chunks of the blocks from begin to end, on several threads where they
// are many.
template <class Visit>
void Plan::for_chunks(std::size_t begin, std::size_t end, Visit visit) const {
    const std::size_t blocks = end - begin;
    const Range range = block_range(begin, end);
    const std::size_t elements = range.end - range.begin;
    if (!is_large(elements)) {
        visit(begin, end);
        return;
    }
    const std::size_t chunk = chunk_size(blocks);
    auto task = [&](std::size_t i) {
        visit(begin + i * chunk, std::min(end, begin + (i + 1) * chunk));
    };
    run_parallel(divide_up(blocks, chunk), elements >= kWorthWaking, task);
}

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

double Plan::accumulate(double weight) noexcept {
    FloatEnvironment environment;
    const KernelTable& kernels = active_kernels();
    const auto add = [&](std::size_t i, std::size_t first, std::size_t count) {
        const Leaf& leaf = leaves_[i];
        const Accumulator& sum = accumulators_[i];
        const std::size_t bytes = first * item_size(leaf.type);
        kernels.accumulate[leaf.type][sum.holds ? kAddTo : kBegin](
            count, weight, static_cast<const char*>(leaf.gradient) + bytes,
            advance(sum.data, bytes));
    };
    for_chunks(0, partial_sums_.size(), [&](std::size_t begin, std::size_t end) {
        for (std::size_t i = begin; i < end; ++i) {
            partial_sums_[i] = block_sum_of_squares(i, 1.0, add);
        }
    });
    for (std::size_t i = 0; i < leaves_.size(); ++i) {
        if (leaves_[i].gradient != nullptr) accumulators_[i].holds = true;
    }
    return add_sums(partial_sums_.data(), partial_sums_.size());
}

void Plan::use_accumulated() noexcept {
    for (std::size_t i = 0; i < leaves_.size(); ++i) {
        const bool holds = i < accumulators_.size() && accumulators_[i].holds;
        set_gradient(i, holds ? accumulators_[i].data : nullptr);
    }
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
    const std::size_t values = static_cast<std::size_t>(rule_.values);
    if (values > 0) next_values_ = values_;
    const KernelTable& kernels = active_kernels();
    for (std::size_t i = 0; i < leaves_.size(); ++i) {
        Leaf& leaf = leaves_[i];
        if (leaf.gradient == nullptr) continue;
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
            if (variant < 0) {
                for (std::size_t k = 0; k <= i; ++k) {
                    if (leaves_[k].gradient != nullptr) --updates_[k];
                }
                return static_cast<std::ptrdiff_t>(i);
            }
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
    }
    values_.swap(next_values_);
    return kPrepared;
}

void Plan::take_back_prepared() noexcept {
    for (std::size_t i = 0; i < leaves_.size(); ++i) {
        if (leaves_[i].gradient != nullptr) --updates_[i];
    }
    values_.swap(next_values_);
}

// Whether the last updates of two leaves have left the same for the next one.
bool Plan::have_same_values(std::size_t i, std::size_t j) const {
    const std::size_t values = static_cast<std::size_t>(rule_.values);
    const double* const first = values_.data() + i * values;
    return std::equal(first, first + values, values_.data() + j * values);
}

void Plan::measure_units() noexcept {
    auto measure = [&](std::size_t k) {
        const Piece& piece = unit_pieces_[k];
        const Leaf& leaf = leaves_[piece.leaf];
        if (leaf.gradient == nullptr || !clips_units(leaf.group)) return;
        const Prepared& prepared = prepared_for(piece.leaf);
        const Measured measured = {leaf.type,       prepared.treatment, prepared.gradient_scalars,
                                   leaf.parameter,  leaf.gradient,      prepared.agc,
                                   prepared.agc_eps};
        fusestep::measure_units(measured, units_[piece.leaf], piece.first,
                                piece.first + piece.count,
                                &unit_factors_[unit_factors_begin_[piece.leaf]]);
    };
    if (is_large()) {
        run_parallel(unit_pieces_.size(), total_ >= kWorthWaking, measure);
    } else {
        for (std::size_t k = 0; k < unit_pieces_.size(); ++k) measure(k);
    }
}

const void* Plan::gradient_of(std::size_t i, std::size_t first) const {
    return static_cast<const char*>(leaves_[i].gradient) + first * item_size(leaves_[i].type);
}

// Calls visit(first element, elements, clipped gradient) for one block after the other.
template <class Visit>
void Plan::for_clipped(std::size_t i, std::size_t first, std::size_t count, Visit visit) const {
    const Prepared& prepared = prepared_for(i);
    const ClipUnits clip = active_kernels().clip_units[prepared.type][prepared.treatment];
    alignas(64) double clipped[kBlock];  // or as many numbers of float32
    for (const std::size_t last = first + count; first < last; first += kBlock) {
        const std::size_t n = std::min<std::size_t>(kBlock, last - first);
        clip(prepared.gradient_scalars, units_[i], first, n, gradient_of(i, first),
             &unit_factors_[unit_factors_begin_[i]], clipped);
        visit(first, n, static_cast<const void*>(clipped));
    }
}

// Inside the loop over many small leaves.
inline void Plan::update_run(std::size_t i, std::size_t first, std::size_t count,
                             const void* gradient, const void* factors) const {
    const Leaf& leaf = leaves_[i];
    const Prepared& prepared = prepared_for(i);
    const std::size_t bytes = first * item_size(leaf.type);
    void* state[kMaxStates];
    for (int k = 0; k < kMaxStates; ++k) state[k] = advance(leaf.state[k], bytes);
    prepared.update(prepared.scalars, prepared.gradient_scalars, count,
                    advance(leaf.parameter, bytes), gradient, state, factors);
}

bool Plan::collects(std::size_t i) const { return prepared_for(i).collect != nullptr; }

inline void Plan::update_piece(std::size_t i, std::size_t first, std::size_t count,
                               const void* factors) const {
    if (outputs_.empty() && units_.empty()) {
        update_run(i, first, count, gradient_of(i, first), factors);
    } else {
        update_outputs(i, first, count, factors);
    }
}

void Plan::update_outputs(std::size_t i, std::size_t first, std::size_t count,
                          const void* factors) const {
    const Leaf& leaf = leaves_[i];
    const Output output = outputs_.empty() ? Output() : outputs_[i];
    const Prepared& prepared = prepared_for(i);
    const bool averages = output.average != nullptr && prepared.average_rate != 0.0;
    const bool copies = output.copy != nullptr;
    const KernelTable& kernels = active_kernels();
    const std::size_t run = averages || copies ? kOutputRun : count;
    for (const std::size_t last = first + count; first < last; first += run) {
        const std::size_t n = std::min(run, last - first);
        if (prepared.clips_units) {
            for_clipped(i, first, n, [&](std::size_t from, std::size_t m, const void* gradient) {
                update_run(i, from, m, gradient, factors);
            });
        } else {
            update_run(i, first, n, gradient_of(i, first), factors);
        }
        const std::size_t bytes = first * item_size(leaf.type);
        const void* const parameter = advance(leaf.parameter, bytes);
        void* const average = advance(output.average, bytes);
        if (averages && prepared.average_rate != 1.0) {
            kernels.average[leaf.type](n, prepared.average_rate, parameter, average);
        } else if (averages) {
            std::memcpy(average, parameter, n * item_size(leaf.type));
        }
        void* const copy = advance(output.copy, first * item_size(output.copy_type));
        if (copies && output.copy_type != leaf.type) {
            kernels.round_to[leaf.type][output.copy_type](n, parameter, copy);
        } else if (copies) {
            std::memcpy(copy, parameter, n * item_size(leaf.type));
        }
    }
}

// From the beginning of a block on.
void Plan::collect_piece(std::size_t i, std::size_t first, std::size_t count) {
    const auto collect = [&](std::size_t from, std::size_t n, const void* gradient) {
        const Leaf& leaf = leaves_[i];
        const Prepared& prepared = prepared_for(i);
        const std::size_t bytes = from * item_size(leaf.type);
        void* state[kMaxStates];
        for (int k = 0; k < kMaxStates; ++k) state[k] = advance(leaf.state[k], bytes);
        prepared.collect(prepared.scalars, prepared.gradient_scalars, n,
                         advance(leaf.parameter, bytes), gradient, state,
                         divide_up(leaf.size, kBlock), &sums_[sums_begin_[i] + from / kBlock]);
    };
    if (prepared_for(i).clips_units) {
        for_clipped(i, first, count, collect);
    } else {
        collect(first, count, gradient_of(i, first));
    }
}

// What the sums over a tensor make for its second pass.
void Plan::conclude(std::size_t i) {
    const Leaf& leaf = leaves_[i];
    const Prepared& prepared = prepared_for(i);
    const std::size_t blocks = divide_up(leaf.size, kBlock);
    double sums[kMaxSums];
    for (int k = 0; k < rule_.sums; ++k) {
        sums[k] = add_sums(&sums_[sums_begin_[i] + static_cast<std::size_t>(k) * blocks], blocks);
    }
    rule_.conclude[leaf.type](prepared.variant, prepared.scalars, sums,
                              static_cast<double>(leaf.size), factors_[i].bytes);
}

void Plan::update(std::size_t first, std::size_t last) noexcept {
    FloatEnvironment environment;
    if (collects_) {
        update_tensors(first, last);
    } else {
        update_elements(first, last);
    }
}

void Plan::update_elements(std::size_t first, std::size_t last) noexcept {
    for_chunks(first / kBlock, divide_up(last, kBlock), [&](std::size_t begin, std::size_t end) {
        walk(block_range(begin, end), [&](std::size_t i, std::size_t from, std::size_t count) {
            update_piece(i, from, count, nullptr);
        });
    });
}

// Lists the tensors that take part and end in the range: several small ones as one run.
void Plan::list_tensors(std::size_t first, std::size_t last) {
    small_.clear();
    large_.clear();
    const std::size_t chunk = chunk_size(divide_up(total_, kBlock)) * kBlock;
    const auto next = std::upper_bound(begins_.begin(), begins_.end(), first);
    for (std::size_t i = static_cast<std::size_t>(next - begins_.begin()) - 1; i < leaves_.size();
         ++i) {
        const std::size_t size = leaves_[i].size;
        if (begins_[i] + size > last) break;
        if (size == 0 || leaves_[i].gradient == nullptr) continue;
        if (size > kSmallTensor * kBlock) {
            for (std::size_t from = 0; from < size; from += chunk) {
                large_.push_back({i, from, std::min(chunk, size - from)});
            }
        } else if (!small_.empty() && small_.back().elements + size <= kSmallTensor * kBlock) {
            small_.back().last = i;
            small_.back().elements += size;
        } else {
            small_.push_back({i, i, size});
        }
    }
}

void Plan::update_tensors(std::size_t first, std::size_t last) noexcept {
    if (first >= last) return;
    list_tensors(first, last);
    const std::size_t elements = last - first;
    const auto for_each = [&](std::size_t count, auto& task) {
        if (is_large(elements)) {
            run_parallel(count, elements >= kWorthWaking, task);
        } else {
            for (std::size_t i = 0; i < count; ++i) task(i);
        }
    };
    auto begin = [&](std::size_t task) {
        if (task < large_.size()) {
            const Piece& piece = large_[task];
            if (collects(piece.leaf)) {
                collect_piece(piece.leaf, piece.first, piece.count);
            } else {
                update_piece(piece.leaf, piece.first, piece.count, nullptr);
            }
            return;
        }
        const Run& run = small_[task - large_.size()];
        for (std::size_t i = run.first; i <= run.last; ++i) {
            const std::size_t size = leaves_[i].size;
            if (size == 0 || size > kSmallTensor * kBlock || leaves_[i].gradient == nullptr) {
                continue;
            }
            if (collects(i)) {
                collect_piece(i, 0, size);
                conclude(i);
            }
            update_piece(i, 0, size, factors_[i].bytes);
        }
    };
    for_each(large_.size() + small_.size(), begin);
    for (const Piece& piece : large_) {
        if (piece.first == 0 && collects(piece.leaf)) conclude(piece.leaf);
    }
    auto finish = [&](std::size_t task) {
        const Piece& piece = large_[task];
        if (!collects(piece.leaf)) return;
        update_piece(piece.leaf, piece.first, piece.count, factors_[piece.leaf].bytes);
    };
    for_each(large_.size(), finish);
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
    if (!units_.empty()) measure_units();
    update(0, total_);
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
    const double sum = add_lanes(lanes);
    return std::isnan(sum) ? "NaN" : std::isinf(sum) ? "infinity" : nullptr;
}

}  // namespace fusestep
