// What differs between the compilers that read this folder and the rules: the C++ compiler for the
// CPU, and NVRTC for the GPU. Nothing here or above it may include a standard header, which NVRTC
// lacks, and whose inline functions could come out compiled for one instruction set only.
//
// Operations are carried out in the order written. The build forbids contraction to fused
// multiply-add, so every compiler, instruction set and GPU gives the same bits.
#pragma once

#if defined(__FAST_MATH__) || defined(_M_FP_FAST) || \
    (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__ > 0)
#error "fusestep promises the same bits everywhere: compile it without loose floating point"
#endif

#if defined(__CUDACC__) || defined(__CUDACC_RTC__)
#define FUSESTEP_INLINE static __host__ __device__ __forceinline__
#elif defined(_MSC_VER)
#include <math.h>  // MSVC has no builtins for these
#include <string.h>
#define FUSESTEP_INLINE static __forceinline
#else
#define FUSESTEP_INLINE static inline __attribute__((always_inline))
#endif

namespace fusestep {

using Bits = unsigned long long;

constexpr double kUnbounded = 1.7976931348623157e308;   // the largest double: finite, but no limit
constexpr double kAboveZero = 4.9406564584124654e-324;  // the smallest double above 0

#if defined(__CUDACC__) || defined(__CUDACC_RTC__)
FUSESTEP_INLINE float square_root(float x) { return sqrtf(x); }
FUSESTEP_INLINE double square_root(double x) { return sqrt(x); }
FUSESTEP_INLINE double fused_multiply_add(double a, double b, double c) { return fma(a, b, c); }
#elif defined(_MSC_VER)
FUSESTEP_INLINE float square_root(float x) { return ::sqrtf(x); }
FUSESTEP_INLINE double square_root(double x) { return ::sqrt(x); }
FUSESTEP_INLINE double fused_multiply_add(double a, double b, double c) { return ::fma(a, b, c); }
#else
FUSESTEP_INLINE float square_root(float x) { return __builtin_sqrtf(x); }
FUSESTEP_INLINE double square_root(double x) { return __builtin_sqrt(x); }
FUSESTEP_INLINE double fused_multiply_add(double a, double b, double c) {
    return __builtin_fma(a, b, c);
}
#endif

#if defined(__CUDACC__) || defined(__CUDACC_RTC__) || defined(_MSC_VER)
#define FUSESTEP_COPY memcpy
#else
#define FUSESTEP_COPY __builtin_memcpy
#endif

FUSESTEP_INLINE Bits to_bits(double x) {
    Bits bits;
    FUSESTEP_COPY(&bits, &x, sizeof bits);
    return bits;
}
FUSESTEP_INLINE double from_bits(Bits bits) {
    double x;
    FUSESTEP_COPY(&x, &bits, sizeof x);
    return x;
}

FUSESTEP_INLINE double infinity() { return from_bits(0x7FF0000000000000ULL); }
FUSESTEP_INLINE double not_a_number() { return from_bits(0x7FF8000000000000ULL); }

// The larger of two values; a NaN wins, as in numpy.maximum.
template <class T>
FUSESTEP_INLINE T maximum(T a, T b) {
    return (a >= b || a != a) ? a : b;
}

// 1 or -1; a zero or a NaN stays what it is.
template <class T>
FUSESTEP_INLINE T sign(T x) {
    // one choice after the other: GCC leaves a loop with a choice in a choice scalar
    const T above = x > T(0) ? T(1) : x;
    return x < T(0) ? T(-1) : above;
}

}  // namespace fusestep
