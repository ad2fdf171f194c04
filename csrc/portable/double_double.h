// Numbers of twice double's precision: the unevaluated sum of two doubles, about 106 bits.
// Schedules are computed in these and rounded once, so a value is the double nearest to its
// formula.
//
// No branches, so that loops over these functions become vector code. Every operation is an IEEE
// one or a fused multiply-add asked for by name, so the bits are the same on all of them.
// Algorithms and error bounds: Joldes, Muller and Popescu, "Tight and rigorous error bounds for
// basic building blocks of double-word arithmetic", 2017.
#pragma once

#include "compiler.h"

namespace fusestep {

// hi is the double nearest to hi + lo. Where hi is infinite or NaN, lo is 0.
struct DoubleDouble {
    double hi;
    double lo;
};

FUSESTEP_INLINE double finite_or_zero(double x) { return x - x == 0.0 ? x : 0.0; }

// For |hi| >= |lo| or hi = 0. Where hi is infinite or NaN the corrections are meaningless.
FUSESTEP_INLINE DoubleDouble renormalized(double hi, double lo) {
    lo = finite_or_zero(lo);
    const double sum = hi + lo;
    return {sum, finite_or_zero(lo - (sum - hi))};
}

FUSESTEP_INLINE DoubleDouble exact_sum(double a, double b) {
    const double sum = a + b;
    const double part = sum - a;
    return {sum, (a - (sum - part)) + (b - part)};
}

FUSESTEP_INLINE DoubleDouble exact_product(double a, double b) {
    const double product = a * b;
    return {product, fused_multiply_add(a, b, -product)};
}

FUSESTEP_INLINE DoubleDouble negated(DoubleDouble a) { return {-a.hi, -a.lo}; }

FUSESTEP_INLINE DoubleDouble add(DoubleDouble a, DoubleDouble b) {
    const DoubleDouble high = exact_sum(a.hi, b.hi);
    const DoubleDouble low = exact_sum(a.lo, b.lo);
    const DoubleDouble sum = renormalized(high.hi, high.lo + low.hi);
    return renormalized(sum.hi, sum.lo + low.lo);
}

// With operands that are doubles, the same in fewer operations.
FUSESTEP_INLINE DoubleDouble add(double a, double b) {
    const DoubleDouble sum = exact_sum(a, b);
    return {sum.hi, finite_or_zero(sum.lo)};
}

FUSESTEP_INLINE DoubleDouble add(DoubleDouble a, double b) {
    const DoubleDouble sum = exact_sum(a.hi, b);
    return renormalized(sum.hi, sum.lo + a.lo);
}

// Inside functions, where all is finite by design: |hi| >= |lo| or hi = 0.
FUSESTEP_INLINE DoubleDouble joined(double hi, double lo) {
    const double sum = hi + lo;
    return {sum, lo - (sum - hi)};
}

// For |a| >= |b| where the two do not cancel; all finite.
FUSESTEP_INLINE DoubleDouble add_smaller(DoubleDouble a, DoubleDouble b) {
    const DoubleDouble sum = joined(a.hi, b.hi);
    return joined(sum.hi, sum.lo + (a.lo + b.lo));
}

// All finite.
FUSESTEP_INLINE DoubleDouble multiply_finite(DoubleDouble a, DoubleDouble b) {
    const DoubleDouble product = exact_product(a.hi, b.hi);
    const double mixed = fused_multiply_add(a.lo, b.hi, a.hi * b.lo);
    return joined(product.hi, product.lo + mixed);
}

FUSESTEP_INLINE DoubleDouble subtract(DoubleDouble a, DoubleDouble b) { return add(a, negated(b)); }
FUSESTEP_INLINE DoubleDouble subtract(DoubleDouble a, double b) { return add(a, -b); }
FUSESTEP_INLINE DoubleDouble subtract(double a, double b) { return add(a, -b); }

FUSESTEP_INLINE DoubleDouble multiply(DoubleDouble a, DoubleDouble b) {
    const DoubleDouble product = exact_product(a.hi, b.hi);
    const double mixed = fused_multiply_add(a.lo, b.hi, a.hi * b.lo);
    return renormalized(product.hi, product.lo + mixed);
}

FUSESTEP_INLINE DoubleDouble multiply(double a, double b) {
    const DoubleDouble product = exact_product(a, b);
    return {product.hi, finite_or_zero(product.lo)};
}

FUSESTEP_INLINE DoubleDouble multiply(DoubleDouble a, double b) {
    const DoubleDouble product = exact_product(a.hi, b);
    return renormalized(product.hi, fused_multiply_add(a.lo, b, product.lo));
}

// By a power of two.
FUSESTEP_INLINE DoubleDouble scaled(DoubleDouble a, double factor) {
    return {a.hi * factor, finite_or_zero(a.lo * factor)};
}

FUSESTEP_INLINE DoubleDouble divide(DoubleDouble a, DoubleDouble b) {
    const double quotient = a.hi / b.hi;
    double rest = fused_multiply_add(-quotient, b.hi, a.hi);
    rest = fused_multiply_add(-quotient, b.lo, rest) + a.lo;
    return renormalized(quotient, rest / b.hi);
}

FUSESTEP_INLINE DoubleDouble divide(DoubleDouble a, double b) {
    const double quotient = a.hi / b;
    const double rest = fused_multiply_add(-quotient, b, a.hi) + a.lo;
    return renormalized(quotient, rest / b);
}

FUSESTEP_INLINE DoubleDouble divide(double a, double b) {
    const double quotient = a / b;
    return renormalized(quotient, fused_multiply_add(-quotient, b, a) / b);
}

// With 1 / b at hand: the correction needs no division of its own.
FUSESTEP_INLINE DoubleDouble divide(DoubleDouble a, double b, double inverse) {
    const double quotient = a.hi / b;
    const double rest = fused_multiply_add(-quotient, b, a.hi) + a.lo;
    return renormalized(quotient, rest * inverse);
}

FUSESTEP_INLINE DoubleDouble square_root(DoubleDouble a) {
    const double first = square_root(a.hi);
    const double rest = fused_multiply_add(-first, first, a.hi) + a.lo;
    return renormalized(first, rest / (first + first));
}

FUSESTEP_INLINE DoubleDouble select(bool condition, DoubleDouble a, DoubleDouble b) {
    return {condition ? a.hi : b.hi, condition ? a.lo : b.lo};
}

FUSESTEP_INLINE bool is_less(DoubleDouble a, DoubleDouble b) {
    return (a.hi < b.hi) | ((a.hi == b.hi) & (a.lo < b.lo));
}

FUSESTEP_INLINE bool is_less_or_equal(DoubleDouble a, DoubleDouble b) {
    return (a.hi < b.hi) | ((a.hi == b.hi) & (a.lo <= b.lo));
}

// A NaN wins, as in numpy.minimum.
FUSESTEP_INLINE DoubleDouble smaller(DoubleDouble a, DoubleDouble b) {
    return select(is_less(a, b) | (a.hi != a.hi), a, b);
}

FUSESTEP_INLINE DoubleDouble larger(DoubleDouble a, DoubleDouble b) {
    return select(is_less(b, a) | (a.hi != a.hi), a, b);
}

// From 2^52 on every double is whole; adding and taking away 2^52 leaves the nearest whole number.
FUSESTEP_INLINE double floor_of(double x) {
    constexpr double kWhole = 4503599627370496.0;
    const double size = x < 0.0 ? -x : x;
    const double nearest = (size + kWhole) - kWhole;
    const double whole = x < 0.0 ? -nearest : nearest;
    const double below = whole - (whole > x ? 1.0 : 0.0);
    return size < kWhole ? below : x;
}

FUSESTEP_INLINE DoubleDouble floor_of(DoubleDouble a) {
    const double whole = floor_of(a.hi);
    return renormalized(whole, whole == a.hi ? floor_of(a.lo) : 0.0);
}

}  // namespace fusestep
