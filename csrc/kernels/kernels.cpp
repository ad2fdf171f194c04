// The loops over memory. Compiled once per instruction set with FUSESTEP_ISA set to its name; the
// one exported symbol is the table kernels_<isa>. No standard headers with inline code may come in
// here: the linker could pick an AVX-512 copy of such a function for everyone.
#include "table.h"

// The arrays of a step never overlap (the Python edge refuses those that do); without being told,
// the compiler tests for it at every call.
#if defined(__clang__)
#define FUSESTEP_INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#elif defined(_MSC_VER)
#define FUSESTEP_INDEPENDENT __pragma(loop(ivdep))
#else
#define FUSESTEP_INDEPENDENT _Pragma("GCC ivdep")
#endif

#if defined(__clang__)
#define FUSESTEP_UNROLL_LANES _Pragma("unroll")
#elif defined(_MSC_VER)
#define FUSESTEP_UNROLL_LANES
#else
#define FUSESTEP_UNROLL_LANES _Pragma("GCC unroll 16")
#endif

namespace fusestep {
namespace {

// Without asking ahead a core waits for memory: measured, sums of squares run at half the rate and
// an AdamW step 5 % slower. What fits the cache gains nothing, so only pieces of large arrays do
// it.
constexpr size_t kLine = 64;  // bytes, as the next two
constexpr size_t kTile = 512;
constexpr size_t kAhead = 2048;
constexpr size_t kLongPiece = 32 * 1024;  // elements

template <class Rule, unsigned variant, int treatment, class T>
void update(const void* scalars, const void* gradient_scalars, size_t n, void* parameter,
            const void* gradient, void* const* state) {
    using Scalars = typename Rule::template Scalars<T>;
    constexpr int states = Rule::template states_touched<variant>();
    constexpr size_t line = kLine / sizeof(T), tile = kTile / sizeof(T), ahead = kAhead / sizeof(T);
    const Scalars s = *static_cast<const Scalars*>(scalars);
    const GradientScalars<T> gs = *static_cast<const GradientScalars<T>*>(gradient_scalars);
    T* p = static_cast<T*>(parameter);
    const T* g = static_cast<const T*>(gradient);
    T* s0 = static_cast<T*>(state[0]);
    T* s1 = static_cast<T*>(state[1]);
    T* s2 = static_cast<T*>(state[2]);
    // never past the end, where another thread's elements begin
    const size_t asked_for = n < kLongPiece ? 0 : n - ahead;
    for (size_t start = 0; start < n; start += tile) {
        const size_t stop = n - start < tile ? n : start + tile;
        for (size_t i = start + ahead; i < stop + ahead && stop <= asked_for; i += line) {
            FUSESTEP_PREFETCH(p + i);
            FUSESTEP_PREFETCH(g + i);
            if constexpr (states > 0) FUSESTEP_PREFETCH(s0 + i);
            if constexpr (states > 1) FUSESTEP_PREFETCH(s1 + i);
            if constexpr (states > 2) FUSESTEP_PREFETCH(s2 + i);
        }
        FUSESTEP_INDEPENDENT
        for (size_t i = start; i < stop; ++i) {
            T element_state[kMaxStates] = {};
            if constexpr (states > 0) element_state[0] = s0[i];
            if constexpr (states > 1) element_state[1] = s1[i];
            if constexpr (states > 2) element_state[2] = s2[i];
            T element = p[i];
            Rule::template update<variant>(s, treat<treatment>(gs, g[i]), element, element_state);
            p[i] = element;
            if constexpr (states > 0) s0[i] = element_state[0];
            if constexpr (states > 1) s1[i] = element_state[1];
            if constexpr (states > 2) s2[i] = element_state[2];
        }
    }
}

template <int variant, class T>
FUSESTEP_INLINE double term(T x, double scale) {
    const double value = static_cast<double>(x);
    return variant == kScaledSum ? value * scale : value;
}

template <class T, int variant>
void sum_squares(size_t n, const void* data, double scale, size_t lane, double* lanes) {
    const T* x = static_cast<const T*>(data);
    size_t i = 0;
    for (; i < n && lane != 0; ++i, lane = (lane + 1) % kLanes) {
        const double value = term<variant>(x[i], scale);
        lanes[lane] += value * value;
    }
    // unrolled, so that the sums live in registers and not in an array
    double sums[kLanes];
    FUSESTEP_UNROLL_LANES
    for (size_t j = 0; j < kLanes; ++j) sums[j] = lanes[j];
    for (; i + kLanes <= n; i += kLanes) {
        FUSESTEP_PREFETCH(x + i + kAhead / sizeof(T));
        FUSESTEP_UNROLL_LANES
        for (size_t j = 0; j < kLanes; ++j) {
            const double value = term<variant>(x[i + j], scale);
            sums[j] += value * value;
        }
    }
    FUSESTEP_UNROLL_LANES
    for (size_t j = 0; j < kLanes; ++j) lanes[j] = sums[j];
    for (size_t j = 0; i < n; ++i, ++j) {
        const double value = term<variant>(x[i], scale);
        lanes[j] += value * value;
    }
}

// Asking ahead gains nothing here: the pieces are short, and the sum of squares has read the
// gradient.
template <class T, int variant>
void accumulate(size_t n, double weight, const void* gradient, void* accumulator) {
    const T w = static_cast<T>(weight);
    const T* g = static_cast<const T*>(gradient);
    T* sum = static_cast<T*>(accumulator);
    FUSESTEP_INDEPENDENT
    for (size_t i = 0; i < n; ++i) {
        if constexpr (variant == kBegin) {
            sum[i] = first_of_sum(w, g[i]);
        } else {
            sum[i] = next_of_sum(sum[i], w, g[i]);
        }
    }
}

template <class T>
void convert(size_t n, const void* source, float scale, float shift, float* target) {
    const T* x = static_cast<const T*>(source);
    for (size_t i = 0; i < n; ++i) target[i] = converted(x[i], scale, shift);
}

bool both_exact(const Operands<float>& single, const Operands<double>& twice) {
    return is_exact(single) && is_exact(twice);
}

template <class Rule, class T, unsigned variant = 0>
constexpr void fill(Update (&rows)[kMaxVariants][kTreatments]) {
    static_assert(Rule::kVariants <= kMaxVariants && Rule::kStates <= kMaxStates);
    if constexpr (variant < Rule::kVariants) {
        rows[variant][kAsIs] = update<Rule, variant, kAsIs, T>;
        rows[variant][kScaled] = update<Rule, variant, kScaled, T>;
        rows[variant][kDivided] = update<Rule, variant, kDivided, T>;
        fill<Rule, T, variant + 1>(rows);
    }
}

constexpr KernelTable make_table() {
    KernelTable table{};
    table.is_exact = both_exact;
#define FUSESTEP_FILL(Rule)                             \
    fill<Rule, float>(table.update[k##Rule][kFloat32]); \
    fill<Rule, double>(table.update[k##Rule][kFloat64]);
    FUSESTEP_RULES(FUSESTEP_FILL)
#undef FUSESTEP_FILL
    table.sum_squares[kFloat32][kPlain] = sum_squares<float, kPlain>;
    table.sum_squares[kFloat32][kScaledSum] = sum_squares<float, kScaledSum>;
    table.sum_squares[kFloat64][kPlain] = sum_squares<double, kPlain>;
    table.sum_squares[kFloat64][kScaledSum] = sum_squares<double, kScaledSum>;
    table.accumulate[kFloat32][kAddTo] = accumulate<float, kAddTo>;
    table.accumulate[kFloat32][kBegin] = accumulate<float, kBegin>;
    table.accumulate[kFloat64][kAddTo] = accumulate<double, kAddTo>;
    table.accumulate[kFloat64][kBegin] = accumulate<double, kBegin>;
    table.convert[kUint8] = convert<unsigned char>;
    table.convert[kInt8] = convert<signed char>;
    table.convert[kUint16] = convert<unsigned short>;
    table.convert[kInt16] = convert<short>;
    table.convert[kUint32] = convert<unsigned int>;
    table.convert[kInt32] = convert<int>;
    table.convert[kInt64] = convert<long long>;
    table.convert[kFloat32Element] = convert<float>;
    table.convert[kFloat64Element] = convert<double>;
    return table;
}

}  // namespace

#define FUSESTEP_JOIN(a, b) a##b
#define FUSESTEP_TABLE_NAME(isa) FUSESTEP_JOIN(kernels_, isa)
extern const KernelTable FUSESTEP_TABLE_NAME(FUSESTEP_ISA);
constexpr KernelTable FUSESTEP_TABLE_NAME(FUSESTEP_ISA) = make_table();

}  // namespace fusestep
