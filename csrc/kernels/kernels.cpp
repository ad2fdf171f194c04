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

// Without software prefetch a core waits for memory: measured, sums of squares run at half the rate
// and an AdamW step 5 % slower. What fits the cache gains nothing, so only pieces of large arrays
// have it.
constexpr size_t kLine = 64;  // bytes, as the next two
constexpr size_t kTile = 512;
constexpr size_t kAhead = 2048;
constexpr size_t kLongPiece = 32 * 1024;  // elements

template <int... indices>
struct Indices {};
template <int count, int... indices>
struct CountTo : CountTo<count - 1, count - 1, indices...> {};
template <int... indices>
struct CountTo<0, indices...> {
    using Type = Indices<indices...>;
};
template <class Rule>
using StatesOf = typename CountTo<Rule::kStateCount>::Type;

template <class Rule, int... k>
constexpr bool are_plain(Indices<k...>) {
    return ((Rule::kStates[k].type == StateType::kParameters &&
             Rule::kStates[k].extent == Extent::kElement) &&
            ...);
}

constexpr bool has(unsigned states, int k) { return (states >> k & 1) != 0; }

template <bool wanted, class T>
FUSESTEP_INLINE void prefetch(const T* address) {
    if constexpr (wanted) FUSESTEP_PREFETCH(address);
}
template <bool wanted, class T>
FUSESTEP_INLINE T load(const T* address) {
    if constexpr (wanted) return *address;
    return T(0);
}
template <bool wanted, class T>
FUSESTEP_INLINE void store(T* address, T value) {
    if constexpr (wanted) *address = value;
}

template <class Rule, unsigned variant, int treatment, class T, int... k>
FUSESTEP_INLINE void update_all(const void* scalars, const void* gradient_scalars, size_t n,
                                void* parameter, const void* gradient, void* const* state,
                                const void* factors, Indices<k...>) {
    using Scalars = typename Rule::template Scalars<T>;
    using Factors = typename Rule::template Factors<T>;
    constexpr Access access = Rule::template access<variant>();
    constexpr bool summed = Rule::template sums<variant>() > 0;
    constexpr size_t line = kLine / sizeof(T), tile = kTile / sizeof(T), ahead = kAhead / sizeof(T);
    const Scalars s = *static_cast<const Scalars*>(scalars);
    const GradientScalars<T> gs = *static_cast<const GradientScalars<T>*>(gradient_scalars);
    T* p = static_cast<T*>(parameter);
    const T* g = static_cast<const T*>(gradient);
    T* const arrays[] = {static_cast<T*>(state[k])...};
    [[maybe_unused]] Factors f{};
    if constexpr (summed) f = *static_cast<const Factors*>(factors);
    // never past the end, where another thread's elements begin
    const size_t prefetched = n < kLongPiece ? 0 : n - ahead;
    for (size_t start = 0; start < n; start += tile) {
        const size_t stop = n - start < tile ? n : start + tile;
        for (size_t i = start + ahead; i < stop + ahead && stop <= prefetched; i += line) {
            FUSESTEP_PREFETCH(p + i);
            prefetch<access.gradient>(g + i);
            (prefetch<has(access.reads | access.writes, k)>(arrays[k] + i), ...);
        }
        FUSESTEP_INDEPENDENT
        for (size_t i = start; i < stop; ++i) {
            T element_state[] = {load<has(access.reads, k)>(arrays[k] + i)...};
            T element = p[i];
            const T treated = treat<treatment>(gs, load<access.gradient>(g + i));
            if constexpr (summed) {
                Rule::template update<variant>(s, f, treated, element, element_state);
            } else {
                Rule::template update<variant>(s, treated, element, element_state);
            }
            p[i] = element;
            (store<has(access.writes, k)>(arrays[k] + i, element_state[k]), ...);
        }
    }
}

template <class Rule, unsigned variant, int treatment, class T>
void update(const void* scalars, const void* gradient_scalars, size_t n, void* parameter,
            const void* gradient, void* const* state, const void* factors) {
    static_assert(are_plain<Rule>(StatesOf<Rule>()),
                  "each element has a place of its own in the arrays of state, in its own type");
    update_all<Rule, variant, treatment, T>(scalars, gradient_scalars, n, parameter, gradient,
                                            state, factors, StatesOf<Rule>());
}

// Adds the first value to lane 0.
FUSESTEP_INLINE void add_to_lanes(size_t n, const double* values, double* lanes) {
    double sums[kLanes];
    FUSESTEP_UNROLL_LANES
    for (size_t j = 0; j < kLanes; ++j) sums[j] = lanes[j];
    size_t i = 0;
    for (; i + kLanes <= n; i += kLanes) {
        FUSESTEP_UNROLL_LANES
        for (size_t j = 0; j < kLanes; ++j) sums[j] += values[i + j];
    }
    FUSESTEP_UNROLL_LANES
    for (size_t j = 0; j < kLanes; ++j) lanes[j] = sums[j];
    for (size_t j = 0; i < n; ++i, ++j) lanes[j] += values[i];
}

