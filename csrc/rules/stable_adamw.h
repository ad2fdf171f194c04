// Adam whose updates are clipped, tensor by tensor: Wortsman et al. 2023, with optimi's
// conventions.
#pragma once
#include "adam.h"

namespace fusestep {

struct StableAdamW : RuleDefaults {
    static constexpr const char* kName = "stable_adamw";

    enum : int { kLr, kBeta1, kBeta2, kEps, kWeightDecay, kDecayBy, kMaxLr, kColumnCount };
    static constexpr Column kColumns[kColumnCount] = {
        number("lr"),       fraction("beta1"),      fraction("beta2"),
        positive("eps"),    number("weight_decay"), choice("decay_by", kDecayRates),
        positive("max_lr"),
    };

    enum : int { kM, kV, kStateCount };
    static constexpr State kStates[kStateCount] = {state("m"), state("v")};

    // of g^2 / max(v, eps^2)
    enum : int { kRatio, kSumCount };

    static constexpr unsigned kVariants = 1;

    template <unsigned variant>
    static constexpr int sums() {
        return kSumCount;
    }

    template <class T>
    struct Scalars {
        T rate1;  // (1 - beta1) / (1 - beta1^t)
        T keep2;  // 1 - rate2
        T rate2;  // (1 - beta2) / (1 - beta2^t)
        T eps;
        T floor;  // eps^2
        T lr;
        T decay;  // by which the clipped lr is multiplied
    };

    template <class T>
    struct Factors {
        T shrink;
        T step;
    };

    static unsigned states_used(const double*) { return first_states(kStateCount); }

    template <unsigned variant>
    static constexpr Access collect_access() {
        return reads_and_writes(first_states(kStateCount));
    }
    template <unsigned variant>
    static constexpr Access access() {
        return {first_states(kStateCount), 0, false};
    }

    template <class T, class Powers>
    static unsigned prepare(const double* h, long long update_number, Powers& powers,
                            double* /*values*/, Scalars<T>& s) {
        const double rate2 = (1.0 - h[kBeta2]) / powers.one_minus_power(h[kBeta2], update_number);
        s.rate1 =
            static_cast<T>((1.0 - h[kBeta1]) / powers.one_minus_power(h[kBeta1], update_number));
        s.keep2 = static_cast<T>(1.0 - rate2);
        s.rate2 = static_cast<T>(rate2);
        s.eps = static_cast<T>(h[kEps]);
        s.floor = static_cast<T>(h[kEps] * h[kEps]);
        s.lr = static_cast<T>(h[kLr]);
        s.decay = static_cast<T>(h[kWeightDecay] * decay_factor(h[kDecayBy], h[kLr], h[kMaxLr]));
        return 0;
    }

    template <unsigned variant, class T>
    FUSESTEP_INLINE void collect(const Scalars<T>& s, T g, T /*p*/, T* state, double* terms) {
        T& m = state[kM];
        T& v = state[kV];
        const T square = g * g;
        m = m + s.rate1 * (g - m);
        v = s.keep2 * v + s.rate2 * square;
        terms[kRatio] = static_cast<double>(square / maximum(v, s.floor));
    }

    template <class T>
    FUSESTEP_INLINE Factors<T> conclude(unsigned /*variant*/, const Scalars<T>& s,
                                        const double* sums, double size) {
        const double rms = square_root(sums[kRatio] / size);
        double lr = static_cast<double>(s.lr);
        if (rms > 1.0) lr = lr / rms;  // not where it is NaN, which stays in its element
        return {static_cast<T>(1.0 - lr * static_cast<double>(s.decay)), static_cast<T>(lr)};
    }

    template <unsigned variant, class T>
    FUSESTEP_INLINE void update(const Scalars<T>& s, const Factors<T>& factors, T /*g*/, T& p,
                                T* state) {
        p = p * factors.shrink;
        p = p - factors.step * state[kM] / (square_root(state[kV]) + s.eps);
    }
};

}  // namespace fusestep
