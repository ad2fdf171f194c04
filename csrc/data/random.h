// Random numbers of orders: pure functions of a seed, an epoch and a place.
#pragma once
#include <cstdint>

#include "../portable/philox.h"

namespace fusestep {

// What a key is for: keys for different purposes are unrelated.
enum Purpose : unsigned {
    kShuffle = 1,
    kWindows = 2,
    kWithinWindow = 3,
    kFeistel = 4,
    kWeightedDraws = 5,
    kWeightedOrder = 6,
    kClassesOfRound = 7,
    kDrawsOfClass = 8,
    kOrderOfClass = 9,
};

// A hash, not a sum: neighbouring seeds and epochs share no order.
inline std::uint64_t hashed_key(std::uint64_t seed, std::uint64_t epoch, Purpose purpose,
                                unsigned part = 0) {
    const PhiloxWords counter = {{static_cast<unsigned>(epoch), static_cast<unsigned>(epoch >> 32),
                                  static_cast<unsigned>(purpose), part}};
    const PhiloxWords words = philox(counter, seed);
    return (static_cast<std::uint64_t>(words.w[3]) << 32) | words.w[2];
}

// Words of a stream, one after another; a key has a stream for every part.
class Stream {
 public:
    explicit Stream(std::uint64_t key, std::uint64_t part = 0) : key_(key), part_(part) {}

    // Uniform in [0, bound): Lemire, "Fast random integer generation in an interval", 2019.
    std::uint32_t below(std::uint32_t bound) {
        std::uint64_t product = static_cast<std::uint64_t>(next()) * bound;
        if (static_cast<std::uint32_t>(product) < bound) {
            const std::uint32_t threshold = (0u - bound) % bound;
            while (static_cast<std::uint32_t>(product) < threshold) {
                product = static_cast<std::uint64_t>(next()) * bound;
            }
        }
        return static_cast<std::uint32_t>(product >> 32);
    }

    // The same for bounds up to 2^63.
    std::uint64_t below_wide(std::uint64_t bound) {
        std::uint64_t mask = bound - 1;
        for (int shift = 1; shift < 64; shift *= 2) mask |= mask >> shift;
        while (true) {
            const std::uint64_t high = next();
            const std::uint64_t number = ((high << 32) | next()) & mask;
            if (number < bound) return number;
        }
    }

 private:
    std::uint32_t next() {
        if (used_ == 4) {
            words_ = philox({{static_cast<unsigned>(block_), static_cast<unsigned>(block_ >> 32),
                              static_cast<unsigned>(part_), static_cast<unsigned>(part_ >> 32)}},
                            key_);
            ++block_;
            used_ = 0;
        }
        return words_.w[used_++];
    }

    std::uint64_t key_;
    std::uint64_t part_;
    std::uint64_t block_ = 0;
    PhiloxWords words_{};
    int used_ = 4;
};

// Fisher and Yates: all orders equally likely.
inline void shuffle(std::uint32_t* items, std::uint32_t n, Stream stream) {
    for (std::uint32_t i = n; i > 1; --i) {
        const std::uint32_t j = stream.below(i);
        const std::uint32_t item = items[i - 1];
        items[i - 1] = items[j];
        items[j] = item;
    }
}

}  // namespace fusestep
