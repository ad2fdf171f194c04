// Adagrad: Duchi et al. 2011, with torch's conventions or those of Keras and optax.
#pragma once
#include "rule.h"

namespace fusestep {

struct Adagrad : RuleDefaults {
    static constexpr const char* kName = "adagrad";

    enum : int { kSum, kStateCount };
    static constexpr State kStates[kStateCount] = {state("sum")};

    enum : int {
        kLr,
        kLrDecay,
        kEps,
        kWeightDecay,
        kInitialAccumulator,
        kEpsInSqrt,
        kDecoupled,
        kColumnCount
    };
    static constexpr Column kColumns[kColumnCount] = {
        number("lr"),
        number("lr_decay"),
        positive("eps"),
        number("weight_decay"),
        number("initial_accumulator_value"),
        flag("eps_in_sqrt"),
        flag("decoupled"),
    };

    enum Variant : unsigned { kCoupled = 1 };
    static constexpr unsigned kVariants = 2;

    template <class T>
    struct Scalars {
        T shrink;   // 1 - step * weight_decay when decoupled, else 1
        T decay;    // weight_decay when coupled
        T initial;  // what the sum begins with, at the first update
        T eps_in;   // eps in the root, or 0
        T eps_out;  // eps after the root, or 0
        T step;     // lr / (1 + (t - 1) * lr_decay)
    };

    static unsigned states_used(const double*) { return first_states(kStateCount); }

    template <unsigned variant>
    static constexpr Access access() {
        return reads_and_writes(first_states(kStateCount));
    }

    template <class T, class Powers>
    static unsigned prepare(const double* h, long long update_number, Powers&, double* /*values*/,
                            Scalars<T>& s) {
        const bool decoupled = h[kDecoupled] != 0.0, in_sqrt = h[kEpsInSqrt] != 0.0;
        const double before = static_cast<double>(update_number - 1);
        const double step = h[kLr] / (1.0 + before * h[kLrDecay]);
        s.shrink = static_cast<T>(decoupled ? 1.0 - step * h[kWeightDecay] : 1.0);
        s.decay = static_cast<T>(h[kWeightDecay]);
        s.initial = static_cast<T>(update_number == 1 ? h[kInitialAccumulator] : 0.0);
        s.eps_in = static_cast<T>(in_sqrt ? h[kEps] : 0.0);
        s.eps_out = static_cast<T>(in_sqrt ? 0.0 : h[kEps]);
        s.step = static_cast<T>(step);
        unsigned variant = 0;
        if (!decoupled && h[kWeightDecay] != 0.0) variant |= kCoupled;
        return variant;
    }

    template <class T>
    static Rest rest(unsigned variant, const Scalars<T>& s) {
        const bool moves = (variant & kCoupled) || s.shrink != T(1) || s.initial != T(0);
        return moves ? Rest::kNone : Rest::kAll;
    }

    template <unsigned variant, class T>
    FUSESTEP_INLINE void update(const Scalars<T>& s, T g, T& p, T* state) {
        T& sum = state[kSum];
        if constexpr (variant & kCoupled) {
            g = g + s.decay * p;
        } else {
            p = p * s.shrink;
        }
        sum = (sum + s.initial) + g * g;
        p = p - s.step * g / (square_root(sum + s.eps_in) + s.eps_out);
    }
};

}  // namespace fusestep
