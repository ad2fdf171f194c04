// Elementary functions in twice double's precision. Each is right to about 2^-70, relative to its
// value: rounded to double it gives the nearest double but for one case in a hundred thousand.
#pragma once
#include "double_double.h"

namespace fusestep {

constexpr DoubleDouble kPi = {0x1.921fb54442d18p+1, 0x1.1a62633145c07p-53};
constexpr DoubleDouble kLogTwo = {0x1.62e42fefa39efp-1, 0x1.abc9e3b39803fp-56};
constexpr double kInverseLogTwo = 0x1.71547652b82fep+0;
constexpr DoubleDouble kOne = {1.0, 0.0};

// 1 / n!
constexpr DoubleDouble kInverseFactorial[] = {
    kOne,
    kOne,
    {0x1.0000000000000p-1, 0x0.0p+0},
    {0x1.5555555555555p-3, 0x1.5555555555555p-57},
    {0x1.5555555555555p-5, 0x1.5555555555555p-59},
    {0x1.1111111111111p-7, 0x1.1111111111111p-63},
    {0x1.6c16c16c16c17p-10, -0x1.f49f49f49f49fp-65},
    {0x1.a01a01a01a01ap-13, 0x1.a01a01a01a01ap-73},
};

FUSESTEP_INLINE double round_to_even(double x) {
    constexpr double kShift = 6755399441055744.0;  // 1.5 * 2^52; for |x| < 2^51
    return (x + kShift) - kShift;
}

// 2^k for a whole number k in [-1022, 1023].
FUSESTEP_INLINE double power_of_two(double k) {
    const double shifted = k + (6755399441055744.0 + 1023.0);
    return from_bits(to_bits(shifted) << 52);
}

// The polynomial c[0] + c[1] x + ..., in double: for terms too small to need more.
template <int n, int i = 0>
FUSESTEP_INLINE double tail_of_series(const double (&c)[n], double x) {
    if constexpr (i == n - 1) {
        return c[i];
    } else {
        return fused_multiply_add(tail_of_series<n, i + 1>(c, x), x, c[i]);
    }
}

// exp(x) - 1 for |x| < 0.35.
FUSESTEP_INLINE DoubleDouble exp_minus_one(DoubleDouble x) {
    constexpr double kTail[] = {
        1.0 / 720.0,         1.0 / 5040.0,          1.0 / 40320.0,          1.0 / 362880.0,
        1.0 / 3628800.0,     1.0 / 39916800.0,      1.0 / 479001600.0,      1.0 / 6227020800.0,
        1.0 / 87178291200.0, 1.0 / 1307674368000.0, 1.0 / 20922789888000.0, 1.0 / 355687428096000.0,
    };
    const DoubleDouble tail = exact_product(tail_of_series(kTail, x.hi), x.hi);
    DoubleDouble sum = add_smaller(kInverseFactorial[5], tail);
    sum = add_smaller(kInverseFactorial[4], multiply_finite(sum, x));
    sum = add_smaller(kInverseFactorial[3], multiply_finite(sum, x));
    sum = add_smaller(kInverseFactorial[2], multiply_finite(sum, x));
    return add_smaller(x, multiply_finite(sum, multiply_finite(x, x)));
}

FUSESTEP_INLINE DoubleDouble exponential(DoubleDouble x) {
    constexpr double kHighest = 710.0, kLowest = -746.0;  // beyond them infinity and 0
    const bool high = x.hi > kHighest, low = x.hi < kLowest;
    const DoubleDouble inside = select(high, {kHighest, 0.0}, select(low, {kLowest, 0.0}, x));
    const double k = round_to_even(inside.hi * kInverseLogTwo);
    const DoubleDouble rest = add(inside, multiply_finite({-k, 0.0}, kLogTwo));
    const DoubleDouble value = add_smaller(kOne, exp_minus_one(rest));
    const double half = round_to_even(k * 0.5);
    return scaled(scaled(value, power_of_two(half)), power_of_two(k - half));
}

// log(m) for m in [0.7, 1.42]: a series in double, then one step of Newton's method.
FUSESTEP_INLINE DoubleDouble log_near_one(DoubleDouble m) {
    const double s = (m.hi - 1.0) / (m.hi + 1.0);
    const double z = s * s;
    double series = 1.0 / 21.0;
    series = series * z + 1.0 / 19.0;
    series = series * z + 1.0 / 17.0;
    series = series * z + 1.0 / 15.0;
    series = series * z + 1.0 / 13.0;
    series = series * z + 1.0 / 11.0;
    series = series * z + 1.0 / 9.0;
    series = series * z + 1.0 / 7.0;
    series = series * z + 1.0 / 5.0;
    series = series * z + 1.0 / 3.0;
    const double first = (s + s) + (s + s) * (z * series);
    // m exp(-first) - 1 = (m - 1) + m (exp(-first) - 1)
    const DoubleDouble shrunk = exp_minus_one({-first, 0.0});
    const DoubleDouble rest = add(subtract(m, kOne), multiply(m, shrunk));
    const DoubleDouble second_order = {-0.5 * rest.hi * rest.hi, 0.0};
    return add({first, 0.0}, add(rest, second_order));
}

FUSESTEP_INLINE DoubleDouble logarithm(DoubleDouble x) {
    const bool tiny = x.hi < 0x1p-1000;
    const DoubleDouble lifted = scaled(x, tiny ? 0x1p100 : 1.0);
    const Bits bits = to_bits(lifted.hi);
    // the exponent that leaves a factor in [sqrt(1/2), sqrt(2)), as a double: its bits below 2^52
    constexpr Bits kAbove = 0x3ff0000000000000ULL - 0x3fe6a09e667f3bcdULL;
    const double biased = from_bits(((bits + kAbove) >> 52) | 0x4330000000000000ULL);
    const double exponent = biased - (4503599627370496.0 + 1023.0);
    const double half = round_to_even(exponent * 0.5);
    const DoubleDouble m =
        scaled(scaled(lifted, power_of_two(-half)), power_of_two(half - exponent));
    const double k = exponent - (tiny ? 100.0 : 0.0);
    const DoubleDouble value = add(multiply({k, 0.0}, kLogTwo), log_near_one(m));
    const bool ordinary = (x.hi > 0.0) & (x.hi < infinity());
    const double limit =
        x.hi == 0.0 ? -infinity() : (x.hi == infinity() ? infinity() : not_a_number());
    return select(ordinary, value, {limit, 0.0});
}

// cos(pi x): exactly 0, 1 and -1 where it should be, since x is reduced before pi comes in. For
// |x| < 2^52; far beyond, some value in [-1, 1].
FUSESTEP_INLINE DoubleDouble cosine_of_pi(DoubleDouble x) {
    const double near = x.hi - 2.0 * round_to_even(0.5 * x.hi);
    const double quarter = round_to_even(2.0 * near);
    const DoubleDouble inside = exact_sum(near - 0.5 * quarter, x.lo);
    const bool good = (inside.hi <= 0.3) & (inside.hi >= -0.3);
    const DoubleDouble rest = select(good, inside, {0.0, 0.0});
    const DoubleDouble angle = multiply_finite(rest, kPi);  // within a quarter of pi
    const DoubleDouble z = multiply_finite(angle, angle);
    const bool sine = (quarter == 1.0) | (quarter == -1.0);
    // cos: sum of (-z)^n / (2n)!; sin: angle times the sum of (-z)^n / (2n + 1)!
    constexpr double kCosine[] = {
        1.0 / 40320.0,
        -1.0 / 3628800.0,
        1.0 / 479001600.0,
        -1.0 / 87178291200.0,
        1.0 / 20922789888000.0,
        -1.0 / 6402373705728000.0,
        1.0 / 2432902008176640000.0,
    };
    constexpr double kSine[] = {
        1.0 / 362880.0,
        -1.0 / 39916800.0,
        1.0 / 6227020800.0,
        -1.0 / 1307674368000.0,
        1.0 / 355687428096000.0,
        -1.0 / 121645100408832000.0,
        1.0 / 51090942171709440000.0,
    };
    const double tail = sine ? tail_of_series(kSine, z.hi) : tail_of_series(kCosine, z.hi);
    constexpr auto& f = kInverseFactorial;
    const DoubleDouble square = multiply_finite(z, z);
    const DoubleDouble third = multiply_finite(select(sine, negated(f[7]), negated(f[6])), z);
    const DoubleDouble later =
        add_smaller(select(sine, f[5], f[4]), {third.hi, third.lo + (square.hi * tail)});
    const DoubleDouble first = multiply_finite(select(sine, negated(f[3]), negated(f[2])), z);
    const DoubleDouble rest_of_series = add_smaller(first, multiply_finite(square, later));
    const DoubleDouble sum = add_smaller(kOne, rest_of_series);
    const DoubleDouble value = multiply_finite(sum, select(sine, angle, kOne));
    const bool negative = (quarter > 0.0) | (quarter == -2.0);
    const DoubleDouble turned = select(negative, negated(value), value);
    const bool is_number = x.hi - x.hi == 0.0;
    return {is_number ? turned.hi + 0.0 : not_a_number(),
            is_number ? turned.lo : 0.0};  // 0, not -0
}

// Near 0 the quotient of exponentials would cancel; there the series.
FUSESTEP_INLINE DoubleDouble hyperbolic_tangent(DoubleDouble x) {
    const bool negative = x.hi < 0.0;
    const DoubleDouble size = select(negative, negated(x), x);
    const DoubleDouble shrunk = exponential(scaled(size, -2.0));
    const DoubleDouble far = divide(subtract(kOne, shrunk), add(kOne, shrunk));
    const DoubleDouble square = multiply(size, size);
    const DoubleDouble factor = add_smaller({-0x1.5555555555555p-2, -0x1.5555555555555p-56},
                                            {(2.0 / 15.0) * square.hi, 0.0});
    const DoubleDouble near = add(size, multiply(multiply(size, square), factor));
    const DoubleDouble value = select(size.hi < 0x1p-14, near, far);
    return select(negative, negated(value), value);
}

// As IEEE's pow; a negative base needs a whole exponent.
FUSESTEP_INLINE DoubleDouble power_of(DoubleDouble base, DoubleDouble exponent) {
    const bool negative = base.hi < 0.0;
    const DoubleDouble size = select(negative, negated(base), base);
    const DoubleDouble value = exponential(multiply(exponent, logarithm(size)));
    const DoubleDouble whole = floor_of(exponent);
    const bool is_whole = (whole.hi == exponent.hi) & (whole.lo == exponent.lo);
    const DoubleDouble half = floor_of(scaled(exponent, 0.5));
    const bool is_odd =
        is_whole & ((half.hi + half.hi != exponent.hi) | (half.lo + half.lo != exponent.lo));
    const DoubleDouble mirrored =
        select(is_whole, select(is_odd, negated(value), value), {not_a_number(), 0.0});
    const DoubleDouble any = select(negative, mirrored, value);
    const bool is_one = (exponent.hi == 0.0) | ((base.hi == 1.0) & (base.lo == 0.0));
    return select(is_one, kOne, any);
}

}  // namespace fusestep
