// The lanes of portable/sums.h, as threads.
#pragma once
#include "../portable/sums.h"

namespace fusestep {
namespace device {
namespace {

// The sum of each kLanes threads, in the first of them.
template <unsigned threads>
__device__ __forceinline__ double add_lanes(double value) {
    __shared__ double lanes[threads];
    for (unsigned half = kLanes / 2; half > 0; half /= 2) {
        lanes[threadIdx.x] = value;
        __syncthreads();
        if (threadIdx.x % kLanes < half) value += lanes[threadIdx.x + half];
        __syncthreads();
    }
    return value;
}

__device__ constexpr unsigned long long divide_up(unsigned long long a, unsigned long long b) {
    return (a + b - 1) / b;
}

}  // namespace
}  // namespace device
}  // namespace fusestep
