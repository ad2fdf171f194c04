// RMSprop: Tieleman and Hinton 2012, centred as by Graves 2013, with torch's conventions or those
// of TensorFlow and Keras.
#pragma once
#include "rule.h"

namespace fusestep {

struct Rmsprop : RuleDefaults {
    static constexpr const char* kName = "rmsprop";

    enum : int { kV, kM, kBuffer, kStateCount };
    static constexpr State kStates[kStateCount] = {state("v"), state("m"), state("momentum")};

    enum : int {
        kLr,
        kAlpha,
        kEps,
        kMomentum,
        kWeightDecay,
        kInitialAccumulator,
        kCentered,
        kEpsInSqrt,
        kLrInMomentum,
        kDecoupled,
        kBuffered,
        kColumnCount
    };
    static constexpr Column kColumns[kColumnCount] = {
        number("lr"),       fraction("alpha"),      positive("eps"),
        number("momentum"), number("weight_decay"), number("initial_accumulator_value"),
        flag("centered"),   flag("eps_in_sqrt"),    flag("lr_in_momentum"),
        flag("decoupled"),
        flag("buffered"),  // 1 when momentum is scheduled: update the buffer even at 0
    };

    enum Variant : unsigned { kCoupled = 1, kAboutMean = 2, kWithMomentum = 4 };
    static constexpr unsigned kVariants = 8;

    template <class T>
    struct Scalars {
        T shrink;   // 1 - lr * weight_decay when decoupled, else 1
        T decay;    // weight_decay when coupled
        T initial;  // what v begins with, at the first update
        T alpha;
        T rate;     // 1 - alpha
        T eps_in;   // eps in the root, or 0
        T eps_out;  // eps after the root, or 0
        T momentum;
        T gain;  // lr where the buffer has it or there is none, else 1
        T step;  // lr where the buffer lacks it, else 1
    };

    static bool has_buffer(const double* h) { return h[kMomentum] != 0.0 || h[kBuffered] != 0.0; }

    static constexpr unsigned states(bool centered, bool buffer) {
        return 1u << kV | (centered ? 1u << kM : 0u) | (buffer ? 1u << kBuffer : 0u);
    }
    static unsigned states_used(const double* h) {
        return states(h[kCentered] != 0.0, has_buffer(h));
    }

    template <unsigned variant>
    static constexpr Access access() {
        return reads_and_writes(
            states((variant & kAboutMean) != 0, (variant & kWithMomentum) != 0));
    }

    template <class T, class Powers>
    static unsigned prepare(const double* h, long long update_number, Powers&, double* /*values*/,
                            Scalars<T>& s) {
        const bool decoupled = h[kDecoupled] != 0.0, in_sqrt = h[kEpsInSqrt] != 0.0;
        const bool lr_first = h[kLrInMomentum] != 0.0 || !has_buffer(h);
        s.shrink = static_cast<T>(decoupled ? 1.0 - h[kLr] * h[kWeightDecay] : 1.0);
        s.decay = static_cast<T>(h[kWeightDecay]);
        s.initial = static_cast<T>(update_number == 1 ? h[kInitialAccumulator] : 0.0);
        s.alpha = static_cast<T>(h[kAlpha]);
        s.rate = static_cast<T>(1.0 - h[kAlpha]);
        s.eps_in = static_cast<T>(in_sqrt ? h[kEps] : 0.0);
        s.eps_out = static_cast<T>(in_sqrt ? 0.0 : h[kEps]);
        s.momentum = static_cast<T>(h[kMomentum]);
        s.gain = static_cast<T>(lr_first ? h[kLr] : 1.0);
        s.step = static_cast<T>(lr_first ? 1.0 : h[kLr]);
        unsigned variant = 0;
        if (!decoupled && h[kWeightDecay] != 0.0) variant |= kCoupled;
        if (h[kCentered] != 0.0) variant |= kAboutMean;
        if (has_buffer(h)) variant |= kWithMomentum;
        return variant;
    }

    template <unsigned variant, class T>
    FUSESTEP_INLINE void update(const Scalars<T>& s, T g, T& p, T* state) {
        T& v = state[kV];
        if constexpr (variant & kCoupled) {
            g = g + s.decay * p;
        } else {
            p = p * s.shrink;
        }
        v = s.alpha * (v + s.initial) + s.rate * (g * g);
        T second = v;
        if constexpr (variant & kAboutMean) {
            T& m = state[kM];
            m = m + s.rate * (g - m);
            // a variance that rounding takes below 0 would have no root
            second = maximum(v - m * m, T(0));
        }
        const T d = square_root(second + s.eps_in) + s.eps_out;
        T u = s.gain * g / d;
        if constexpr (variant & kWithMomentum) {
            T& b = state[kBuffer];
            b = s.momentum * b + u;
            u = b;
        }
        p = p - s.step * u;
    }
};

}  // namespace fusestep