// A tile of elements is worked on in vectors; then their terms are added lane by lane.
template <class Rule, unsigned variant, int treatment, class T, int... k>
FUSESTEP_INLINE void collect_all(const void* scalars, const void* gradient_scalars, size_t n,
                                 const void* parameter, const void* gradient, void* const* state,
                                 size_t stride, double* sums, Indices<k...>) {
    using Scalars = typename Rule::template Scalars<T>;
    constexpr Access access = Rule::template collect_access<variant>();
    constexpr int count = Rule::template sums<variant>();
    constexpr size_t line = kLine / sizeof(T), tile = kTile / sizeof(T), ahead = kAhead / sizeof(T);
    static_assert(kBlock % tile == 0 && tile % kLanes == 0);
    const Scalars s = *static_cast<const Scalars*>(scalars);
    const GradientScalars<T> gs = *static_cast<const GradientScalars<T>*>(gradient_scalars);
    const T* p = static_cast<const T*>(parameter);
    const T* g = static_cast<const T*>(gradient);
    T* const arrays[] = {static_cast<T*>(state[k])...};
    const size_t prefetched = n < kLongPiece ? 0 : n - ahead;
    double lanes[count][kLanes] = {};
    for (size_t start = 0; start < n; start += tile) {
        const size_t stop = n - start < tile ? n : start + tile;
        for (size_t i = start + ahead; i < stop + ahead && stop <= prefetched; i += line) {
            FUSESTEP_PREFETCH(p + i);
            prefetch<access.gradient>(g + i);
            (prefetch<has(access.reads | access.writes, k)>(arrays[k] + i), ...);
        }
        double terms[count][tile];
        FUSESTEP_INDEPENDENT
        for (size_t i = start; i < stop; ++i) {
            T element_state[] = {load<has(access.reads, k)>(arrays[k] + i)...};
            double term[count];
            const T treated = treat<treatment>(gs, load<access.gradient>(g + i));
            Rule::template collect<variant>(s, treated, p[i], element_state, term);
            (store<has(access.writes, k)>(arrays[k] + i, element_state[k]), ...);
            for (int j = 0; j < count; ++j) terms[j][i - start] = term[j];
        }
        for (int j = 0; j < count; ++j) add_to_lanes(stop - start, terms[j], lanes[j]);
        if (stop % kBlock != 0 && stop != n) continue;
        for (size_t j = 0; j < count; ++j) {
            sums[j * stride + (stop - 1) / kBlock] = add_lanes(lanes[j]);
            for (double& lane : lanes[j]) lane = 0.0;
        }
    }
}

