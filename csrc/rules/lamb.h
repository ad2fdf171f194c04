// Adam with a step for each tensor that follows its norm: You et al. 2020, with the conventions of
// timm and apex.
#pragma once
#include "rule.h"

namespace fusestep {

struct Lamb : RuleDefaults {
    static constexpr const char* kName = "lamb";

    enum : int {
        kLr,
        kBeta1,
        kBeta2,
        kEps,
        kWeightDecay,
        kBiasCorrection,
        kGradAveraging,
        kAdamWMode,
        kAlwaysAdapt,
        kTrustClip,
        kColumnCount
    };
    static constexpr Column kColumns[kColumnCount] = {
        number("lr"),           fraction("beta1"),      fraction("beta2"),
        positive("eps"),        number("weight_decay"), flag("bias_correction"),
        flag("grad_averaging"), flag("adam_w_mode"),    flag("always_adapt"),
        flag("trust_clip"),
    };

    enum : int { kM, kV, kStateCount };
    static constexpr State kStates[kStateCount] = {state("m"), state("v")};

    // of the squares of the parameter, and of its direction
    enum : int { kParameter, kDirection, kSumCount };

    enum Variant : unsigned { kAdapted = 1 };
    static constexpr unsigned kVariants = 2;

    template <unsigned variant>
    static constexpr int sums() {
        return (variant & kAdapted) ? kSumCount : 0;
    }

    template <class T>
    struct Scalars {
        T rate1;  // 1 - beta1
        T beta2;
        T rate2;            // 1 - beta2
        T correction;       // 1 / (1 - beta1^t), or 1
        T root_correction;  // 1 / sqrt(1 - beta2^t), or 1
        T eps;
        T lr;
        T weight;          // of the gradient: 1, or 1 / rate1 without averaging
        T gradient_decay;  // weight_decay where it is added to the gradient, else 0
        T decay;           // weight_decay where it is added to the direction, else 0
        T trust_clip;      // 1 or 0
    };

    template <class T>
    struct Factors {
        T step;
    };

    static unsigned states_used(const double*) { return first_states(kStateCount); }

    template <unsigned variant>
    static constexpr Access collect_access() {
        return reads_and_writes(first_states(kStateCount));
    }
    template <unsigned variant>
    static constexpr Access access() {
        if (variant & kAdapted) return {first_states(kStateCount), 0, false};
        return reads_and_writes(first_states(kStateCount));
    }

    template <class T, class Powers>
    static unsigned prepare(const double* h, long long update_number, Powers& powers,
                            double* /*values*/, Scalars<T>& s) {
        double c1 = 1.0, root_c2 = 1.0;
        if (h[kBiasCorrection] != 0.0) {
            c1 = powers.one_minus_power(h[kBeta1], update_number);
            root_c2 = square_root(powers.one_minus_power(h[kBeta2], update_number));
        }
        s.rate1 = static_cast<T>(1.0 - h[kBeta1]);
        s.beta2 = static_cast<T>(h[kBeta2]);
        s.rate2 = static_cast<T>(1.0 - h[kBeta2]);
        s.correction = static_cast<T>(1.0 / c1);
        s.root_correction = static_cast<T>(1.0 / root_c2);
        s.eps = static_cast<T>(h[kEps]);
        s.weight = static_cast<T>(h[kGradAveraging] != 0.0 ? 1.0 : 1.0 / (1.0 - h[kBeta1]));
        const bool in_direction = h[kAdamWMode] != 0.0;
        s.gradient_decay = static_cast<T>(in_direction ? 0.0 : h[kWeightDecay]);
        s.decay = static_cast<T>(in_direction ? h[kWeightDecay] : 0.0);
        s.trust_clip = static_cast<T>(h[kTrustClip]);
        s.lr = static_cast<T>(h[kLr]);
        unsigned variant = 0;
        if (h[kWeightDecay] != 0.0 || h[kAlwaysAdapt] != 0.0) variant |= kAdapted;
        return variant;
    }

    template <class T>
    FUSESTEP_INLINE T direction(const Scalars<T>& s, T p, const T* state) {
        const T u = s.correction * state[kM] / (square_root(state[kV]) * s.root_correction + s.eps);
        const T decayed = u + s.decay * p;
        return s.decay != T(0) ? decayed : u;
    }

    template <class T>
    FUSESTEP_INLINE void average(const Scalars<T>& s, T g, T* state) {
        T& m = state[kM];
        T& v = state[kV];
        m = m + s.rate1 * (g * s.weight - m);
        v = s.beta2 * v + s.rate2 * (g * g);
    }

    template <unsigned variant, class T>
    FUSESTEP_INLINE void collect(const Scalars<T>& s, T g, T p, T* state, double* terms) {
        const T decayed = g + s.gradient_decay * p;
        average(s, s.gradient_decay != T(0) ? decayed : g, state);
        const double size = static_cast<double>(p);
        const double length = static_cast<double>(direction(s, p, state));
        terms[kParameter] = size * size;
        terms[kDirection] = length * length;
    }

    template <class T>
    FUSESTEP_INLINE Factors<T> conclude(unsigned /*variant*/, const Scalars<T>& s,
                                        const double* sums, double /*size*/) {
        if (!(sums[kParameter] > 0.0 && sums[kDirection] > 0.0)) return {s.lr};
        const double ratio = square_root(sums[kParameter]) / square_root(sums[kDirection]);
        if (s.trust_clip != T(0) && ratio > 1.0) return {s.lr};
        return {static_cast<T>(static_cast<double>(s.lr) * ratio)};
    }

    template <unsigned variant, class T>
    FUSESTEP_INLINE void update(const Scalars<T>& s, const Factors<T>& factors, T /*g*/, T& p,
                                T* state) {
        p = p - factors.step * direction(s, p, state);
    }

    template <unsigned variant, class T>
    FUSESTEP_INLINE void update(const Scalars<T>& s, T g, T& p, T* state) {
        average(s, g, state);
        p = p - s.lr * direction(s, p, state);
    }
};

}  // namespace fusestep
