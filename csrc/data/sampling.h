// Samples drawn by weight, or evenly from classes. What an epoch draws is a function of the seed
// and the epoch alone, with the same bits on every machine.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

namespace fusestep {

// Draws with replacement: row i with a probability in proportion to its weight.
//
// Weights become whole numbers, in units of about 2^-62 of their sum, so that equal weights are
// drawn with equal probabilities and the sum does not depend on its order. A weight above 0 is at
// least one unit.
class WeightedDraws {
 public:
    // Weights are finite and at least 0, and one of them is above 0.
    WeightedDraws(const double* weights, std::uint32_t n);

    // What stands at the places from begin to end of an epoch.
    void draw(std::uint64_t seed, std::uint64_t epoch, std::uint64_t begin, std::uint64_t end,
              std::uint32_t* rows) const;

 private:
    std::vector<std::uint64_t> ends_;   // of the stretch of numbers that belongs to a row
    std::vector<std::uint32_t> first_;  // the row of number i << shift_
    int shift_;
};

// Draws without replacement: each row in proportion to its weight among those not yet drawn.
// Rows of weight 0 are never drawn; `samples` is at most the number of the others.
// Efraimidis and Spirakis, "Weighted random sampling with a reservoir", 2006.
void weighted_order(const double* weights, std::uint32_t n, std::uint32_t samples,
                    std::uint64_t seed, std::uint64_t epoch, std::uint32_t* rows);

// Rows by class: class c has members[begins[c]] to members[begins[c + 1]], at least one.
struct Classes {
    const std::uint32_t* members;
    const std::uint64_t* begins;
    std::uint32_t count;

    std::uint32_t size(std::uint32_t c) const {
        return static_cast<std::uint32_t>(begins[c + 1] - begins[c]);
    }
};

// Rounds in which every class stands once, in shuffled order. The row of a class is any of its
// rows, drawn with replacement.
void balanced_draws(const Classes& classes, std::uint64_t seed, std::uint64_t epoch,
                    std::uint64_t begin, std::uint64_t end, std::uint32_t* rows);

// The same without replacement: the rows of a class come in shuffled order. `samples` is at most
// the number of classes times the size of the smallest.
void balanced_order(const Classes& classes, std::uint32_t samples, std::uint64_t seed,
                    std::uint64_t epoch, std::uint32_t* rows);

}  // namespace fusestep
