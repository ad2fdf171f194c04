// The update of a whole model in one launch.
//
// FUSESTEP_RULE is the rule, FUSESTEP_CASES the list of the values of Entry::kernel_case that are
// compiled in.
#include "../rules/all.h"
#include "launch.h"

namespace fusestep {
namespace device {
namespace {

using Rule = FUSESTEP_RULE;
using Index = unsigned long long;

constexpr unsigned kVectorBytes = 16;

template <int type>
struct ElementOf {
    using Type = float;
};
template <>
struct ElementOf<1> {
    using Type = double;
};

template <class T, unsigned n>
struct alignas(n * sizeof(T)) Vector {
    T element[n];
};

__device__ constexpr bool has(unsigned states, int k) { return (states >> k & 1) != 0; }

// The arrays of one leaf, from the beginning of a chunk on; `states` are those in use, as bits.
template <class T, unsigned states>
struct Arrays {
    T* parameter;
    const T* gradient;
    T* state[kMaxStates];

    __device__ Arrays(const Leaf& leaf, const void* gradients, Index first)
        : parameter(static_cast<T*>(leaf.parameter) + first),
          gradient(static_cast<const T*>(gradients) + first) {
        for (int k = 0; k < kMaxStates; ++k) {
            if (has(states, k)) state[k] = static_cast<T*>(leaf.state[k]) + first;
        }
    }

    __device__ bool aligned() const {
        Index addresses = reinterpret_cast<Index>(parameter) | reinterpret_cast<Index>(gradient);
        for (int k = 0; k < kMaxStates; ++k) {
            if (has(states, k)) addresses |= reinterpret_cast<Index>(state[k]);
        }
        return addresses % kVectorBytes == 0;
    }
};

template <class T, unsigned n>
__device__ __forceinline__ void load(Vector<T, n>& vector, const T* address) {
    vector = *reinterpret_cast<const Vector<T, n>*>(address);
}

template <class T, unsigned n>
__device__ __forceinline__ void store(T* address, const Vector<T, n>& vector) {
    *reinterpret_cast<Vector<T, n>*>(address) = vector;
}

// Elements first to last of the arrays, in vectors of n: all loads of a round come before its
// arithmetic.
template <class Compiled, unsigned n, class T, unsigned states>
__device__ __forceinline__ void update_vectors(const typename Rule::template Scalars<T>& scalars,
                                               const GradientScalars<T>& gradient_scalars,
                                               const Arrays<T, states>& arrays, unsigned first,
                                               unsigned last) {
    constexpr unsigned vectors = states > 1 ? 1 : 2;  // of each array, in flight for each thread
    constexpr unsigned stride = kThreads * n;
    for (unsigned start = first + threadIdx.x * n; start < last; start += stride * vectors) {
        Vector<T, n> p[vectors], g[vectors];
        Vector<T, n> s[vectors][kMaxStates];
#pragma unroll
        for (unsigned j = 0; j < vectors; ++j) {
            const unsigned at = start + j * stride;
            if (at >= last) continue;
            load(p[j], arrays.parameter + at);
            load(g[j], arrays.gradient + at);
#pragma unroll
            for (int k = 0; k < kMaxStates; ++k) {
                if (has(states, k)) load(s[j][k], arrays.state[k] + at);
            }
        }
#pragma unroll
        for (unsigned j = 0; j < vectors; ++j) {
            const unsigned at = start + j * stride;
            if (at >= last) continue;
#pragma unroll
            for (unsigned i = 0; i < n; ++i) {
                T state[kMaxStates] = {};
#pragma unroll
                for (int k = 0; k < kMaxStates; ++k) {
                    if (has(states, k)) state[k] = s[j][k].element[i];
                }
                Rule::template update<Compiled::variant>(
                    scalars, treat<Compiled::treatment>(gradient_scalars, g[j].element[i]),
                    p[j].element[i], state);
#pragma unroll
                for (int k = 0; k < kMaxStates; ++k) {
                    if (has(states, k)) s[j][k].element[i] = state[k];
                }
            }
            store(arrays.parameter + at, p[j]);
#pragma unroll
            for (int k = 0; k < kMaxStates; ++k) {
                if (has(states, k)) store(arrays.state[k] + at, s[j][k]);
            }
        }
    }
}

// Outside of device functions, where the constexpr functions of a rule may be called.
template <unsigned kernel_case>
struct Case {
    static constexpr unsigned variant = kernel_case % kMaxVariants;
    static constexpr int treatment = kernel_case / kMaxVariants % kTreatments;
    static constexpr unsigned states = Rule::template access<variant>().reads;
    using Type = typename ElementOf<kernel_case / kMaxVariants / kTreatments>::Type;
};

template <unsigned kernel_case>
__device__ __forceinline__ void update_chunk(const Entry& entry, double factor, const Leaf& leaf,
                                             const void* gradient, Index first) {
    using Compiled = Case<kernel_case>;
    using T = typename Compiled::Type;
    using Scalars = typename Rule::template Scalars<T>;
    static_assert(sizeof(Scalars) <= kScalarBytes, "the scalars of a rule fit an entry");
    const Scalars scalars = *reinterpret_cast<const Scalars*>(entry.scalars);
    GradientScalars<T> gradient_scalars;
    gradient_scalars.divisor = static_cast<T>(entry.divisor);
    gradient_scalars.limit = static_cast<T>(entry.limit);
    set_factor(gradient_scalars, entry.sign * factor);
    const Arrays<T, Compiled::states> arrays(leaf, gradient, first);
    const Index left = leaf.size - first;
    const unsigned count = left < kChunk ? static_cast<unsigned>(left) : kChunk;
    constexpr unsigned n = kVectorBytes / sizeof(T);
    const unsigned in_vectors = arrays.aligned() ? count - count % n : 0;
    update_vectors<Compiled, n>(scalars, gradient_scalars, arrays, 0, in_vectors);
    update_vectors<Compiled, 1>(scalars, gradient_scalars, arrays, in_vectors, count);
}

template <unsigned... cases>
struct Cases {
    // What is not compiled in is left alone.
    static __device__ __forceinline__ void update(const Entry& entry, double factor,
                                                  const Leaf& leaf, const void* gradient,
                                                  Index first) {
        static_cast<void>(((entry.kernel_case == cases &&
                            (update_chunk<cases>(entry, factor, leaf, gradient, first), true)) ||
                           ...));
    }
};

}  // namespace
}  // namespace device
}  // namespace fusestep

extern "C" __global__ void __launch_bounds__(fusestep::device::kThreads)
    fusestep_update(const __grid_constant__ fusestep::device::UpdateLaunch a) {
    using namespace fusestep::device;
    if (a.outcome != nullptr && !a.outcome->applies) return;
    const Chunk chunk = a.chunks[blockIdx.x];
    const void* gradient = a.gradients[chunk.leaf];
    if (gradient == nullptr) return;
    const Index row = a.outcome == nullptr ? 0 : a.outcome->row;
    const double factor = a.outcome == nullptr ? 1.0 : a.outcome->factor;
    const unsigned which = a.entry_of == nullptr ? 0 : a.entry_of[chunk.leaf];
    const Entry& entry = a.table == nullptr ? a.entry[which] : a.table[row * a.entries + which];
    Cases<FUSESTEP_CASES>::update(entry, factor, a.leaves[chunk.leaf], gradient,
                                  Index{chunk.index} * kChunk);
}
