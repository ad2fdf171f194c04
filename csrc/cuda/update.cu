// The update of a whole model in one launch; with sums over tensors, its second pass.
#include "cases.h"

namespace fusestep {
namespace device {
namespace {

constexpr unsigned kVectorBytes = 16;

template <class T, unsigned n>
struct alignas(n * sizeof(T)) Vector {
    T element[n];
};

template <class T, unsigned n>
__device__ __forceinline__ void load(Vector<T, n>& vector, const T* address) {
    vector = *reinterpret_cast<const Vector<T, n>*>(address);
}

template <class T, unsigned n>
__device__ __forceinline__ void store(T* address, const Vector<T, n>& vector) {
    *reinterpret_cast<Vector<T, n>*>(address) = vector;
}

template <class Target, class T, unsigned n>
__device__ __forceinline__ void store_as(Target* address, const Vector<T, n>& vector) {
    Vector<Target, n> rounded;
#pragma unroll
    for (unsigned i = 0; i < n; ++i) rounded.element[i] = static_cast<Target>(vector.element[i]);
    store(address, rounded);
}

// Outside of device functions, where the constexpr functions of a rule may be called.
template <class Compiled>
struct Touched {
    static constexpr Access access = Rule::template access<Compiled::variant>();
    static constexpr bool outputs = Compiled::outputs;
    static constexpr unsigned states = access.reads | access.writes;
    // of each array, in flight for each thread
    static constexpr unsigned vectors = states > 1 ? 1 : 2;
};

// The arrays of one leaf, from the first element on that a thread block updates.
template <class T, class Touched>
struct Arrays {
    T* parameter;
    const T* gradient;
    T* state[kMaxStates];
    // of those with outputs
    T* average = nullptr;  // nullptr: it stays as it is
    T rate = 0;
    float* copy32 = nullptr;
    double* copy64 = nullptr;

    __device__ Arrays(const Leaf& leaf, const void* gradients, Index first, double average_rate)
        : parameter(static_cast<T*>(leaf.parameter) + first),
          gradient(static_cast<const T*>(gradients) + first) {
        for (int k = 0; k < kMaxStates; ++k) {
            if (has(Touched::states, k)) state[k] = static_cast<T*>(leaf.state[k]) + first;
        }
        if (!Touched::outputs) return;
        rate = static_cast<T>(average_rate);
        if (leaf.average != nullptr && rate != 0) average = static_cast<T*>(leaf.average) + first;
        if (leaf.copy == nullptr) return;
        if (leaf.copy_type == 0) {
            copy32 = static_cast<float*>(leaf.copy) + first;
        } else {
            copy64 = static_cast<double*>(leaf.copy) + first;
        }
    }

    __device__ bool aligned() const {
        Index addresses = reinterpret_cast<Index>(parameter);
        if (Touched::access.gradient) addresses |= reinterpret_cast<Index>(gradient);
        for (int k = 0; k < kMaxStates; ++k) {
            if (has(Touched::states, k)) addresses |= reinterpret_cast<Index>(state[k]);
        }
        if (Touched::outputs) addresses |= reinterpret_cast<Index>(average);
        return addresses % kVectorBytes == 0 && (!Touched::outputs || has_aligned_copy());
    }

    // A vector of the copy is longer or shorter where it has another type.
    __device__ bool has_aligned_copy() const {
        constexpr unsigned n = kVectorBytes / sizeof(T);
        return reinterpret_cast<Index>(copy32) % (n * sizeof(float)) == 0 &&
               reinterpret_cast<Index>(copy64) % (n * sizeof(double)) == 0;
    }

