// The order of samples in an epoch: a function of the seed and the epoch alone.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

namespace fusestep {

// A permutation of [0, n) with all of them equally likely: Fisher and Yates' shuffle, driven by
// Philox under a key that is a hash of seed and epoch.
std::vector<std::uint32_t> shuffled_order(std::uint32_t n, std::uint64_t seed, std::uint64_t epoch);

// As above within stretches of `window` samples, which themselves stand in shuffled order: samples
// that are close in memory are delivered close in time.
std::vector<std::uint32_t> window_order(std::uint32_t n, std::uint64_t seed, std::uint64_t epoch,
                                        std::uint32_t window);

// A permutation of [0, n) that takes no memory: a Feistel network on the next even number of bits,
// repeated until it hits [0, n). Not all permutations can come out.
class HashedOrder {
 public:
    HashedOrder(std::uint64_t n, std::uint64_t seed, std::uint64_t epoch);
    std::uint64_t operator[](std::uint64_t i) const;

 private:
    static constexpr int kRounds = 12;
    std::uint64_t n_;
    int half_bits_;
    std::uint64_t keys_[kRounds];
};

}  // namespace fusestep
