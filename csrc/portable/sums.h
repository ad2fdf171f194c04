// The arithmetic of sums: in which order terms are added, what clipping makes of the norm, and how
// gradients are accumulated.
//
// Element i of the index space belongs to block i / kBlock and to lane i % kLanes. The terms of a
// lane are added one after the other in double, then the lanes of the block in pairs: 0 and 8, 1
// and 9, then 0 and 4, and so on. The sums of blocks are added in the same way, until one is left.
// A sum over all gradients counts elements through the whole model; one over a tensor, from its own
// beginning.
#pragma once
#include "compiler.h"

namespace fusestep {

constexpr unsigned kLanes = 16;
constexpr unsigned kBlock = 1024;

// The sum of a block from its lanes, which it leaves changed.
FUSESTEP_INLINE double add_lanes(double* lanes) {
    for (unsigned half = kLanes / 2; half > 0; half /= 2) {
        for (unsigned j = 0; j < half; ++j) lanes[j] += lanes[j + half];
    }
    return lanes[0];
}

// The sum of the sums of blocks, which come one after the other: in the same order, without room
// for all of them.
struct SumOfBlocks {
    static constexpr int kLevels = 4;  // enough for 2^50 elements
    double lanes[kLevels][kLanes];
    unsigned long long count[kLevels];  // of what came to each level
};

FUSESTEP_INLINE void clear(SumOfBlocks& sum) {
    for (int level = 0; level < SumOfBlocks::kLevels; ++level) {
        sum.count[level] = 0;
        for (unsigned j = 0; j < kLanes; ++j) sum.lanes[level][j] = 0.0;
    }
}

FUSESTEP_INLINE double take_lanes(double* lanes) {
    const double sum = add_lanes(lanes);
    for (unsigned j = 0; j < kLanes; ++j) lanes[j] = 0.0;
    return sum;
}

FUSESTEP_INLINE void add_block(SumOfBlocks& sum, double term, int level = 0) {
    for (; level < SumOfBlocks::kLevels; ++level) {
        sum.lanes[level][sum.count[level]++ % kLanes] += term;
        if (sum.count[level] % kBlock != 0) return;
        term = take_lanes(sum.lanes[level]);
    }
}

// Leaves it changed.
FUSESTEP_INLINE double total(SumOfBlocks& sum) {
    for (int level = 0; level + 1 < SumOfBlocks::kLevels; ++level) {
        if (sum.count[level] <= 1) return sum.lanes[level][0];
        if (sum.count[level] % kBlock == 0) continue;
        add_block(sum, take_lanes(sum.lanes[level]), level + 1);
    }
    return add_lanes(sum.lanes[SumOfBlocks::kLevels - 1]);
}

// The power of two by which gradients are multiplied before their squares are added once more: 1
// where the plain sum is good or NaN. With the others no square of a finite double overflows, nor
// does the sum of as many as memory holds; and none that counts is lost below the smallest double.
FUSESTEP_INLINE double scale_for(double plain_sum) {
    if (plain_sum > kUnbounded) return 0x1p-600;
    if (plain_sum < 0x1p-960) return 0x1p600;
    return 1.0;
}

struct GradientNorm {
    double value;   // infinite, too, where finite gradients have a norm beyond double
    double scaled;  // value * scale
    double scale;
};

FUSESTEP_INLINE GradientNorm norm_of_sum(double sum_of_squares, double scale, double grad_scale) {
    const double scaled = square_root(sum_of_squares) / grad_scale;
    return {scaled / scale, scaled, scale};
}

// What brings the norm down to clip_norm: at most 1; NaN for a norm that is NaN; 0 for one that is
// infinite because a gradient is. An infinite clip_norm clips nothing.
FUSESTEP_INLINE double clip_factor(double clip_norm, const GradientNorm& norm) {
    if (norm.value <= clip_norm || clip_norm > kUnbounded) return 1.0;
    return norm.value <= kUnbounded ? clip_norm / norm.value : clip_norm / norm.scaled * norm.scale;
}

template <class T>
FUSESTEP_INLINE T first_of_sum(T weight, T gradient) {
    return weight * gradient;
}

template <class T>
FUSESTEP_INLINE T next_of_sum(T sum, T weight, T gradient) {
    return sum + weight * gradient;
}

}  // namespace fusestep
