// The Adam family. Adam: Kingma and Ba 2015; decoupled decay: Loshchilov and Hutter 2019;
// AMSGrad: Reddi et al. 2018; AdaBelief: Zhuang et al. 2020. Options of Adam, with timm's
// conventions: Nesterov: Dozat 2016; the clipped update: Wortsman et al. 2023; decay by the square
// of the rate: Defazio 2025. Cautious decay: Chen et al. 2025.
#pragma once
#include "cautious.h"

namespace fusestep {

// What decoupled decay multiplies weight_decay by: lr, lr^2 / max_lr or lr / max_lr.
enum DecayRate : int { kByLr, kByMaxLr, kBySchedule, kDecayRates };

// That, divided by lr.
FUSESTEP_INLINE double decay_factor(double decay_by, double lr, double max_lr) {
    if (decay_by == kByMaxLr) return lr / max_lr;
    return decay_by == kBySchedule ? 1.0 / max_lr : 1.0;
}

template <bool belief>
struct AdamFamily : RuleDefaults {
    static constexpr const char* kName = belief ? "adabelief" : "adam";

    enum : int { kM, kV, kVMax, kStateCount };
    static constexpr State kStates[kStateCount] = {state("m"), state("v"), state("v_max")};

    enum : int {
        kLr,
        kBeta1,
        kBeta2,
        kEps,
        kEpsRoot,
        kWeightDecay,
        kDecoupled,
        kAmsgrad,
        kBiasCorrection,
        kEpsHat,
        kBeliefColumns,
        kNesterov = kBeliefColumns,
        kCautious,
        kUpdateClip,
        kCautiousDecay,
        kDecayBy,
        kMaxLr,
        kAdamColumns
    };
    static constexpr int kColumnCount = belief ? kBeliefColumns : kAdamColumns;
    static constexpr Column kColumns[kAdamColumns] = {
        number("lr"),
        fraction("beta1"),
        fraction("beta2"),
        positive("eps"),
        number("eps_root"),
        number("weight_decay"),
        flag("decoupled"),
        flag("amsgrad"),
        flag("bias_correction"),
        flag("eps_hat"),
        flag("nesterov"),
        flag("cautious"),
        positive("update_clip"),  // 0: none
        flag("cautious_decay"),
        choice("decay_by", kDecayRates),
        positive("max_lr"),
    };

    // Extended variants have the options of Adam: those that cost a few operations are numbers.
    enum Variant : unsigned { kCoupled = 1, kWithMaximum = 2, kExtended = 4 };
    static constexpr unsigned kTwoPasses = kExtended | 1;
    static constexpr unsigned kVariants = belief ? 4 : 8;

    // of extended variants in two passes: of the squares of g / d, and of the elements whose
    // momentum and gradient agree
    enum : int { kSquaredRatio, kAgreeing, kAdamSums };
    static constexpr int kSumCount = belief ? 0 : kAdamSums;

    template <unsigned variant>
    static constexpr int sums() {
        return (variant & kTwoPasses) == kTwoPasses ? kSumCount : 0;
    }

    template <class T>
    struct Scalars {
        T shrink;  // 1 - rate * weight_decay when decoupled, else 1
        T decay;   // weight_decay when coupled; of extended variants, 0 when not
        T rate1;   // 1 - beta1
        T beta2;
        T rate2;            // 1 - beta2
        T root_correction;  // 1 / sqrt(1 - beta2^t), or 1
        T eps;
        T eps_root;
        T step;
        // of extended variants
        T ahead;             // 1 - beta1 with Nesterov, else 0
        T shrink_elsewhere;  // where the step leads away from 0: 1 with cautious decay
        T cautious;          // 1 or 0
        T update_clip;       // or 0
    };

    template <class T>
    struct Factors {
        T step;
    };

    static unsigned states_used(const double* h) {
        return first_states(h[kAmsgrad] != 0.0 ? 3 : 2);
    }

