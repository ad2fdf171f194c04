#include "order.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "../schedule/philox.h"

namespace fusestep {
namespace {

// What a key is for: keys for different purposes are unrelated.
enum Purpose : unsigned { kShuffle = 1, kWindows = 2, kWithinWindow = 3, kFeistel = 4 };

// A hash, not a sum: neighbouring seeds and epochs share no order.
std::uint64_t hashed_key(std::uint64_t seed, std::uint64_t epoch, Purpose purpose, unsigned part) {
    const PhiloxWords counter = {{static_cast<unsigned>(epoch), static_cast<unsigned>(epoch >> 32),
                                  static_cast<unsigned>(purpose), part}};
    const PhiloxWords words = philox(counter, seed);
    return (static_cast<std::uint64_t>(words.w[3]) << 32) | words.w[2];
}

// Words of a stream, one after another.
class Stream {
 public:
    explicit Stream(std::uint64_t key) : key_(key) {}

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

 private:
    std::uint32_t next() {
        if (used_ == 4) {
            words_ = philox(
                {{static_cast<unsigned>(block_), static_cast<unsigned>(block_ >> 32), 0, 0}}, key_);
            ++block_;
            used_ = 0;
        }
        return words_.w[used_++];
    }

    std::uint64_t key_;
    std::uint64_t block_ = 0;
    PhiloxWords words_{};
    int used_ = 4;
};

void shuffle(std::uint32_t* items, std::uint32_t n, std::uint64_t key) {
    Stream stream(key);
    for (std::uint32_t i = n; i > 1; --i) std::swap(items[i - 1], items[stream.below(i)]);
}

}  // namespace

std::vector<std::uint32_t> shuffled_order(std::uint32_t n, std::uint64_t seed,
                                          std::uint64_t epoch) {
    std::vector<std::uint32_t> order(n);
    std::iota(order.begin(), order.end(), 0u);
    shuffle(order.data(), n, hashed_key(seed, epoch, kShuffle, 0));
    return order;
}

std::vector<std::uint32_t> window_order(std::uint32_t n, std::uint64_t seed, std::uint64_t epoch,
                                        std::uint32_t window) {
    const std::uint32_t count = n / window + (n % window != 0 ? 1 : 0);
    std::vector<std::uint32_t> windows(count), order;
    std::iota(windows.begin(), windows.end(), 0u);
    shuffle(windows.data(), count, hashed_key(seed, epoch, kWindows, 0));
    order.reserve(n);
    for (const std::uint32_t w : windows) {
        const std::uint32_t begin = w * window, size = std::min(window, n - begin);
        const std::size_t first = order.size();
        for (std::uint32_t i = 0; i < size; ++i) order.push_back(begin + i);
        shuffle(order.data() + first, size, hashed_key(seed, epoch, kWithinWindow, w));
    }
    return order;
}

Feistel hashed_order(std::uint64_t n, std::uint64_t seed, std::uint64_t epoch) {
    unsigned bits = 2;  // of n - 1, made even
    while (bits < 64 && ((n - 1) >> bits) != 0) bits += 2;
    Feistel feistel{};
    feistel.n = n;
    feistel.half_bits = bits / 2;
    for (int round = 0; round < Feistel::kRounds; ++round) {
        feistel.keys[round] = hashed_key(seed, epoch, kFeistel, static_cast<unsigned>(round));
    }
    return feistel;
}

}  // namespace fusestep
