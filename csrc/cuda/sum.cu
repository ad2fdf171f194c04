// The sum of squares of all gradients in one launch, and what the norm makes of a step.
#include "lanes.h"
#include "launch.h"

namespace fusestep {
namespace device {
namespace {

using Index = unsigned long long;

constexpr unsigned kBytesInFlight = 64;  // for each thread

__device__ __forceinline__ void conclude(const Conclusion& c, double sum, double scale) {
    const GradientNorm norm = norm_of_sum(sum, scale, c.grad_scale);
    const bool finite = norm.scaled <= kUnbounded;
    bool applies = finite || !c.has_sum || !c.skips;
    bool exhausted = false;
    Index row = 0;
    if (c.progress != nullptr) {
        Progress& progress = *c.progress;
        const long long ahead = progress.applied - progress.base;
        exhausted = ahead < 0 || ahead >= progress.rows;
        if (exhausted) {
            applies = false;
        } else {
            row = ahead;
            ++progress.attempted;
        }
        if (applies) ++progress.applied;
    }
    if (c.outcome != nullptr) {
        const double clip_norm = c.clip_norms == nullptr ? c.clip_norm : c.clip_norms[row];
        const bool clips = clip_norm == clip_norm;
        *c.outcome = {clips ? clip_factor(clip_norm, norm) : 1.0, row, applies};
    }
    if (c.report != nullptr) {
        Report& report = *c.report;
        report.sum = sum;
        report.grad_norm = norm.value;
        report.attempted = c.progress == nullptr ? 0 : c.progress->attempted;
        report.applied = c.progress == nullptr ? 0 : c.progress->applied;
        report.applies = applies;
        report.exhausted = exhausted;
        __threadfence_system();
        *const_cast<volatile Index*>(&report.number) = c.number;
    }
}

// Which leaf holds an element of the index space: the last one that begins there or before.
__device__ __forceinline__ Index leaf_of(const SumLaunch& a, Index element) {
    Index low = 0, high = a.leaf_count;
    while (low < high) {
        const Index middle = (low + high) / 2;
        if (a.leaves[middle].begin <= element) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low - 1;
}

enum Accumulation : int { kNone, kFirst, kNext, kNoneScaled };

// Adds the squares of every kLanes-th of `count` elements, and accumulates these elements or scales
// them before.
template <class T, int accumulation>
__device__ __forceinline__ double add_squares(double sum, const T* gradient, T* accumulator,
                                              T weight, double scale, unsigned first,
                                              unsigned count) {
    constexpr bool accumulates = accumulation == kFirst || accumulation == kNext;
    constexpr unsigned terms = kBytesInFlight / sizeof(T) / (accumulation == kNext ? 2 : 1);
    for (unsigned start = first; start < count; start += terms * kLanes) {
        T g[terms], held[terms];
#pragma unroll
        for (unsigned j = 0; j < terms; ++j) {
            const unsigned at = start + j * kLanes;
            g[j] = at < count ? gradient[at] : T(0);
            if constexpr (accumulation == kNext) held[j] = at < count ? accumulator[at] : T(0);
        }
#pragma unroll
        for (unsigned j = 0; j < terms; ++j) {
            double value = static_cast<double>(g[j]);
            if constexpr (accumulation == kNoneScaled) value *= scale;
            sum += value * value;
            const unsigned at = start + j * kLanes;
            if (!accumulates || at >= count) continue;
            accumulator[at] = accumulation == kFirst ? first_of_sum(weight, g[j])
                                                     : next_of_sum(held[j], weight, g[j]);
        }
    }
    return sum;
}

template <class T>
__device__ __forceinline__ double add_piece(const SumLaunch& a, double sum, const Leaf& leaf,
                                            Index i, Index begin, Index end, double scale) {
    const Index offset = begin - leaf.begin;
    const T* gradient = static_cast<const T*>(a.gradients[i]) + offset;
    const T weight = static_cast<T>(a.weight);
    const unsigned first = (threadIdx.x - static_cast<unsigned>(begin)) % kLanes;
    const unsigned count = static_cast<unsigned>(end - begin);
    if (scale != 1.0) {
        return add_squares<T, kNoneScaled>(sum, gradient, nullptr, weight, scale, first, count);
    }
    if (a.weight == 0.0) {
        return add_squares<T, kNone>(sum, gradient, nullptr, weight, scale, first, count);
    }
    T* accumulator = static_cast<T*>(leaf.accumulator) + offset;
    return a.holds[i]
               ? add_squares<T, kNext>(sum, gradient, accumulator, weight, scale, first, count)
               : add_squares<T, kFirst>(sum, gradient, accumulator, weight, scale, first, count);
}

// This thread's lane of a block of the index space.
__device__ __forceinline__ double lane_of_block(const SumLaunch& a, Index block, double scale) {
    Index begin = block * kBlock;
    const Index end = begin + kBlock < a.total ? begin + kBlock : a.total;
    double sum = 0.0;
    if (begin >= end) return sum;
    for (Index i = leaf_of(a, begin); begin < end; ++i) {
        const Leaf& leaf = a.leaves[i];
        const Index stop = leaf.begin + leaf.size < end ? leaf.begin + leaf.size : end;
        if (a.gradients[i] != nullptr) {
            sum = leaf.type == 0 ? add_piece<float>(a, sum, leaf, i, begin, stop, scale)
                                 : add_piece<double>(a, sum, leaf, i, begin, stop, scale);
        }
        begin = stop;
    }
    return sum;
}

// This thread's lane of a block of sums, which other thread blocks have written.
__device__ __forceinline__ double lane_of_sums(const volatile double* sums, unsigned count) {
    constexpr unsigned terms = kBytesInFlight / sizeof(double);
    double sum = 0.0;
    for (unsigned start = threadIdx.x; start < count; start += terms * kLanes) {
        double term[terms];
#pragma unroll
        for (unsigned j = 0; j < terms; ++j) {
            const unsigned at = start + j * kLanes;
            term[j] = at < count ? sums[at] : 0.0;
        }
#pragma unroll
        for (unsigned j = 0; j < terms; ++j) sum += term[j];
    }
    return sum;
}

// Whether this thread block is the last of some to arrive; it sees what the others have written.
__device__ __forceinline__ bool arrives_last(unsigned* arrived, unsigned expected) {
    __shared__ bool last;
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        last = atomicAdd(arrived, 1u) == expected - 1;
        if (last) *arrived = 0;
    }
    __syncthreads();
    __threadfence();
    return last;
}

}  // namespace
}  // namespace device
}  // namespace fusestep

