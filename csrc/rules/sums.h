// The arithmetic of sums over gradients: in which order squares are added, what clipping makes of
// the norm, and how gradients are accumulated.
//
// Element i of the index space belongs to block i / kBlock and to lane i % kLanes. The squares of
// a lane are added one after the other in double, then the lanes of the block in pairs: 0 and 8, 1
// and 9, then 0 and 4, and so on. The sums of blocks are added in the same way, until one is left.
#pragma once
#include "rule.h"

namespace fusestep {

constexpr unsigned kLanes = 16;
constexpr unsigned kBlock = 1024;

FUSESTEP_ELEMENT double norm_of_sum(double sum_of_squares, double grad_scale) {
    return square_root(sum_of_squares) / grad_scale;
}

// At most 1; NaN stays NaN.
FUSESTEP_ELEMENT double clip_factor(double clip_norm, double grad_norm) {
    const double factor = clip_norm / (grad_norm + 1e-6);
    return factor > 1.0 ? 1.0 : factor;
}

template <class T>
FUSESTEP_ELEMENT T first_of_sum(T weight, T gradient) {
    return weight * gradient;
}

template <class T>
FUSESTEP_ELEMENT T next_of_sum(T sum, T weight, T gradient) {
    return sum + weight * gradient;
}

}  // namespace fusestep
