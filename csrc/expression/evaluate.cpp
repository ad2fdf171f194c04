// Loops over a block of clocks, one for each operation. Compiled once for each instruction set,
// like the kernels: one exported symbol, no standard library, no allocation.
#include "../portable/elementary.h"
#include "../portable/philox.h"
#include "instruction.h"

namespace fusestep {
namespace {

#if defined(_MSC_VER)
#define FUSESTEP_RESTRICT __restrict
#else
#define FUSESTEP_RESTRICT __restrict__
#endif

struct Columns {
    double* hi;
    double* lo;
    size_t stride;

    DoubleDouble get(size_t r, size_t i) const { return {hi[r * stride + i], lo[r * stride + i]}; }
    void set(size_t r, size_t i, DoubleDouble value) const {
        hi[r * stride + i] = value.hi;
        lo[r * stride + i] = value.lo;
    }
};

template <DoubleDouble (*function)(DoubleDouble)>
void map(const Instruction& in, Columns c, size_t n) {
    const double* FUSESTEP_RESTRICT ah = c.hi + in.operand[0] * c.stride;
    const double* FUSESTEP_RESTRICT al = c.lo + in.operand[0] * c.stride;
    double* FUSESTEP_RESTRICT rh = c.hi + in.result * c.stride;
    double* FUSESTEP_RESTRICT rl = c.lo + in.result * c.stride;
    for (size_t i = 0; i < n; ++i) {
        const DoubleDouble r = function({ah[i], al[i]});
        rh[i] = r.hi;
        rl[i] = r.lo;
    }
}

template <class Operand>
FUSESTEP_INLINE Operand load(const double* hi, const double* lo, size_t i) {
    if constexpr (sizeof(Operand) == sizeof(double)) {
        return hi[i];
    } else {
        return {hi[i], lo[i]};
    }
}

template <class A, class B, DoubleDouble (*function)(A, B)>
void map(const Instruction& in, Columns c, size_t n) {
    const double* FUSESTEP_RESTRICT ah = c.hi + in.operand[0] * c.stride;
    const double* FUSESTEP_RESTRICT al = c.lo + in.operand[0] * c.stride;
    const double* FUSESTEP_RESTRICT bh = c.hi + in.operand[1] * c.stride;
    const double* FUSESTEP_RESTRICT bl = c.lo + in.operand[1] * c.stride;
    double* FUSESTEP_RESTRICT rh = c.hi + in.result * c.stride;
    double* FUSESTEP_RESTRICT rl = c.lo + in.result * c.stride;
    for (size_t i = 0; i < n; ++i) {
        const DoubleDouble r = function(load<A>(ah, al, i), load<B>(bh, bl, i));
        rh[i] = r.hi;
        rl[i] = r.lo;
    }
}

FUSESTEP_INLINE DoubleDouble less(DoubleDouble a, DoubleDouble b) {
    return {is_less(a, b) ? 1.0 : 0.0, 0.0};
}

FUSESTEP_INLINE DoubleDouble less_equal(DoubleDouble a, DoubleDouble b) {
    return {is_less_or_equal(a, b) ? 1.0 : 0.0, 0.0};
}

void divide_by(const Instruction& in, Columns c, size_t n) {
    const double* FUSESTEP_RESTRICT ah = c.hi + in.operand[0] * c.stride;
    const double* FUSESTEP_RESTRICT al = c.lo + in.operand[0] * c.stride;
    const double* FUSESTEP_RESTRICT b = c.hi + in.operand[1] * c.stride;
    const double* FUSESTEP_RESTRICT inverse = c.hi + in.operand[2] * c.stride;
    double* FUSESTEP_RESTRICT rh = c.hi + in.result * c.stride;
    double* FUSESTEP_RESTRICT rl = c.lo + in.result * c.stride;
    for (size_t i = 0; i < n; ++i) {
        const DoubleDouble r = divide({ah[i], al[i]}, b[i], inverse[i]);
        rh[i] = r.hi;
        rl[i] = r.lo;
    }
}

// With bits: a compiler may make a branch of a choice between two loads.
void where(const Instruction& in, Columns c, size_t n) {
    const double* FUSESTEP_RESTRICT condition = c.hi + in.operand[0] * c.stride;
    double* const columns[] = {c.hi, c.lo};
    for (double* column : columns) {
        const double* FUSESTEP_RESTRICT a = column + in.operand[1] * c.stride;
        const double* FUSESTEP_RESTRICT b = column + in.operand[2] * c.stride;
        double* FUSESTEP_RESTRICT r = column + in.result * c.stride;
        for (size_t i = 0; i < n; ++i) {
            const Bits chosen = condition[i] != 0.0 ? ~Bits{0} : Bits{0};
            r[i] = from_bits((to_bits(a[i]) & chosen) | (to_bits(b[i]) & ~chosen));
        }
    }
}

void look_up(const Instruction& in, Columns c, size_t n) {
    const double last = static_cast<double>(in.table_size - 1);
    for (size_t i = 0; i < n; ++i) {
        const double at = floor_of(c.get(in.operand[0], i)).hi;
        const double inside = at > 0.0 ? (at < last ? at : last) : 0.0;
        const double value = in.table[static_cast<size_t>(inside)];
        c.set(in.result, i, {at == at ? value : at, 0.0});
    }
}

void count(const Instruction& in, Columns c, size_t n) {
    for (size_t i = 0; i < n; ++i) {
        const DoubleDouble a = c.get(in.operand[0], i);
        size_t below = 0, above = in.table_size;
        while (below < above) {
            const size_t middle = below + (above - below) / 2;
            if (is_less_or_equal({in.table[middle], 0.0}, a)) {
                below = middle + 1;
            } else {
                above = middle;
            }
        }
        c.set(in.result, i, {a.hi == a.hi ? static_cast<double>(below) : a.hi, 0.0});
    }
}

// A whole number in [0, 2^63), exact; anything else counts as 0.
unsigned long long whole(DoubleDouble a) {
    const bool inside = a.hi >= 0.0 && a.hi < 0x1p63;
    return inside ? static_cast<unsigned long long>(a.hi) +
                        static_cast<unsigned long long>(static_cast<long long>(a.lo))
                  : 0;
}

void random(const Instruction& in, Columns c, size_t n) {
    for (size_t i = 0; i < n; ++i) {
        const DoubleDouble at = floor_of(c.get(in.operand[0], i));
        const unsigned long long seed =
            whole(c.get(in.operand[1], i)) + (whole(c.get(in.operand[2], i)) << 32);
        c.set(in.result, i, {at.hi == at.hi ? random_number(whole(at), seed) : at.hi, 0.0});
    }
}

using Loop = void (*)(const Instruction& in, Columns c, size_t n);

template <DoubleDouble (*function)(DoubleDouble, DoubleDouble)>
constexpr Loop both = map<DoubleDouble, DoubleDouble, function>;

// For operands of twice double's precision; for a first, and for both, that are doubles.
struct Loops {
    Loop general;
    Loop with_double;
    Loop of_doubles;
};

#define FUSESTEP_ARITHMETIC(function) \
    {both<function>, map<DoubleDouble, double, function>, map<double, double, function>}
#define FUSESTEP_GENERAL(loop) {loop, loop, loop}

constexpr Loops op_loops[kOperations] = {
    FUSESTEP_ARITHMETIC(add),
    FUSESTEP_ARITHMETIC(subtract),
    FUSESTEP_ARITHMETIC(multiply),
    FUSESTEP_ARITHMETIC(divide),
    FUSESTEP_GENERAL(both<power_of>),
    FUSESTEP_GENERAL(both<smaller>),
    FUSESTEP_GENERAL(both<larger>),
    FUSESTEP_GENERAL(both<less>),
    FUSESTEP_GENERAL(both<less_equal>),
    FUSESTEP_GENERAL(where),
    FUSESTEP_GENERAL(map<floor_of>),
    FUSESTEP_GENERAL(map<square_root>),
    FUSESTEP_GENERAL(map<exponential>),
    FUSESTEP_GENERAL(map<logarithm>),
    FUSESTEP_GENERAL(map<cosine_of_pi>),
    FUSESTEP_GENERAL(map<hyperbolic_tangent>),
    FUSESTEP_GENERAL(divide_by),
    FUSESTEP_GENERAL(look_up),
    FUSESTEP_GENERAL(count),
    FUSESTEP_GENERAL(random),
};

void evaluate(const Instruction* code, size_t instructions, double* hi, double* lo, size_t stride,
              size_t n) {
    for (size_t i = 0; i < instructions; ++i) {
        const Loops& loops = op_loops[code[i].operation];
        const Loop loop = code[i].form == kGeneral      ? loops.general
                          : code[i].form == kWithDouble ? loops.with_double
                                                        : loops.of_doubles;
        loop(code[i], {hi, lo, stride}, n);
    }
}

}  // namespace

#define FUSESTEP_JOIN(a, b) a##b
#define FUSESTEP_EVALUATE_NAME(isa) FUSESTEP_JOIN(evaluate_, isa)
extern const Evaluate FUSESTEP_EVALUATE_NAME(FUSESTEP_ISA);
constexpr Evaluate FUSESTEP_EVALUATE_NAME(FUSESTEP_ISA) = evaluate;

}  // namespace fusestep