template <class Rule, unsigned variant, int treatment, class T>
void collect(const void* scalars, const void* gradient_scalars, size_t n, const void* parameter,
             const void* gradient, void* const* state, size_t stride, double* sums) {
    collect_all<Rule, variant, treatment, T>(scalars, gradient_scalars, n, parameter, gradient,
                                             state, stride, sums, StatesOf<Rule>());
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

template <class T, int treatment>
void sum_columns(const void* gradient_scalars, size_t rows, size_t columns, size_t stride,
                 const void* data, double* lanes, double* sums) {
    const GradientScalars<T> gs = *static_cast<const GradientScalars<T>*>(gradient_scalars);
    const T* x = static_cast<const T*>(data);
    constexpr size_t line = kLine / sizeof(T), ahead = 8;  // rows
    for (size_t i = 0; i < rows; ++i, x += stride) {
        double* const lane = lanes + i % kLanes * kColumns;
        if (i + ahead < rows) {
            for (size_t j = 0; j < columns; j += line) FUSESTEP_PREFETCH(x + ahead * stride + j);
        }
        FUSESTEP_INDEPENDENT
        for (size_t j = 0; j < columns; ++j) {
            const double value = static_cast<double>(treat<treatment>(gs, x[j]));
            lane[j] += value * value;
        }
    }
    for (size_t j = 0; j < columns; ++j) {
        double column[kLanes];
        for (size_t i = 0; i < kLanes; ++i) column[i] = lanes[i * kColumns + j];
        sums[j] = add_lanes(column);
    }
}

template <class T, int treatment>
void clip_units(const void* gradient_scalars, const Units& units, size_t first, size_t n,
                const void* gradient, const void* factors, void* target) {
    const GradientScalars<T> gs = *static_cast<const GradientScalars<T>*>(gradient_scalars);
    const size_t inner = static_cast<size_t>(units.inner), count = static_cast<size_t>(units.count);
    const T* g = static_cast<const T*>(gradient);
    const T* const f = static_cast<const T*>(factors);
    T* clipped = static_cast<T*>(target);
    size_t unit = static_cast<size_t>(unit_of(units, first));
    size_t left = inner == 1 ? count - unit : inner - first % inner;  // of a run
    while (n > 0) {
        const size_t run = left < n ? left : n;
        if (inner == 1) {
            FUSESTEP_INDEPENDENT
            for (size_t i = 0; i < run; ++i) clipped[i] = treat<treatment>(gs, g[i]) * f[unit + i];
            unit = 0;
            left = count;
        } else {
            const T factor = f[unit];
            FUSESTEP_INDEPENDENT
            for (size_t i = 0; i < run; ++i) clipped[i] = treat<treatment>(gs, g[i]) * factor;
            unit = unit + 1 == count ? 0 : unit + 1;
            left = inner;
        }
        n -= run;
        g += run;
        clipped += run;
    }
}

// Software prefetch gains nothing here: the pieces are short, and the sum of squares has read the
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

// What an update has just written is read from the cache.
template <class T>
void average(size_t n, double rate, const void* parameter, void* average) {
    constexpr size_t line = kLine / sizeof(T), tile = kTile / sizeof(T), ahead = kAhead / sizeof(T);
    const T r = static_cast<T>(rate);
    const T* p = static_cast<const T*>(parameter);
    T* a = static_cast<T*>(average);
    for (size_t start = 0; start < n; start += tile) {
        const size_t stop = n - start < tile ? n : start + tile;
        for (size_t i = start + ahead; i < stop + ahead && i < n; i += line) {
            FUSESTEP_PREFETCH(a + i);
        }
        FUSESTEP_INDEPENDENT
        for (size_t i = start; i < stop; ++i) a[i] = averaged(a[i], p[i], r);
    }
}

template <class T, class Target>
void round_to(size_t n, const void* parameter, void* copy) {
    const T* p = static_cast<const T*>(parameter);
    Target* c = static_cast<Target*>(copy);
    FUSESTEP_INDEPENDENT
    for (size_t i = 0; i < n; ++i) c[i] = static_cast<Target>(p[i]);
}

template <class T>
void convert(size_t n, const void* source, float scale, float shift, float* target) {
    const T* x = static_cast<const T*>(source);
    for (size_t i = 0; i < n; ++i) target[i] = converted(x[i], scale, shift);
}

bool both_exact(const Operands<float>& single, const Operands<double>& twice) {
    return is_exact(single) && is_exact(twice);
}

template <class Rule, class T, int treatment, unsigned variant>
constexpr void fill(KernelTable& table, RuleIndex rule, DataType type) {
    table.update[rule][type][variant][treatment] = update<Rule, variant, treatment, T>;
    if constexpr (Rule::template sums<variant>() > 0) {
        table.collect[rule][type][variant][treatment] = collect<Rule, variant, treatment, T>;
    }
}

template <class Rule, class T, unsigned variant = 0>
constexpr void fill(KernelTable& table, RuleIndex rule, DataType type) {
    if constexpr (variant < Rule::kVariants) {
        fill<Rule, T, kAsIs, variant>(table, rule, type);
        fill<Rule, T, kScaled, variant>(table, rule, type);
        fill<Rule, T, kDivided, variant>(table, rule, type);
        fill<Rule, T, variant + 1>(table, rule, type);
    }
}

template <class T, int treatment = 0>
constexpr void fill_units(KernelTable& table, DataType type) {
    if constexpr (treatment < kTreatments) {
        table.sum_columns[type][treatment] = sum_columns<T, treatment>;
        table.clip_units[type][treatment] = clip_units<T, treatment>;
        fill_units<T, treatment + 1>(table, type);
    }
}

constexpr KernelTable make_table() {
    KernelTable table{};
    table.is_exact = both_exact;
#define FUSESTEP_FILL(Rule)                      \
    fill<Rule, float>(table, k##Rule, kFloat32); \
    fill<Rule, double>(table, k##Rule, kFloat64);
    FUSESTEP_RULES(FUSESTEP_FILL)
#undef FUSESTEP_FILL
    table.sum_squares[kFloat32][kPlain] = sum_squares<float, kPlain>;
    table.sum_squares[kFloat32][kScaledSum] = sum_squares<float, kScaledSum>;
    table.sum_squares[kFloat64][kPlain] = sum_squares<double, kPlain>;
    table.sum_squares[kFloat64][kScaledSum] = sum_squares<double, kScaledSum>;
    fill_units<float>(table, kFloat32);
    fill_units<double>(table, kFloat64);
    table.accumulate[kFloat32][kAddTo] = accumulate<float, kAddTo>;
    table.accumulate[kFloat32][kBegin] = accumulate<float, kBegin>;
    table.accumulate[kFloat64][kAddTo] = accumulate<double, kAddTo>;
    table.accumulate[kFloat64][kBegin] = accumulate<double, kBegin>;
    table.average[kFloat32] = average<float>;
    table.average[kFloat64] = average<double>;
    table.round_to[kFloat32][kFloat64] = round_to<float, double>;
    table.round_to[kFloat64][kFloat32] = round_to<double, float>;
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
