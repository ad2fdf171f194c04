// Lion: steps of one size along the sign of an average: Chen et al. 2023.
#pragma once
#include "cautious.h"

namespace fusestep {

struct Lion : RuleDefaults {
    static constexpr const char* kName = "lion";

    enum : int { kLr, kBeta1, kBeta2, kWeightDecay, kCautious, kColumnCount };
    static constexpr Column kColumns[kColumnCount] = {
        number("lr"),           fraction("beta1"), fraction("beta2"),
        number("weight_decay"), flag("cautious"),
    };

    enum : int { kM, kStateCount };
    static constexpr State kStates[kStateCount] = {state("m")};

    enum Variant : unsigned { kWithCaution = 1 };
    static constexpr unsigned kVariants = 2;

    // of the elements whose direction and gradient agree
    enum : int { kAgreeing, kSumCount };

    template <unsigned variant>
    static constexpr int sums() {
        return (variant & kWithCaution) ? kSumCount : 0;
    }

    template <class T>
    struct Scalars {
        T shrink;  // 1 - lr * weight_decay
        T rate1;   // 1 - beta1
        T rate2;   // 1 - beta2
        T lr;
    };

    template <class T>
    struct Factors {
        T step;
    };

    static unsigned states_used(const double*) { return first_states(kStateCount); }

    template <unsigned variant>
    static constexpr Access collect_access() {
        return {first_states(kStateCount), 0, true};
    }
    template <unsigned variant>
    static constexpr Access access() {
        return reads_and_writes(first_states(kStateCount));
    }

    template <class T, class Powers>
    static unsigned prepare(const double* h, long long /*update_number*/, Powers&,
                            double* /*values*/, Scalars<T>& s) {
        s.shrink = static_cast<T>(1.0 - h[kLr] * h[kWeightDecay]);
        s.rate1 = static_cast<T>(1.0 - h[kBeta1]);
        s.rate2 = static_cast<T>(1.0 - h[kBeta2]);
        s.lr = static_cast<T>(h[kLr]);
        unsigned variant = 0;
        if (h[kCautious] != 0.0) variant |= kWithCaution;
        return variant;
    }

    template <class T>
    FUSESTEP_INLINE T direction(const Scalars<T>& s, T g, T m) {
        return sign(m + s.rate1 * (g - m));
    }

    template <unsigned variant, class T>
    FUSESTEP_INLINE void collect(const Scalars<T>& s, T g, T /*p*/, T* state, double* terms) {
        terms[kAgreeing] = agree(direction(s, g, state[kM]), g) ? 1.0 : 0.0;
    }

    template <class T>
    FUSESTEP_INLINE Factors<T> conclude(unsigned /*variant*/, const Scalars<T>& s,
                                        const double* sums, double size) {
        const double scale = cautious_scale(sums[kAgreeing], size);
        return {static_cast<T>(static_cast<double>(s.lr) * scale)};
    }

    template <unsigned variant, class T>
    FUSESTEP_INLINE void update(const Scalars<T>& s, const Factors<T>& factors, T g, T& p,
                                T* state) {
        T& m = state[kM];
        const T u = direction(s, g, m);
        p = p * s.shrink;
        p = p - (agree(u, g) ? factors.step * u : T(0));
        m = m + s.rate2 * (g - m);
    }

    template <unsigned variant, class T>
    FUSESTEP_INLINE void update(const Scalars<T>& s, T g, T& p, T* state) {
        T& m = state[kM];
        p = p * s.shrink;
        p = p - s.lr * direction(s, g, m);
        m = m + s.rate2 * (g - m);
    }
};

}  // namespace fusestep
