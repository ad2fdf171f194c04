// Schedule-Free learning: Defazio et al. 2024. The parameter is y, where gradients are taken.
#pragma once
#include "../portable/elementary.h"
#include "rule.h"

namespace fusestep {

struct ScheduleFree : RuleDefaults {
    // the largest learning rate so far, and the sum of the weights of all updates
    enum : int { kLrMax, kWeightSum, kValueCount };
    static constexpr Value kValues[kValueCount] = {{"lr_max", 0.0, 0.0, kUnbounded},
                                                   {"weight_sum", 0.0, 0.0, kUnbounded}};

    static constexpr unsigned kVariants = 1;

    struct Settings {
        double lr;
        double beta1;
        double warmup_steps;
        double r;
        double weight_lr_power;
    };
    // How far one update goes.
    struct Weighted {
        double lr;     // for z
        double share;  // of z in the average
        double step;   // for y
    };

    static Weighted weigh(const Settings& h, long long update_number, double* values) {
        const double t = static_cast<double>(update_number);
        const double lr = t < h.warmup_steps ? h.lr * (t / h.warmup_steps) : h.lr;
        const double lr_max = lr > values[kLrMax] ? lr : values[kLrMax];
        const double weight = power_of({t, 0.0}, {h.r, 0.0}).hi *
                              power_of({lr_max, 0.0}, {h.weight_lr_power, 0.0}).hi;
        const double weight_sum = values[kWeightSum] + weight;
        values[kLrMax] = lr_max;
        values[kWeightSum] = weight_sum;
        const double share = weight_sum != 0.0 ? weight / weight_sum : 0.0;
        return {lr, share, lr * (1.0 - h.beta1 * (1.0 - share))};
    }

    template <class Scalars, class T>
    FUSESTEP_INLINE void move(const Scalars& s, T u, T& y, T& z) {
        y = y + s.share * (z - y);
        y = y - s.step * u;
        z = z - s.lr * u;
    }
};

struct ScheduleFreeSgd : ScheduleFree {
    static constexpr const char* kName = "schedule_free_sgd";

    enum : int { kLr, kMomentum, kWeightDecay, kWarmupSteps, kR, kWeightLrPower, kColumnCount };
    static constexpr Column kColumns[kColumnCount] = {
        number("lr"),
        between_zero_and_one("momentum"),
        number("weight_decay"),
        number("warmup_steps"),
        number("r"),
        number("weight_lr_power"),
    };

    enum : int { kZ, kStateCount };
    static constexpr State kStates[kStateCount] = {state("z", from_parameter())};

    template <class T>
    struct Scalars {
        T decay;
        T share;
        T step;
        T lr;
    };

    static unsigned states_used(const double*) { return first_states(kStateCount); }

    template <unsigned variant>
    static constexpr Access access() {
        return reads_and_writes(first_states(kStateCount));
    }

    template <class T, class Powers>
    static unsigned prepare(const double* h, long long update_number, Powers&, double* values,
                            Scalars<T>& s) {
        const Weighted weighted =
            weigh({h[kLr], h[kMomentum], h[kWarmupSteps], h[kR], h[kWeightLrPower]}, update_number,
                  values);
        s.decay = static_cast<T>(h[kWeightDecay]);
        s.share = static_cast<T>(weighted.share);
        s.step = static_cast<T>(weighted.step);
        s.lr = static_cast<T>(weighted.lr);
        return 0;
    }

    template <unsigned variant, class T>
    FUSESTEP_INLINE void update(const Scalars<T>& s, T g, T& p, T* state) {
        move(s, g + s.decay * p, p, state[kZ]);
    }
};

struct ScheduleFreeAdamW : ScheduleFree {
    static constexpr const char* kName = "schedule_free_adamw";

    enum : int {
        kLr,
        kBeta1,
        kBeta2,
        kEps,
        kWeightDecay,
        kWarmupSteps,
        kR,
        kWeightLrPower,
        kColumnCount
    };
    static constexpr Column kColumns[kColumnCount] = {
        number("lr"),    between_zero_and_one("beta1"), fraction("beta2"),
        positive("eps"), number("weight_decay"),        number("warmup_steps"),
        number("r"),     number("weight_lr_power"),
    };

    enum : int { kZ, kV, kStateCount };
    static constexpr State kStates[kStateCount] = {state("z", from_parameter()), state("v")};

    template <class T>
    struct Scalars {
        T beta2;
        T rate2;            // 1 - beta2
        T root_correction;  // 1 / sqrt(1 - beta2^t)
        T eps;
        T decay;
        T share;
        T step;
        T lr;
    };

    static unsigned states_used(const double*) { return first_states(kStateCount); }

    template <unsigned variant>
    static constexpr Access access() {
        return reads_and_writes(first_states(kStateCount));
    }

    template <class T, class Powers>
    static unsigned prepare(const double* h, long long update_number, Powers& powers,
                            double* values, Scalars<T>& s) {
        const Weighted weighted = weigh(
            {h[kLr], h[kBeta1], h[kWarmupSteps], h[kR], h[kWeightLrPower]}, update_number, values);
        s.beta2 = static_cast<T>(h[kBeta2]);
        s.rate2 = static_cast<T>(1.0 - h[kBeta2]);
        s.root_correction =
            static_cast<T>(1.0 / square_root(powers.one_minus_power(h[kBeta2], update_number)));
        s.eps = static_cast<T>(h[kEps]);
        s.decay = static_cast<T>(h[kWeightDecay]);
        s.share = static_cast<T>(weighted.share);
        s.step = static_cast<T>(weighted.step);
        s.lr = static_cast<T>(weighted.lr);
        return 0;
    }

    template <unsigned variant, class T>
    FUSESTEP_INLINE void update(const Scalars<T>& s, T g, T& p, T* state) {
        T& v = state[kV];
        v = s.beta2 * v + s.rate2 * (g * g);
        const T d = square_root(v) * s.root_correction + s.eps;
        move(s, g / d + s.decay * p, p, state[kZ]);
    }
};

}  // namespace fusestep
