// The order of samples in an epoch: a function of the seed and the epoch alone.
#pragma once
#include <cstddef>
#include <cstdint>

#include "../portable/feistel.h"

namespace fusestep {

// A permutation of [0, n) with all of them equally likely: Fisher and Yates' shuffle, driven by
// Philox under a key that is a hash of seed and epoch.
void shuffled_order(std::uint32_t n, std::uint64_t seed, std::uint64_t epoch, std::uint32_t* order);

// As above within stretches of `window` samples, which themselves stand in shuffled order: samples
// that are close in memory are delivered close in time.
void window_order(std::uint32_t n, std::uint64_t seed, std::uint64_t epoch, std::uint32_t window,
                  std::uint32_t* order);

// An order that takes no memory: sample permuted(feistel, i) stands at place i.
Feistel hashed_order(std::uint64_t n, std::uint64_t seed, std::uint64_t epoch);

}  // namespace fusestep
