// A permutation of [0, n) that takes no memory: a Feistel network on the next even number of bits,
// repeated until it hits [0, n). Not all permutations can come out.
#pragma once
#include "compiler.h"

namespace fusestep {

struct Feistel {
    static constexpr int kRounds = 12;

    unsigned long long n;
    unsigned long long half_bits;  // of the even number
    unsigned long long keys[kRounds];
};

// A bijection of 64 bits that mixes them: the finalizer of SplitMix64.
FUSESTEP_INLINE unsigned long long mixed(unsigned long long x) {
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ULL;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBULL;
    return x ^ (x >> 31);
}

FUSESTEP_INLINE unsigned long long permuted(const Feistel& feistel, unsigned long long i) {
    const unsigned long long mask = (1ULL << feistel.half_bits) - 1;
    do {
        unsigned long long left = i >> feistel.half_bits, right = i & mask;
        for (int round = 0; round < Feistel::kRounds; ++round) {
            const unsigned long long next = left ^ (mixed(right + feistel.keys[round]) & mask);
            left = right;
            right = next;
        }
        i = (left << feistel.half_bits) | right;
    } while (i >= feistel.n);
    return i;
}

}  // namespace fusestep