    template <unsigned variant>
    static constexpr Access collect_access() {
        return reads_and_writes(first_states((variant & kWithMaximum) ? 3 : 2));
    }
    template <unsigned variant>
    static constexpr Access access() {
        if (sums<variant>() == 0) return collect_access<variant>();
        return {1u << kM | 1u << ((variant & kWithMaximum) ? kVMax : kV), 0, true};
    }

    static double decay_rate(const double* h) {
        if constexpr (belief) return h[kLr];
        return h[kLr] * decay_factor(h[kDecayBy], h[kLr], h[kMaxLr]);
    }

    template <class T, class Powers>
    static unsigned prepare(const double* h, long long update_number, Powers& powers,
                            double* /*values*/, Scalars<T>& s) {
        const bool decoupled = h[kDecoupled] != 0.0;
        double c1 = 1.0, root_c2 = 1.0;
        if (h[kBiasCorrection] != 0.0) {
            c1 = powers.one_minus_power(h[kBeta1], update_number);
            root_c2 = square_root(powers.one_minus_power(h[kBeta2], update_number));
        }
        // eps_mode "hat" adds eps to the uncorrected root, so the correction moves into the step
        const bool hat = h[kEpsHat] != 0.0;
        const bool coupled = !decoupled && h[kWeightDecay] != 0.0;
        s = {};
        s.shrink = static_cast<T>(decoupled ? 1.0 - decay_rate(h) * h[kWeightDecay] : 1.0);
        s.decay = static_cast<T>(h[kWeightDecay]);
        s.rate1 = static_cast<T>(1.0 - h[kBeta1]);
        s.beta2 = static_cast<T>(h[kBeta2]);
        s.rate2 = static_cast<T>(1.0 - h[kBeta2]);
        s.root_correction = static_cast<T>(hat ? 1.0 : 1.0 / root_c2);
        s.eps = static_cast<T>(h[kEps]);
        s.eps_root = static_cast<T>(h[kEpsRoot]);
        s.step = static_cast<T>(hat ? h[kLr] * root_c2 / c1 : h[kLr] / c1);
        unsigned variant = 0;
        if (h[kAmsgrad] != 0.0) variant |= kWithMaximum;
        if constexpr (!belief) {
            const bool two_passes = h[kCautious] != 0.0 || h[kUpdateClip] != 0.0;
            if (two_passes || h[kNesterov] != 0.0 || h[kCautiousDecay] != 0.0) {
                if (!coupled) s.decay = T(0);
                s.ahead = h[kNesterov] != 0.0 ? s.rate1 : T(0);
                s.shrink_elsewhere = h[kCautiousDecay] != 0.0 ? T(1) : s.shrink;
                s.cautious = static_cast<T>(h[kCautious]);
                s.update_clip = static_cast<T>(h[kUpdateClip]);
                return variant | (two_passes ? kTwoPasses : kExtended);
            }
        }
        if (coupled) variant |= kCoupled;
        return variant;
    }

    template <class T>
    static Rest rest(unsigned variant, const Scalars<T>& s) {
        const bool extended = (variant & kExtended) != 0;
        const bool couples = extended ? s.decay != T(0) : (variant & kCoupled) != 0;
        const bool shrinks = s.shrink != T(1) || (extended && s.shrink_elsewhere != T(1));
        const bool moves = couples || shrinks || s.eps_root != T(0);
        return moves ? Rest::kNone : Rest::kWithoutState;
    }

    template <unsigned variant, class T>
    FUSESTEP_INLINE T with_decay(const Scalars<T>& s, T g, T p) {
        if constexpr (variant & kExtended) {
            const T decayed = g + s.decay * p;
            return s.decay != T(0) ? decayed : g;
        } else if constexpr (variant & kCoupled) {
            return g + s.decay * p;
        }
        return g;
    }

