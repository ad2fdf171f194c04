// Sums over gradients that hold some rows alone: of their squares, and of micro-batches.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "float_environment.h"
#include "isa.h"
#include "leaf_rows.h"
#include "walks.h"

namespace fusestep {

// Of rows that no gradient holds, the squares are 0 and change no sum: only blocks with others are
// added up, in the order of all.
double Plan::sum_of_squares_with_rows(double scale, const double* weight) noexcept {
    list_blocks();
    const auto sum = [&](std::size_t begin, std::size_t end) {
        for (std::size_t k = begin; k < end; ++k) {
            block_sums_[k].sum = block_sum_with_rows(block_sums_[k].block, scale, weight);
        }
    };
    for_turns(block_sums_.size(), block_sums_.size() * kBlock, sum);
    std::size_t count = block_sums_.size();
    for (std::size_t blocks = partial_sums_.size(); blocks > 1 && count > 0;
         blocks = divide_up(blocks, kBlock)) {
        std::size_t next = 0;
        for (std::size_t k = 0; k < count;) {
            const std::size_t block = block_sums_[k].block / kBlock;
            double lanes[kLanes] = {};
            for (; k < count && block_sums_[k].block / kBlock == block; ++k) {
                lanes[block_sums_[k].block % kLanes] += block_sums_[k].sum;
            }
            block_sums_[next++] = {block, add_lanes(lanes)};
        }
        count = next;
    }
    return count == 0 ? 0.0 : block_sums_[0].sum;
}

// Those with an element of a gradient.
void Plan::list_blocks() noexcept {
    block_sums_.clear();
    const auto add = [&](std::size_t first, std::size_t last) {
        std::size_t block = first / kBlock;
        if (!block_sums_.empty() && block == block_sums_.back().block) ++block;
        for (; block * kBlock < last; ++block) block_sums_.push_back({block, 0.0});
    };
    for (std::size_t i = 0; i < leaves_.size(); ++i) {
        const std::size_t begin = begins_[i];
        if (leaves_[i].gradient != nullptr) add(begin, begin + leaves_[i].size);
        if (!leaves_[i].has_rows) continue;
        const LeafRows& rows = *find_rows(i);
        for (std::size_t k = 0; k < rows.touched.size(); ++k) {
            const std::size_t first = begin + rows.touched.row(k) * rows.width;
            add(first, first + rows.width);
        }
    }
}

// As many blocks as those may be.
void Plan::make_room_for_sums() {
    std::size_t blocks = 0;
    for (std::size_t i = 0; i < leaves_.size(); ++i) {
        if (!leaves_[i].has_rows) blocks += leaves_[i].size / kBlock + 2;
    }
    for (const std::size_t i : with_rows_) {
        const LeafRows& rows = *find_rows(i);
        blocks += rows.touched.size() * (rows.width / kBlock + 2);
    }
    block_sums_.reserve(std::min(blocks, partial_sums_.size()));
}

double Plan::block_sum_with_rows(std::size_t block, double scale, const double* weight) const {
    const KernelTable& kernels = active_kernels();
    const SumVariant variant = scale == 1.0 ? kPlain : kScaledSum;
    const Range range = block_range(block, block + 1);
    double lanes[kLanes] = {};
    alignas(64) double room[kBlock];
    const auto next = std::upper_bound(begins_.begin(), begins_.end(), range.begin);
    for (auto i = static_cast<std::size_t>(next - begins_.begin()) - 1;
         i < leaves_.size() && begins_[i] < range.end; ++i) {
        const Leaf& leaf = leaves_[i];
        const std::size_t begin = std::max(range.begin, begins_[i]) - begins_[i];
        const std::size_t end = std::min(range.end - begins_[i], leaf.size);
        if (begin >= end) continue;
        const auto add = [&](std::size_t first, std::size_t count, const void* data) {
            kernels.sum_squares[leaf.type][variant](count, data, scale,
                                                    (begins_[i] + first) % kLanes, lanes);
        };
        if (leaf.gradient != nullptr) {
            add(begin, end - begin, gradient_of(i, begin));
            if (weight != nullptr) accumulate_piece(i, begin, end - begin, *weight);
        }
        if (!leaf.has_rows) continue;
        const LeafRows& rows = *find_rows(i);
        const std::size_t width = rows.width;
        for (std::size_t k = rows.touched.from(begin / width); k < rows.touched.size(); ++k) {
            const std::size_t row = rows.touched.row(k) * width;
            if (row >= end) break;
            const std::size_t from = std::max(begin, row), to = std::min(end, row + width);
            add(from, to - from, rows.touched.values(leaf.type, k, from - row, to - from, room));
        }
    }
    return add_lanes(lanes);
}

const char* Plan::nonfinite_in_rows(std::size_t leaf) const {
    const FloatEnvironment environment;
    const LeafRows& rows = *find_rows(leaf);
    const DataType type = leaves_[leaf].type;
    alignas(64) double room[kBlock];
    double lanes[kLanes] = {};
    for (std::size_t k = 0; k < rows.touched.size(); ++k) {
        for (std::size_t first = 0; first < rows.width; first += kBlock) {
            const std::size_t n = std::min<std::size_t>(kBlock, rows.width - first);
            active_kernels().sum_squares[type][kScaledSum](
                n, rows.touched.values(type, k, first, n, room), scale_for(HUGE_VAL), 0, lanes);
        }
    }
    return nonfinite_name(add_lanes(lanes));
}

// Which rows will hold a sum: those that do, and those of this micro-batch.
void Plan::merge_accumulated() {
    for (const std::size_t i : with_rows_) {
        LeafRows& rows = *find_rows(i);
        const std::vector<std::uint32_t>& held = accumulators_[i].rows;
        rows.merged.clear();
        rows.merged.reserve(held.size() + rows.touched.size());
        std::size_t k = 0;
        for (const std::uint32_t row : held) {
            for (; k < rows.touched.size() && rows.touched.row(k) <= row; ++k) {
                if (rows.touched.row(k) < row) {
                    rows.merged.push_back(static_cast<std::uint32_t>(rows.touched.row(k)));
                }
            }
            rows.merged.push_back(row);
        }
        for (; k < rows.touched.size(); ++k) {
            rows.merged.push_back(static_cast<std::uint32_t>(rows.touched.row(k)));
        }
    }
}

// As a dense gradient would be added, but for rows that hold 0 before and after.
void Plan::accumulate_rows(std::size_t i, double weight) noexcept {
    const Leaf& leaf = leaves_[i];
    Accumulator& sum = accumulators_[i];
    LeafRows& rows = *find_rows(i);
    const bool is_dense = sum.holds && !sum.has_rows;
    if (!sum.holds && !sum.is_zero) std::memset(sum.data, 0, leaf.size * item_size(leaf.type));
    const Accumulate add = active_kernels().accumulate[leaf.type][sum.holds ? kAddTo : kBegin];
    const auto add_rows = [&](std::size_t begin, std::size_t end) {
        alignas(64) double room[kBlock];
        const auto row_at = [&](std::size_t k) { return is_dense ? k : rows.merged[k]; };
        std::size_t next = begin < end ? rows.touched.from(row_at(begin)) : 0;
        for (std::size_t k = begin; k < end; ++k) {
            const std::size_t row = row_at(k);
            const bool touched = next < rows.touched.size() && rows.touched.row(next) == row;
            for (std::size_t first = 0, n; first < rows.width; first += n) {
                n = std::min<std::size_t>(kBlock, rows.width - first);
                const std::size_t at = row * rows.width + first;
                add(n, weight,
                    touched ? rows.touched.values(leaf.type, next, first, n, room) : kZeros,
                    advance(sum.data, at * item_size(leaf.type)));
            }
            if (touched) ++next;
        }
    };
    const std::size_t count = is_dense ? rows.rows : rows.merged.size();
    for_turns(count, count * rows.width, add_rows);
    sum.holds = true;
    if (is_dense) return;
    sum.is_zero = sum.has_rows = true;
    sum.rows.swap(rows.merged);
}

void Plan::use_accumulated_rows(std::size_t i) {
    const Accumulator& sum = accumulators_[i];
    LeafRows& rows = *find_rows(i);
    rows.touched.set_in_place(sum.rows, sum.data, rows.width);
    with_rows_.push_back(i);
    leaves_[i].has_rows = true;
}

void Plan::forget_accumulated() noexcept {
    for (std::size_t i = 0; i < accumulators_.size(); ++i) {
        Accumulator& sum = accumulators_[i];
        if (sum.has_rows) {
            const std::size_t width = find_rows(i)->width;
            const std::size_t bytes = width * item_size(leaves_[i].type);
            for_turns(sum.rows.size(), sum.rows.size() * width,
                      [&](std::size_t begin, std::size_t end) {
                          for (std::size_t k = begin; k < end; ++k) {
                              std::memset(advance(sum.data, sum.rows[k] * bytes), 0, bytes);
                          }
                      });
        }
        sum.holds = sum.has_rows = false;
        sum.rows.clear();
    }
}

}  // namespace fusestep
