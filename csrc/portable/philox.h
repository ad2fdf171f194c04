// Philox4x32-10: random words as a pure function of a counter and a key. Salmon, Moraes, Dror and
// Shaw, "Parallel random numbers: as easy as 1, 2, 3", 2011.
#pragma once
#include "compiler.h"

namespace fusestep {

struct PhiloxWords {
    unsigned int w[4];
};

FUSESTEP_INLINE PhiloxWords philox(PhiloxWords counter, unsigned long long key) {
    using Word = unsigned int;
    Word c0 = counter.w[0], c1 = counter.w[1], c2 = counter.w[2], c3 = counter.w[3];
    Word k0 = static_cast<Word>(key), k1 = static_cast<Word>(key >> 32);
    for (int round = 0; round < 10; ++round) {
        const unsigned long long a = 0xD2511F53ULL * c0, b = 0xCD9E8D57ULL * c2;
        c0 = static_cast<Word>(b >> 32) ^ c1 ^ k0;
        c1 = static_cast<Word>(b);
        c2 = static_cast<Word>(a >> 32) ^ c3 ^ k1;
        c3 = static_cast<Word>(a);
        k0 += 0x9E3779B9U;
        k1 += 0xBB67AE85U;
    }
    return {{c0, c1, c2, c3}};
}

// The first 64 bits for a counter of 64 bits.
FUSESTEP_INLINE unsigned long long random_bits(unsigned long long counter, unsigned long long key) {
    const PhiloxWords in = {
        {static_cast<unsigned int>(counter), static_cast<unsigned int>(counter >> 32), 0, 0}};
    const PhiloxWords out = philox(in, key);
    return (static_cast<unsigned long long>(out.w[1]) << 32) | out.w[0];
}

// A number in [0, 1), a multiple of 2^-53.
FUSESTEP_INLINE double random_number(unsigned long long counter, unsigned long long key) {
    return static_cast<double>(random_bits(counter, key) >> 11) * 0x1p-53;
}

}  // namespace fusestep
