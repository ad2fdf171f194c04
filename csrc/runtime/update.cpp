// The third phase of a step: the parameters, their states, and what is written beside them.
#include <cstring>

#include "float_environment.h"
#include "isa.h"
#include "units.h"
#include "walks.h"

namespace fusestep {
namespace {

// So much of a parameter is updated before its average and copy are: what the update has touched by
// then fits the second cache of any core. Measured, 32k elements are no faster.
constexpr std::size_t kOutputRun = 8 * 1024;

// A tensor of at most so many blocks, with its gradient and state, fits the cache of a core.
constexpr std::size_t kSmallTensor = 32;

}  // namespace

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
    const Output output = outputs_.empty() ? Output() : outputs_[i];
    const Prepared& prepared = prepared_for(i);
    const bool averages = output.average != nullptr && prepared.average_rate != 0.0;
    const bool copies = output.copy != nullptr;
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
        write_outputs(i, first, n, prepared.average_rate);
    }
}

// Of elements that have just been updated.
void Plan::write_outputs(std::size_t i, std::size_t first, std::size_t count,
                         double average_rate) const {
    const Leaf& leaf = leaves_[i];
    const Output output = outputs_.empty() ? Output() : outputs_[i];
    const KernelTable& kernels = active_kernels();
    const std::size_t bytes = first * item_size(leaf.type);
    const void* const parameter = advance(leaf.parameter, bytes);
    void* const average = advance(output.average, bytes);
    if (average != nullptr && average_rate == 1.0) {
        std::memcpy(average, parameter, count * item_size(leaf.type));
    } else if (average != nullptr && average_rate != 0.0) {
        kernels.average[leaf.type](count, average_rate, parameter, average);
    }
    void* const copy = advance(output.copy, first * item_size(output.copy_type));
    if (copy != nullptr && output.copy_type != leaf.type) {
        kernels.round_to[leaf.type][output.copy_type](count, parameter, copy);
    } else if (copy != nullptr) {
        std::memcpy(copy, parameter, count * item_size(leaf.type));
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
    } else if (has_rows()) {
        for_spans(first, last,
                  [&](std::size_t from, std::size_t to) { update_elements(from, to); });
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

}  // namespace fusestep
