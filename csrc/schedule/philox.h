// Philox4x32-10: random bits as a pure function of a counter and a key. Salmon, Moraes, Dror and
// Shaw, "Parallel random numbers: as easy as 1, 2, 3", 2011.
#pragma once

namespace fusestep {

// A number in [0, 1), a multiple of 2^-53, for a counter under a seed.
static inline double random_number(unsigned long long counter, unsigned long long seed) {
    using Word = unsigned int;
    Word c0 = static_cast<Word>(counter), c1 = static_cast<Word>(counter >> 32), c2 = 0, c3 = 0;
    Word k0 = static_cast<Word>(seed), k1 = static_cast<Word>(seed >> 32);
    for (int round = 0; round < 10; ++round) {
        const unsigned long long a = 0xD2511F53ULL * c0, b = 0xCD9E8D57ULL * c2;
        c0 = static_cast<Word>(b >> 32) ^ c1 ^ k0;
        c1 = static_cast<Word>(b);
        c2 = static_cast<Word>(a >> 32) ^ c3 ^ k1;
        c3 = static_cast<Word>(a);
        k0 += 0x9E3779B9U;
        k1 += 0xBB67AE85U;
    }
    const unsigned long long bits = (static_cast<unsigned long long>(c1) << 32) | c0;
    return static_cast<double>(bits >> 11) * 0x1p-53;
}

}  // namespace fusestep
