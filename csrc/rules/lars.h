// Momentum with a step for each tensor that follows its norm: You et al. 2017, with timm's
// conventions.
#pragma once
#include "rule.h"

namespace fusestep {

struct Lars : RuleDefaults {
    static constexpr const char* kName = "lars";

    enum : int { kBuffer, kStateCount };
    static constexpr State kStates[kStateCount] = {state("momentum")};

    enum : int {
        kLr,
        kMomentum,
        kDampening,
        kWeightDecay,
        kNesterov,
        kBuffered,
        kTrustCoefficient,
        kEps,
        kTrustClip,
        kAlwaysAdapt,
        kColumnCount
    };
    static constexpr Column kColumns[kColumnCount] = {
        number("lr"),
        number("momentum"),
        number("dampening", -kUnbounded),
        number("weight_decay"),
        flag("nesterov"),
        flag("buffered"),  // 1 when momentum is scheduled: update the buffer even at 0
        number("trust_coefficient"),
        number("eps"),
        flag("trust_clip"),
        flag("always_adapt"),
    };

    enum Variant : unsigned { kWithMomentum = 1, kAdapted = 2 };
    static constexpr unsigned kVariants = 4;

    // of the squares of the parameter and of the gradient
    enum : int { kParameter, kGradient, kSumCount };

    template <unsigned variant>
    static constexpr int sums() {
        return (variant & kAdapted) ? kSumCount : 0;
    }

    template <class T>
    struct Scalars {
        T decay;     // weight_decay
        T momentum;  // mu
        T gain;      // 1 - dampening
        T lr;
        T first;       // 1 at a parameter's first update, else 0
        T look_ahead;  // mu with Nesterov, else 0
        T trust_coefficient;
        T eps;
        T trust_clip;  // 1 or 0
    };

    template <class T>
    struct Factors {
        T ratio;
    };

    static bool has_buffer(const double* h) { return h[kMomentum] != 0.0 || h[kBuffered] != 0.0; }

    static unsigned states_used(const double* h) { return first_states(has_buffer(h) ? 1 : 0); }

    template <unsigned variant>
    static constexpr Access collect_access() {
        return {0, 0, true};
    }
    template <unsigned variant>
    static constexpr Access access() {
        return reads_and_writes(first_states((variant & kWithMomentum) ? 1 : 0));
    }

    template <class T, class Powers>
    static unsigned prepare(const double* h, long long update_number, Powers&, double* /*values*/,
                            Scalars<T>& s) {
        s.decay = static_cast<T>(h[kWeightDecay]);
        s.momentum = static_cast<T>(h[kMomentum]);
        s.gain = static_cast<T>(1.0 - h[kDampening]);
        s.lr = static_cast<T>(h[kLr]);
        s.first = static_cast<T>(update_number == 1 ? 1.0 : 0.0);
        s.look_ahead = h[kNesterov] != 0.0 ? s.momentum : T(0);
        s.trust_coefficient = static_cast<T>(h[kTrustCoefficient]);
        s.eps = static_cast<T>(h[kEps]);
        s.trust_clip = static_cast<T>(h[kTrustClip]);
        unsigned variant = 0;
        if (has_buffer(h)) variant |= kWithMomentum;
        if (h[kWeightDecay] != 0.0 || h[kAlwaysAdapt] != 0.0) variant |= kAdapted;
        return variant;
    }

    template <unsigned variant, class T>
    FUSESTEP_INLINE void collect(const Scalars<T>& /*s*/, T g, T p, T* /*state*/, double* terms) {
        const double size = static_cast<double>(p);
        const double slope = static_cast<double>(g);
        terms[kParameter] = size * size;
        terms[kGradient] = slope * slope;
    }

    template <class T>
    FUSESTEP_INLINE Factors<T> conclude(unsigned /*variant*/, const Scalars<T>& s,
                                        const double* sums, double /*size*/) {
        double ratio = 1.0;
        if (sums[kParameter] > 0.0 && sums[kGradient] > 0.0) {
            const double size = square_root(sums[kParameter]);
            const double slope = square_root(sums[kGradient]);
            ratio = static_cast<double>(s.trust_coefficient) * size /
                    (slope + static_cast<double>(s.decay) * size + static_cast<double>(s.eps));
        }
        if (s.trust_clip != T(0)) {
            const double lr = static_cast<double>(s.lr);
            ratio = ratio < lr ? ratio / lr : 1.0;
        }
        return {static_cast<T>(ratio)};
    }

    template <unsigned variant, class T>
    FUSESTEP_INLINE void descend(const Scalars<T>& s, T g, T& p, T* state) {
        if constexpr (variant & kWithMomentum) {
            const T averaged = s.momentum * state[kBuffer] + s.gain * g;
            const T b = s.first != T(0) ? g : averaged;
            state[kBuffer] = b;
            const T ahead = g + s.look_ahead * b;
            g = s.look_ahead != T(0) ? ahead : b;
        }
        p = p - s.lr * g;
    }

    template <unsigned variant, class T>
    FUSESTEP_INLINE void update(const Scalars<T>& s, const Factors<T>& factors, T g, T& p,
                                T* state) {
        descend<variant>(s, (g + s.decay * p) * factors.ratio, p, state);
    }

    template <unsigned variant, class T>
    FUSESTEP_INLINE void update(const Scalars<T>& s, T g, T& p, T* state) {
        descend<variant>(s, g, p, state);
    }
};

}  // namespace fusestep
