// Updates of parameters whose gradients hold some rows alone, and how the other rows catch up.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "float_environment.h"
#include "isa.h"
#include "leaf_rows.h"
#include "walks.h"

namespace fusestep {
namespace {

// Rows that are asked for ahead: as many as the misses that a core has under way at a time.
constexpr std::size_t kRowsAhead = 8;
// Elements that a thread takes at a time of what all rows have missed.
constexpr std::size_t kTurn = 16 * 1024;

template <class T>
bool keeps_zero(Treatment treatment, const GradientScalars<T>& scalars) {
    const T zero = treatment == kDivided  ? treat<kDivided>(scalars, T(0))
                   : treatment == kScaled ? treat<kScaled>(scalars, T(0))
                                          : T(0);
    return zero == T(0) && !std::signbit(zero);
}

}  // namespace

std::optional<std::size_t> Plan::set_rows(std::size_t leaf, std::size_t rows,
                                          const RowNumbers& numbers, const void* values) {
    const auto place = place_of_rows(leaf);
    const auto at = static_cast<std::size_t>(place - leaf_rows_.begin());
    if (place == leaf_rows_.end() || (*place)->leaf != leaf) {
        const Leaf& of = leaves_[leaf];
        auto made = std::make_unique<LeafRows>();
        made->leaf = leaf;
        made->rows = rows;
        made->width = rows == 0 ? 0 : of.size / rows;
        made->skips = common(kLazy, of.group) != 0.0;
        if (!made->skips && !made->make_log(history_)) return std::nullopt;
        leaf_rows_.insert(place, std::move(made));
    }
    LeafRows& entry = *leaf_rows_[at];
    const std::size_t inside = entry.touched.set(numbers, rows, values, entry.width);
    if (inside < numbers.count) return inside;
    with_rows_.push_back(leaf);
    make_room_for_sums();
    leaves_[leaf].gradient = nullptr;
    leaves_[leaf].has_rows = true;
    return inside;
}

void Plan::forget_rows() noexcept {
    for (const std::size_t i : with_rows_) leaves_[i].has_rows = false;
    with_rows_.clear();
}

Plan::LeafRows* Plan::find_rows(std::size_t leaf) const {
    const auto place = place_of_rows(leaf);
    return place == leaf_rows_.end() || (*place)->leaf != leaf ? nullptr : place->get();
}

std::vector<std::unique_ptr<Plan::LeafRows>>::const_iterator Plan::place_of_rows(
    std::size_t leaf) const {
    return std::lower_bound(
        leaf_rows_.begin(), leaf_rows_.end(), leaf,
        [](const std::unique_ptr<LeafRows>& entry, std::size_t i) { return entry->leaf < i; });
}

bool Plan::is_behind() const {
    return std::any_of(leaf_rows_.begin(), leaf_rows_.end(),
                       [](const std::unique_ptr<LeafRows>& entry) { return entry->logged > 0; });
}

// What the leaf's prepared update does to an element whose gradient is 0.
Rest Plan::rest_of(std::size_t i) const {
    const Leaf& leaf = leaves_[i];
    const Prepared& prepared = prepared_for(i);
    const bool writes_more =
        !outputs_.empty() && (outputs_[i].average != nullptr || outputs_[i].copy != nullptr);
    const void* const scalars = prepared.gradient_scalars;
    const bool keeps =
        leaf.type == kFloat32
            ? keeps_zero(prepared.treatment, *static_cast<const GradientScalars<float>*>(scalars))
            : keeps_zero(prepared.treatment, *static_cast<const GradientScalars<double>*>(scalars));
    if (writes_more || !keeps) return Rest::kNone;
    return rule_.rest[leaf.type](prepared.variant, prepared.scalars);
}

// Before anything is updated: logs what this step uses, and has those catch up who must.
void Plan::begin_rows() noexcept {
    for (const std::unique_ptr<LeafRows>& entry : leaf_rows_) {
        LeafRows& rows = *entry;
        const Leaf& leaf = leaves_[rows.leaf];
        if (leaf.gradient != nullptr) catch_up_all(rows);
        if (!leaf.has_rows || rows.skips) continue;
        const Rest rest = rest_of(rows.leaf);
        if (rest != Rest::kAll && rows.logged == rows.capacity) catch_up_all(rows);
        rows.before = rows.logged;
        if (rest == Rest::kAll) continue;
        const Prepared& prepared = prepared_for(rows.leaf);
        Logged& logged = rows.log[rows.logged++];
        std::memcpy(logged.scalars, prepared.scalars, sizeof(logged.scalars));
        const std::size_t bytes = leaf.type == kFloat32 ? sizeof(GradientScalars<float>)
                                                        : sizeof(GradientScalars<double>);
        std::memcpy(logged.gradient_scalars, prepared.gradient_scalars, bytes);
        logged.update = prepared.update;
        logged.average_rate = prepared.average_rate;
        if (rest == Rest::kNone) rows.cold_from = rows.logged;
    }
}

void Plan::update_used(const Used& used, std::size_t i, std::size_t first, std::size_t count,
                       const void* gradient) const {
    const Leaf& leaf = leaves_[i];
    const std::size_t bytes = first * item_size(leaf.type);
    void* state[kMaxStates];
    for (int k = 0; k < kMaxStates; ++k) state[k] = advance(leaf.state[k], bytes);
    used.update(used.scalars, used.gradient_scalars, count, advance(leaf.parameter, bytes),
                gradient, state, nullptr);
    if (!outputs_.empty()) write_outputs(i, first, count, used.average_rate);
}

bool Plan::is_without_state(std::size_t i, std::size_t first, std::size_t count) const {
    const std::size_t size = item_size(leaves_[i].type);
    for (const void* const state : leaves_[i].state) {
        if (state == nullptr) continue;
        const char* const begin = static_cast<const char*>(state) + first * size;
        if (std::memcmp(begin, kZeros, count * size) != 0) return false;
    }
    return true;
}

// Updates so many rows, which have seen that many of the logged updates, with those up to `logged`.
// In pieces that stay in the first cache all the while.
void Plan::catch_up(const LeafRows& rows, std::size_t row, std::size_t count, std::size_t seen,
                    std::size_t logged) const {
    if (seen == logged) return;
    const bool may_rest = seen >= rows.cold_from;
    const std::size_t piece = may_rest ? std::min<std::size_t>(rows.width, kBlock) : kBlock;
    const std::size_t last = (row + count) * rows.width;
    for (std::size_t first = row * rows.width, n; first < last; first += n) {
        n = std::min(piece, last - first);
        if (may_rest && is_without_state(rows.leaf, first, n)) continue;
        for (std::size_t k = seen; k < logged; ++k) {
            const Logged& missed = rows.log[k];
            update_used(
                {missed.scalars, missed.gradient_scalars, missed.update, missed.average_rate},
                rows.leaf, first, n, kZeros);
        }
    }
}

void Plan::catch_up_all(LeafRows& rows) noexcept {
    if (rows.logged == 0) return;
    const std::size_t turn = std::max<std::size_t>(1, kTurn / std::max<std::size_t>(1, rows.width));
    auto task = [&](std::size_t k) {
        const std::size_t begin = k * turn, end = std::min(rows.rows, begin + turn);
        for (std::size_t row = begin; row < end;) {
            std::size_t next = row + 1;
            while (next < end && rows.seen[next] == rows.seen[row]) ++next;
            catch_up(rows, row, next - row, rows.seen[row], rows.logged);
            row = next;
        }
        std::fill(&rows.seen[begin], &rows.seen[begin] + (end - begin), 0);
    };
    const std::size_t turns = divide_up(rows.rows, turn);
    if (is_large(leaves_[rows.leaf].size)) {
        run_parallel(turns, leaves_[rows.leaf].size >= kWorthWaking, task);
    } else {
        for (std::size_t k = 0; k < turns; ++k) task(k);
    }
    rows.logged = rows.cold_from = 0;
}

void Plan::prefetch_row(const LeafRows& rows, std::size_t row) const {
    const Leaf& leaf = leaves_[rows.leaf];
    const std::size_t bytes = rows.width * item_size(leaf.type);
    prefetch_elements(static_cast<const char*>(leaf.parameter) + row * bytes, bytes);
    for (const void* const state : leaf.state) {
        if (state == nullptr) continue;
        prefetch_elements(static_cast<const char*>(state) + row * bytes, bytes);
    }
    if (!rows.is_even()) FUSESTEP_PREFETCH(&rows.seen[row]);
}

void Plan::update_rows() noexcept {
    FloatEnvironment environment;
    for (const std::unique_ptr<LeafRows>& entry : leaf_rows_) {
        if (leaves_[entry->leaf].has_rows) update_touched(*entry);
    }
}

void Plan::update_touched(LeafRows& rows) noexcept {
    const std::size_t count = rows.touched.size();
    std::size_t work = count;
    for (std::size_t k = 0; k < count && !rows.is_even() && !is_large(work * rows.width); ++k) {
        work += rows.before - rows.seen[rows.touched.row(k)];
    }
    work *= rows.width;
    for_turns(count, work,
              [&](std::size_t begin, std::size_t end) { update_touched(rows, begin, end); });
}

// The rows from one place to another among the touched ones.
void Plan::update_touched(LeafRows& rows, std::size_t begin, std::size_t end) const {
    const DataType type = leaves_[rows.leaf].type;
    const Prepared& prepared = prepared_for(rows.leaf);
    const Used used = {prepared.scalars, prepared.gradient_scalars, prepared.update,
                       prepared.average_rate};
    const std::size_t width = rows.width;
    const bool is_even = rows.is_even();
    const auto seen = [&](std::size_t row) { return is_even ? rows.before : rows.seen[row]; };
    alignas(64) double room[kBlock];
    std::size_t ahead = begin;
    for (std::size_t k = begin, count; k < end; k += count) {
        for (; ahead < end && ahead < k + kRowsAhead; ++ahead) {
            prefetch_row(rows, rows.touched.row(ahead));
            rows.touched.prefetch(type, ahead);
        }
        const std::size_t row = rows.touched.row(k), has_seen = seen(row);
        count = 1;
        while (k + count < end && (count + 1) * width <= kBlock &&
               rows.touched.row(k + count) == row + count && seen(row + count) == has_seen) {
            ++count;
        }
        catch_up(rows, row, count, has_seen, rows.before);
        if (width <= kBlock) {
            update_used(used, rows.leaf, row * width, count * width,
                        rows.touched.whole_rows(type, k, count, room));
        } else {
            for (std::size_t first = 0; first < width; first += kBlock) {
                const std::size_t n = std::min<std::size_t>(kBlock, width - first);
                update_used(used, rows.leaf, row * width + first, n,
                            rows.touched.values(type, k, first, n, room));
            }
        }
        if (is_even) continue;
        for (std::size_t j = 0; j < count; ++j) {
            rows.seen[row + j] = static_cast<std::uint32_t>(rows.logged);
        }
    }
}

std::size_t Plan::fetch(std::size_t leaf, std::size_t rows_of_leaf, const RowNumbers& numbers) {
    LeafRows* const found = find_rows(leaf);
    std::vector<Stale>& stale = stale_;
    stale.clear();
    stale.reserve(numbers.count);
    for (std::size_t k = 0; k < numbers.count; ++k) {
        const auto row = static_cast<std::uint64_t>(numbers[k]);
        if (row >= rows_of_leaf) return k;
        stale.push_back({static_cast<std::uint32_t>(row), 0});
    }
    if (found == nullptr || found->logged == 0) return numbers.count;
    LeafRows& rows = *found;
    std::size_t work = 0, count = 0;
    for (std::size_t k = 0; k < numbers.count; ++k) {
        if (k + kRowsAhead < numbers.count)
            FUSESTEP_PREFETCH(&rows.seen[stale[k + kRowsAhead].row]);
        const std::uint32_t row = stale[k].row, seen = rows.seen[row];
        if (seen == rows.logged) continue;  // as is a row that comes for the second time
        stale[count++] = {row, seen};
        work += (rows.logged - seen) * rows.width;
        rows.seen[row] = static_cast<std::uint32_t>(rows.logged);
    }
    stale.resize(count);
    const FloatEnvironment environment;
    for_turns(stale.size(), work, [&](std::size_t begin, std::size_t end) {
        std::size_t ahead = begin;
        for (std::size_t k = begin, count; k < end; k += count) {
            for (; ahead < end && ahead < k + kRowsAhead; ++ahead) {
                prefetch_row(rows, stale[ahead].row);
            }
            const Stale& first = stale[k];
            count = 1;
            while (k + count < end && stale[k + count].row == first.row + count &&
                   stale[k + count].seen == first.seen) {
                ++count;
            }
            catch_up(rows, first.row, count, first.seen, rows.logged);
        }
    });
    return numbers.count;
}

void Plan::flush() noexcept {
    const FloatEnvironment environment;
    for (const std::unique_ptr<LeafRows>& entry : leaf_rows_) catch_up_all(*entry);
}

bool Plan::set_history(std::size_t updates) noexcept {
    flush();
    for (const std::unique_ptr<LeafRows>& entry : leaf_rows_) {
        if (!entry->skips && !entry->make_log(updates)) return false;
    }
    history_ = updates;
    return true;
}

}  // namespace fusestep