    template <unsigned variant, class T>
    FUSESTEP_INLINE void average(const Scalars<T>& s, T g, T* state) {
        T& m = state[kM];
        T& v = state[kV];
        m = m + s.rate1 * (g - m);
        if constexpr (belief) {
            const T surprise = g - m;
            v = (s.beta2 * v + s.rate2 * (surprise * surprise)) + s.eps_root;
        } else {
            v = s.beta2 * v + s.rate2 * (g * g);
        }
        if constexpr (variant & kWithMaximum) state[kVMax] = maximum(state[kVMax], v);
    }

    template <unsigned variant, class T>
    FUSESTEP_INLINE T divisor(const Scalars<T>& s, const T* state) {
        const T second = state[(variant & kWithMaximum) ? kVMax : kV];
        return square_root(second) * s.root_correction + s.eps;
    }

    // The momentum that the step takes; with Nesterov it is once more closer to the gradient.
    template <class T>
    FUSESTEP_INLINE T momentum(const Scalars<T>& s, T g, T m) {
        const T closer = m + s.ahead * (g - m);
        return s.ahead != T(0) ? closer : m;
    }

    template <unsigned variant, class T>
    FUSESTEP_INLINE void collect(const Scalars<T>& s, T g, T p, T* state, double* terms) {
        g = with_decay<variant>(s, g, p);
        average<variant>(s, g, state);
        const double ratio = static_cast<double>(g / divisor<variant>(s, state));
        terms[kSquaredRatio] = ratio * ratio;
        terms[kAgreeing] = agree(momentum(s, g, state[kM]), g) ? 1.0 : 0.0;
    }

    template <class T>
    FUSESTEP_INLINE Factors<T> conclude(unsigned /*variant*/, const Scalars<T>& s,
                                        const double* sums, double size) {
        double step = static_cast<double>(s.step);
        if (s.update_clip != T(0)) {
            const double clip = static_cast<double>(s.update_clip);
            const double excess = square_root(sums[kSquaredRatio] / size) / clip;
            // not where it is NaN, which stays in its element
            if (excess > 1.0) step = step / excess;
        }
        if (s.cautious != T(0)) step = step * cautious_scale(sums[kAgreeing], size);
        return {static_cast<T>(step)};
    }

    // The step of extended variants, once the state is that of this update.
    template <unsigned variant, class T>
    FUSESTEP_INLINE void take_step(const Scalars<T>& s, T step, T g, T& p, const T* state) {
        const T m = momentum(s, g, state[kM]);
        const bool towards_zero = ((m > T(0)) & (p > T(0))) | ((m < T(0)) & (p < T(0)));
        const T u = step * m / divisor<variant>(s, state);
        p = p * (towards_zero ? s.shrink : s.shrink_elsewhere);
        if constexpr ((variant & kTwoPasses) == kTwoPasses) {
            const bool takes_part = (s.cautious == T(0)) | agree(m, g);
            p = p - (takes_part ? u : T(0));
        } else {
            p = p - u;
        }
    }

    template <unsigned variant, class T>
    FUSESTEP_INLINE void update(const Scalars<T>& s, const Factors<T>& factors, T g, T& p,
                                T* state) {
        g = with_decay<variant>(s, g, p);
        take_step<variant>(s, factors.step, g, p, state);
    }

    template <unsigned variant, class T>
    FUSESTEP_INLINE void update(const Scalars<T>& s, T g, T& p, T* state) {
        g = with_decay<variant>(s, g, p);
        if constexpr (variant & kExtended) {
            average<variant>(s, g, state);
            take_step<variant>(s, s.step, g, p, state);
        } else {
            if constexpr (!(variant & kCoupled)) p = p * s.shrink;
            average<variant>(s, g, state);
            p = p - s.step * state[kM] / divisor<variant>(s, state);
        }
    }
};

using Adam = AdamFamily<false>;
using AdaBelief = AdamFamily<true>;

}  // namespace fusestep