    template <unsigned n>
    __device__ __forceinline__ void write_outputs(unsigned at, const Vector<T, n>& p,
                                                  Vector<T, n>& a) const {
        if (average != nullptr) {
#pragma unroll
            for (unsigned i = 0; i < n; ++i) {
                a.element[i] =
                    rate == 1 ? p.element[i] : averaged(a.element[i], p.element[i], rate);
            }
            store(average + at, a);
        }
        if (copy32 != nullptr) store_as(copy32 + at, p);
        if (copy64 != nullptr) store_as(copy64 + at, p);
    }
};

// Elements first to last of the arrays, which begin `from` the beginning of the leaf, in vectors of
// n: all loads of a round come before its arithmetic.
template <class Compiled, unsigned n, class T, class Touched>
__device__ __forceinline__ void update_vectors(const typename Rule::template Scalars<T>& scalars,
                                               const typename Rule::template Factors<T>& factors,
                                               const GradientScalars<T>& gradient_scalars,
                                               const Arrays<T, Touched>& arrays, const Leaf& leaf,
                                               Index from, unsigned first, unsigned last) {
    constexpr unsigned vectors = Touched::vectors, stride = kThreads * n;
    for (unsigned start = first + threadIdx.x * n; start < last; start += stride * vectors) {
        Vector<T, n> p[vectors], g[vectors];
        Vector<T, n> s[vectors][kMaxStates];
        Vector<T, n> a[vectors];
#pragma unroll
        for (unsigned j = 0; j < vectors; ++j) {
            const unsigned at = start + j * stride;
            if (at >= last) continue;
            load(p[j], arrays.parameter + at);
            if (Touched::access.gradient) load(g[j], arrays.gradient + at);
#pragma unroll
            for (int k = 0; k < kMaxStates; ++k) {
                if (has(Touched::access.reads, k)) load(s[j][k], arrays.state[k] + at);
            }
            if constexpr (Touched::outputs) {
                if (arrays.average != nullptr) load(a[j], arrays.average + at);
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
                    if (has(Touched::access.reads, k)) state[k] = s[j][k].element[i];
                }
                const T gradient = Touched::access.gradient ? g[j].element[i] : T(0);
                T treated = treat<Compiled::treatment>(gradient_scalars, gradient);
                if constexpr (Compiled::units) {
                    treated *= unit_factor_of<Compiled>(leaf, from + at + i);
                }
                T& parameter = p[j].element[i];
                if constexpr (Summed<Compiled::variant>::count > 0) {
                    Rule::template update<Compiled::variant>(scalars, factors, treated, parameter,
                                                             state);
                } else {
                    Rule::template update<Compiled::variant>(scalars, treated, parameter, state);
                }
#pragma unroll
                for (int k = 0; k < kMaxStates; ++k) {
                    if (has(Touched::access.writes, k)) s[j][k].element[i] = state[k];
                }
            }
            store(arrays.parameter + at, p[j]);
#pragma unroll
            for (int k = 0; k < kMaxStates; ++k) {
                if (has(Touched::access.writes, k)) store(arrays.state[k] + at, s[j][k]);
            }
            if constexpr (Touched::outputs) arrays.write_outputs(at, p[j], a[j]);
        }
    }
}

template <class Compiled>
__device__ __forceinline__ void update_chunk(const UpdateLaunch& a, const Chunk& chunk,
                                             const void* gradient, const Entry& entry) {
    using T = typename Compiled::Type;
    using Factors = typename Rule::template Factors<T>;
    const Leaf& leaf = a.leaves[chunk.leaf];
    // what is to be updated may begin or end inside the chunk
    const Index chunk_begin = Index{chunk.index} * kChunk, end = leaf.begin + leaf.size;
    const Index first = leaf.begin + chunk_begin < a.first ? a.first - leaf.begin : chunk_begin;
    const Index last = (end < a.last ? end : a.last) - leaf.begin;
    const auto scalars = scalars_of<T>(entry);
    const auto gradient_scalars = gradient_scalars_of<T>(a, entry);
    Factors factors = {};
    if constexpr (Summed<Compiled::variant>::count > 0) {
        factors = *reinterpret_cast<const Factors*>(a.factors + chunk.leaf * kFactorBytes);
    }
    const Arrays<T, Touched<Compiled>> arrays(leaf, gradient, first, entry.average_rate);
    const Index left = (last < chunk_begin + kChunk ? last : chunk_begin + kChunk) - first;
    const unsigned count = static_cast<unsigned>(left);
    constexpr unsigned n = kVectorBytes / sizeof(T);
    const unsigned in_vectors = arrays.aligned() ? count - count % n : 0;
    update_vectors<Compiled, n>(scalars, factors, gradient_scalars, arrays, leaf, first, 0,
                                in_vectors);
    update_vectors<Compiled, 1>(scalars, factors, gradient_scalars, arrays, leaf, first, in_vectors,
                                count);
}

}  // namespace
}  // namespace device
}  // namespace fusestep

extern "C" __global__ void __launch_bounds__(fusestep::device::kThreads)
    fusestep_update(const __grid_constant__ fusestep::device::UpdateLaunch a) {
    using namespace fusestep::device;
    if (!applies(a)) return;
    const Chunk chunk = a.chunks[blockIdx.x];
    const void* gradient = a.gradients[chunk.leaf];
    if (gradient == nullptr) return;
    const Entry& entry = entry_for(a, chunk.leaf);
    Cases<FUSESTEP_CASES>::visit(entry.kernel_case, [&](auto compiled) {
        update_chunk<decltype(compiled)>(a, chunk, gradient, entry);
    });
}
