// Rprop: steps that follow the sign of the gradient alone: Riedmiller and Braun 1993, in the form
// without backtracking (iRprop-, Igel and Huesken 2000), as in torch.
#pragma once
#include "rule.h"

namespace fusestep {

struct Rprop : RuleDefaults {
    static constexpr const char* kName = "rprop";

    enum : int { kLr, kEtaMinus, kEtaPlus, kMinStep, kMaxStep, kColumnCount };
    static constexpr Column kColumns[kColumnCount] = {
        number("lr"),       fraction("eta_minus"), number("eta_plus", 1.0),
        number("min_step"), number("max_step"),
    };

    enum : int { kStepSize, kPrevious, kStateCount };
    static constexpr State kStates[kStateCount] = {state("step_size"), state("previous")};

    static constexpr unsigned kVariants = 1;

    template <class T>
    struct Scalars {
        T initial;  // what the step size begins with, at the first update
        T eta_minus;
        T eta_plus;
        T min_step;
        T max_step;
    };

    static unsigned states_used(const double*) { return first_states(kStateCount); }

    template <unsigned variant>
    static constexpr Access access() {
        return reads_and_writes(first_states(kStateCount));
    }

    template <class T, class Powers>
    static unsigned prepare(const double* h, long long update_number, Powers&, double* /*values*/,
                            Scalars<T>& s) {
        s.initial = static_cast<T>(update_number == 1 ? h[kLr] : 0.0);
        s.eta_minus = static_cast<T>(h[kEtaMinus]);
        s.eta_plus = static_cast<T>(h[kEtaPlus]);
        s.min_step = static_cast<T>(h[kMinStep]);
        s.max_step = static_cast<T>(h[kMaxStep]);
        return 0;
    }

    template <unsigned variant, class T>
    FUSESTEP_INLINE void update(const Scalars<T>& s, T g, T& p, T* state) {
        T& size = state[kStepSize];
        T& previous = state[kPrevious];
        const T product = g * previous;
        const T grown = product > T(0) ? s.eta_plus : T(1);
        const T factor = product < T(0) ? s.eta_minus : grown;
        size = maximum((size + s.initial) * factor, s.min_step);
        size = size > s.max_step ? s.max_step : size;
        previous = product < T(0) ? T(0) : g;
        p = p - sign(previous) * size;
    }
};

}  // namespace fusestep
