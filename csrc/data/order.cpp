#include "order.h"

#include <algorithm>
#include <numeric>
#include <vector>

#include "random.h"

namespace fusestep {

void shuffled_order(std::uint32_t n, std::uint64_t seed, std::uint64_t epoch,
                    std::uint32_t* order) {
    std::iota(order, order + n, 0u);
    shuffle(order, n, Stream(hashed_key(seed, epoch, kShuffle)));
}

void window_order(std::uint32_t n, std::uint64_t seed, std::uint64_t epoch, std::uint32_t window,
                  std::uint32_t* order) {
    const std::uint32_t count = n / window + (n % window != 0 ? 1 : 0);
    std::vector<std::uint32_t> windows(count);
    std::iota(windows.begin(), windows.end(), 0u);
    shuffle(windows.data(), count, Stream(hashed_key(seed, epoch, kWindows)));
    for (const std::uint32_t w : windows) {
        const std::uint32_t begin = w * window, size = std::min(window, n - begin);
        std::iota(order, order + size, begin);
        shuffle(order, size, Stream(hashed_key(seed, epoch, kWithinWindow, w)));
        order += size;
    }
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
