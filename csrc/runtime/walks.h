// The plan's loops over its index space, for the phases of a step.
#pragma once
#include <algorithm>

#include "plan.h"
#include "pool.h"

namespace fusestep {

// Measured on two cores. Fewer elements than the first are done sooner by the calling thread alone;
// from the second on, waking helpers pays even beside a BLAS whose threads spin.
constexpr std::size_t kParallelElements = 32 * 1024;
constexpr std::size_t kWorthWaking = 320 * 1024;

// Threads take chunks of this many blocks.
constexpr std::size_t kSmallestChunk = 8;
constexpr std::size_t kLargestChunk = 128;
constexpr std::size_t kChunksPerThread = 8;

inline std::size_t divide_up(std::size_t a, std::size_t b) { return (a + b - 1) / b; }

inline void* advance(void* pointer, std::size_t bytes) {
    return pointer == nullptr ? nullptr : static_cast<char*>(pointer) + bytes;
}

// Adds sums of blocks in the order of portable/sums.h until one is left.
inline double add_sums(double* sums, std::size_t count) {
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
inline std::size_t chunk_size(std::size_t blocks) {
    const std::size_t shares = static_cast<std::size_t>(thread_count()) * kChunksPerThread;
    return std::clamp(divide_up(blocks, shares), kSmallestChunk, kLargestChunk);
}

struct Plan::Range {
    std::size_t begin;
    std::size_t end;
};

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

inline Plan::Range Plan::block_range(std::size_t begin, std::size_t end) const {
    return {begin * kBlock, std::min(total_, end * kBlock)};
}

// Calls visit(first, last) for the parts of a range of elements that lie outside of the blocks
// which a parameter has for itself whose gradient holds some rows alone.
template <class Visit>
void Plan::for_spans(std::size_t first, std::size_t last, Visit visit) const {
    for (const std::size_t i : with_rows_) {
        const std::size_t from = std::max(first, divide_up(begins_[i], kBlock) * kBlock);
        const std::size_t to = std::min(last, (begins_[i] + leaves_[i].size) / kBlock * kBlock);
        if (from >= to) continue;
        if (first < from) visit(first, from);
        first = to;
    }
    if (first < last) visit(first, last);
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

// Calls visit(begin, end) for turns of so many rows, on several threads where `work` elements are
// worth it.
template <class Visit>
void Plan::for_turns(std::size_t count, std::size_t work, Visit visit) const {
    if (!is_large(work)) {
        visit(0, count);
        return;
    }
    const std::size_t shares = static_cast<std::size_t>(thread_count()) * 2 * kChunksPerThread;
    const std::size_t turn = std::clamp<std::size_t>(divide_up(count, shares), 1, 256);
    auto task = [&](std::size_t k) { visit(k * turn, std::min(count, (k + 1) * turn)); };
    run_parallel(divide_up(count, turn), work >= kWorthWaking, task);
}

}  // namespace fusestep
