// The first pass of variants with sums over tensors, and what the sums make for the second.
//
// Terms are added in the order of portable/sums.h, counted from the tensor's own beginning, where a
// chunk begins with a block: a lane belongs to a thread.
#include "cases.h"
#include "lanes.h"

namespace fusestep {
namespace device {
namespace {

constexpr unsigned kInFlight = 4;  // elements of each array, for each thread

static_assert(kChunk % kBlock == 0 && kCollectThreads == kChunk / kBlock * kLanes);
static_assert(kThreads % kLanes == 0);

// Outside of device functions, where the constexpr functions of a rule may be called.
template <unsigned variant>
struct Collected {
    static constexpr Access access = Rule::template collect_access<variant>();
};

// This thread's lane of a block of `count` elements, for each sum.
template <class Compiled>
__device__ __forceinline__ void collect_lane(const UpdateLaunch& a, const Leaf& leaf,
                                             const void* gradients, const Entry& entry, Index first,
                                             unsigned count, double* sums) {
    using T = typename Compiled::Type;
    constexpr Access access = Collected<Compiled::variant>::access;
    constexpr unsigned states = access.reads | access.writes;
    constexpr int count_of_sums = Summed<Compiled::variant>::count;
    const auto scalars = scalars_of<T>(entry);
    const auto gradient_scalars = gradient_scalars_of<T>(a, entry);
    const T* const parameter = static_cast<const T*>(leaf.parameter) + first;
    const T* const gradient = static_cast<const T*>(gradients) + first;
    T* arrays[kMaxStates] = {};
    for (int k = 0; k < kMaxStates; ++k) {
        if (has(states, k)) arrays[k] = static_cast<T*>(leaf.state[k]) + first;
    }
    for (unsigned start = threadIdx.x % kLanes; start < count; start += kInFlight * kLanes) {
        T p[kInFlight], g[kInFlight], state[kInFlight][kMaxStates];
#pragma unroll
        for (unsigned j = 0; j < kInFlight; ++j) {
            const unsigned at = start + j * kLanes;
            if (at >= count) continue;
            p[j] = parameter[at];
            g[j] = access.gradient ? gradient[at] : T(0);
#pragma unroll
            for (int k = 0; k < kMaxStates; ++k) {
                state[j][k] = has(access.reads, k) ? arrays[k][at] : T(0);
            }
        }
#pragma unroll
        for (unsigned j = 0; j < kInFlight; ++j) {
            const unsigned at = start + j * kLanes;
            if (at >= count) continue;
            double terms[count_of_sums];
            T treated = treat<Compiled::treatment>(gradient_scalars, g[j]);
            if constexpr (Compiled::units) treated *= unit_factor_of<Compiled>(leaf, first + at);
            Rule::template collect<Compiled::variant>(scalars, treated, p[j], state[j], terms);
#pragma unroll
            for (int k = 0; k < kMaxStates; ++k) {
                if (has(access.writes, k)) arrays[k][at] = state[j][k];
            }
#pragma unroll
            for (int k = 0; k < count_of_sums; ++k) sums[k] += terms[k];
        }
    }
}

// Adds sums of blocks until one is left, which all threads are given.
__device__ __forceinline__ double add_sums(volatile double* sums, Index count) {
    while (count > 1) {
        const Index groups = divide_up(count, kBlock);
        for (Index group = threadIdx.x / kLanes; group - threadIdx.x / kLanes < groups;
             group += kThreads / kLanes) {
            const Index end = (group + 1) * kBlock < count ? (group + 1) * kBlock : count;
            double sum = 0.0;
            for (Index i = group * kBlock + threadIdx.x % kLanes; i < end; i += kLanes) {
                sum += sums[i];
            }
            // all have read, too, before a sum is written where one of the others' was
            sum = add_lanes<kThreads>(sum);
            if (threadIdx.x % kLanes == 0 && group < groups) sums[group] = sum;
        }
        count = groups;
        __syncthreads();
    }
    return sums[0];
}

}  // namespace
}  // namespace device
}  // namespace fusestep

extern "C" __global__ void __launch_bounds__(fusestep::device::kCollectThreads)
    fusestep_collect(const __grid_constant__ fusestep::device::UpdateLaunch a) {
    using namespace fusestep;
    using namespace fusestep::device;
    if (!applies(a)) return;
    const Chunk chunk = a.chunks[blockIdx.x];
    const void* gradient = a.gradients[chunk.leaf];
    if (gradient == nullptr) return;
    const Leaf& leaf = a.leaves[chunk.leaf];
    const Entry& entry = entry_for(a, chunk.leaf);
    const Index block = Index{chunk.index} * (kChunk / kBlock) + threadIdx.x / kLanes;
    const Index first = block * kBlock, blocks = divide_up(leaf.size, kBlock);
    double sums[Rule::kSumCount] = {};
    if (block < blocks) {
        const Index left = leaf.size - first;
        const unsigned count = left < kBlock ? static_cast<unsigned>(left) : kBlock;
        Cases<FUSESTEP_CASES>::visit(entry.kernel_case, [&](auto compiled) {
            using Compiled = decltype(compiled);
            if constexpr (Summed<Compiled::variant>::count > 0) {
                collect_lane<Compiled>(a, leaf, gradient, entry, first, count, sums);
            }
        });
    }
    for (int k = 0; k < Rule::kSumCount; ++k) {
        const double sum = add_lanes<kCollectThreads>(sums[k]);
        if (threadIdx.x % kLanes == 0 && block < blocks) {
            a.sums[leaf.sums + static_cast<Index>(k) * blocks + block] = sum;
        }
    }
}

// A thread block for each leaf, from the first one on.
extern "C" __global__ void __launch_bounds__(fusestep::device::kThreads)
    fusestep_combine(const __grid_constant__ fusestep::device::UpdateLaunch a) {
    using namespace fusestep;
    using namespace fusestep::device;
    const Index i = a.first_leaf + blockIdx.x;
    const Leaf& leaf = a.leaves[i];
    if (!applies(a) || a.gradients[i] == nullptr || leaf.size == 0) return;
    const Index blocks = divide_up(leaf.size, kBlock);
    double sums[Rule::kSumCount];
    for (int k = 0; k < Rule::kSumCount; ++k) {
        sums[k] = add_sums(a.sums + leaf.sums + static_cast<Index>(k) * blocks, blocks);
    }
    if (threadIdx.x > 0) return;
    const Entry& entry = entry_for(a, i);
    Cases<FUSESTEP_CASES>::visit(entry.kernel_case, [&](auto compiled) {
        using Compiled = decltype(compiled);
        using T = typename Compiled::Type;
        using Factors = typename Rule::template Factors<T>;
        static_assert(sizeof(Factors) <= kFactorBytes, "the factors of a rule fit");
        if constexpr (Summed<Compiled::variant>::count > 0) {
            *reinterpret_cast<Factors*>(a.factors + i * kFactorBytes) = Rule::conclude(
                Compiled::variant, scalars_of<T>(entry), sums, static_cast<double>(leaf.size));
        }
    });
}
