// Whether the compiler has left arithmetic as it is written. Options that let it do otherwise may
// reach it from anywhere, so every object of kernels is asked before it is used.
#pragma once

namespace fusestep {

constexpr int kQuotients = 8;

// Numbers that the kernels must not know when they are compiled.
template <class T>
struct Operands {
    T one;
    T small;  // 1 + 2 small is exact, and small * small too little to change it
    T large;  // 1 is too little to change it
    T nan;
    T divisor;
    T dividend[kQuotients];
    T quotient[kQuotients];  // rounded once, which a product with 1 / divisor is not
};

template <class T>
constexpr Operands<T> operands(T nan) {
    Operands<T> o = {T(1), T(1), T(1), nan, T(3), {}, {}};
    while (T(1) + o.small * o.small != T(1)) o.small /= T(2);
    while (o.large + T(1) != o.large) o.large *= T(2);
    for (int i = 0; i < kQuotients; ++i) {
        o.dividend[i] = T(5 + i);
        o.quotient[i] = T(5 + i) / T(3);
    }
    return o;
}

template <class T>
static bool is_exact(const Operands<T>& o) {
    const T sum = o.one + o.small;
    // not 0 if the product is not rounded by itself, or additions are regrouped
    bool exact = sum * sum - (o.one + (o.small + o.small)) == T(0);
    exact &= (o.large + o.one) - o.large == T(0);
    exact &= o.nan != o.nan;
    for (int i = 0; i < kQuotients; ++i) exact &= o.dividend[i] / o.divisor == o.quotient[i];
    return exact;
}

}  // namespace fusestep
