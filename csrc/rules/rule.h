// The contract of an update rule, and the few functions that rules share.
//
// These headers are compiled by the C++ compiler for the CPU and by NVRTC for the GPU, so they
// include nothing and use no standard library. A rule is a struct with
//
// - kName, kStates, kColumns: its name, its state arrays and its hyper-parameters;
// - kVariants: how many compile-time variants its update has;
// - Scalars<T>: what the update of one element needs, in the compute type T;
// - prepare: once per step, on the host, in double: hyper-parameters -> Scalars, variant. It is
//   given a source of 1 - beta^n, and fills Scalars with numbers of type T alone;
// - states_used: how many state arrays the given hyper-parameters ask for;
// - states_touched<variant>: how many of them that variant reads and writes;
// - update<variant>: one element: parameter and state, given the gradient.
//
// Operations are carried out in the order written. The build forbids contraction to fused
// multiply-add, so every compiler, instruction set and GPU gives the same bits.
#pragma once

#if defined(__FAST_MATH__) || defined(_M_FP_FAST) || \
    (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__ > 0)
#error "fusestep promises the same bits everywhere: compile it without loose floating point"
#endif

#if defined(__CUDACC__) || defined(__CUDACC_RTC__)
#define FUSESTEP_ELEMENT static __host__ __device__ __forceinline__
#elif defined(_MSC_VER)
#include <math.h>  // MSVC has no builtin square root
#define FUSESTEP_ELEMENT static __forceinline
#else
#define FUSESTEP_ELEMENT static inline __attribute__((always_inline))
#endif

namespace fusestep {

constexpr int kMaxStates = 3;
constexpr int kMaxVariants = 16;
constexpr int kScalarBytes = 64;                        // the largest Rule::Scalars<T> fits
constexpr double kUnbounded = 1.7976931348623157e308;   // the largest double: finite, but no limit
constexpr double kAboveZero = 4.9406564584124654e-324;  // the smallest double above 0

// One hyper-parameter. A flag is 0 or 1 and fixed when the optimizer is built.
struct Column {
    const char* name;
    double lower;
    double upper;
    bool upper_open;
    bool flag;
};

constexpr Column number(const char* name, double lower = 0.0, double upper = kUnbounded) {
    return {name, lower, upper, false, false};
}
constexpr Column positive(const char* name) { return number(name, kAboveZero); }
constexpr Column fraction(const char* name) { return {name, 0.0, 1.0, true, false}; }
constexpr Column flag(const char* name) { return {name, 0.0, 1.0, false, true}; }

#if defined(__CUDACC__) || defined(__CUDACC_RTC__)
FUSESTEP_ELEMENT float square_root(float x) { return sqrtf(x); }
FUSESTEP_ELEMENT double square_root(double x) { return sqrt(x); }
#elif defined(_MSC_VER)
FUSESTEP_ELEMENT float square_root(float x) { return ::sqrtf(x); }
FUSESTEP_ELEMENT double square_root(double x) { return ::sqrt(x); }
#else
FUSESTEP_ELEMENT float square_root(float x) { return __builtin_sqrtf(x); }
FUSESTEP_ELEMENT double square_root(double x) { return __builtin_sqrt(x); }
#endif

// The larger of two values; a NaN wins, as in numpy.maximum.
template <class T>
FUSESTEP_ELEMENT T maximum(T a, T b) {
    return (a >= b || a != a) ? a : b;
}

// What happens to a gradient before a rule sees it: divided by the loss scale, multiplied by the
// clipping factor (negative to maximize), clamped to [-limit, limit].
enum Treatment : int { kAsIs, kScaled, kDivided, kTreatments };

template <class T>
struct GradientScalars {
    T divisor;
    T shift;  // 1, or a power of two that the factor is larger by
    T factor;
    T limit;
};

// A factor below float32's normal numbers would lose digits; the gradient is then brought nearer
// to it first.
template <class T>
FUSESTEP_ELEMENT void set_factor(GradientScalars<T>& s, double factor) {
    const double size = factor < 0.0 ? -factor : factor;
    const bool small = sizeof(T) == sizeof(float) && size < 0x1p-126;
    s.shift = static_cast<T>(small ? 0x1p-96 : 1.0);
    s.factor = static_cast<T>(small ? factor * 0x1p96 : factor);
}

template <int treatment, class T>
FUSESTEP_ELEMENT T treat(const GradientScalars<T>& s, T g) {
    if constexpr (treatment == kDivided) g = g / s.divisor;
    if constexpr (treatment != kAsIs) {
        g = g * s.shift;
        g = g * s.factor;
        g = g < -s.limit ? -s.limit : g;
        g = g > s.limit ? s.limit : g;
    }
    return g;
}

}  // namespace fusestep