extern "C" __global__ void __launch_bounds__(fusestep::device::kThreads)
    fusestep_sum(const __grid_constant__ fusestep::device::SumLaunch a) {
    using namespace fusestep;
    using namespace fusestep::device;
    const double scale = a.plain_sum == nullptr ? 1.0 : scale_for(*a.plain_sum);
    if (a.plain_sum != nullptr && scale == 1.0) return;
    Index place = Index{blockIdx.x} * kBlocksPerGroup + threadIdx.x / kLanes;
    double sum = add_lanes<kThreads>(lane_of_block(a, place, scale));
    // values of this level, and how many of them a thread block brings
    Index count = divide_up(a.total, kBlock);
    unsigned brought = kBlocksPerGroup;
    double* sums = a.partial;
    unsigned* arrived = a.arrived;
    while (count > 1) {
        if (threadIdx.x % kLanes == 0 && threadIdx.x / kLanes < brought && place < count) {
            sums[place] = sum;
        }
        const Index group = place / kBlock;
        const Index left = count - group * kBlock;
        const unsigned values = left < kBlock ? static_cast<unsigned>(left) : kBlock;
        if (!arrives_last(arrived + group, (values + brought - 1) / brought)) return;
        sum = add_lanes<kThreads>(threadIdx.x < kLanes ? lane_of_sums(sums + group * kBlock, values)
                                                       : 0.0);
        sums += count;
        count = divide_up(count, kBlock);
        arrived += count;
        place = group;
        brought = 1;
    }
    if (threadIdx.x > 0) return;
    if (a.sum != nullptr) *a.sum = sum;
    if (a.weighted_sum != nullptr) *a.weighted_sum += a.weight * sum;
    if (a.concludes && (!a.is_followed || scale_for(sum) == 1.0)) {
        conclude(a.conclusion, sum, scale);
    }
}

extern "C" __global__ void fusestep_conclude(const fusestep::device::Conclusion c) {
    if (threadIdx.x == 0) fusestep::device::conclude(c, c.sum, c.scale);
}
