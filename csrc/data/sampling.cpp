#include "sampling.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "../portable/elementary.h"
#include "random.h"

namespace fusestep {
namespace {

// The classes of a round, shuffled once for all of its places.
class Rounds {
 public:
    Rounds(std::uint32_t classes, std::uint64_t seed, std::uint64_t epoch)
        : key_(hashed_key(seed, epoch, kClassesOfRound)), order_(classes) {}

    std::uint32_t class_at(std::uint64_t place) {
        const std::uint64_t round = place / order_.size();
        if (round != round_) {
            std::iota(order_.begin(), order_.end(), 0u);
            shuffle(order_.data(), static_cast<std::uint32_t>(order_.size()), Stream(key_, round));
            round_ = round;
        }
        return order_[place % order_.size()];
    }

 private:
    std::uint64_t key_;
    std::vector<std::uint32_t> order_;
    std::uint64_t round_ = ~std::uint64_t{0};
};

// Orders as exponential(random) / weight does, where the quotient may be beyond double's range.
std::uint64_t arrival(double weight, std::uint64_t random) {
    const double uniform = (static_cast<double>(random >> 12) + 0.5) * 0x1p-52;  // never 0 or 1
    int exponent;
    const double factor = std::frexp(weight, &exponent);  // in [0.5, 1)
    const double quotient = -logarithm({uniform, 0.0}).hi / factor;
    // a positive double leaves the sign bit to its exponent, and weights have -1073 to 1024
    return to_bits(quotient) + (static_cast<std::uint64_t>(1200 - exponent) << 52);
}

}  // namespace

WeightedDraws::WeightedDraws(const double* weights, std::uint32_t n) : ends_(n) {
    int largest, of_sum;
    std::frexp(*std::max_element(weights, weights + n), &largest);
    double sum = 0.0;
    for (std::uint32_t i = 0; i < n; ++i) sum += std::ldexp(weights[i], -largest);
    std::frexp(sum, &of_sum);
    std::uint64_t end = 0;
    for (std::uint32_t i = 0; i < n; ++i) {
        if (weights[i] > 0.0) {
            const double units = std::ldexp(weights[i], 62 - of_sum - largest);
            end += std::max<std::uint64_t>(1, static_cast<std::uint64_t>(units));
        }
        ends_[i] = end;
    }
    // a stretch of numbers for about every row
    int bits_of_sum = 1, bits_of_n = 0;
    while ((end - 1) >> bits_of_sum != 0) ++bits_of_sum;
    while ((n - 1) >> bits_of_n != 0) ++bits_of_n;
    shift_ = bits_of_sum - bits_of_n;
    std::uint32_t row = 0;
    for (std::uint64_t number = 0; number < end; number += std::uint64_t{1} << shift_) {
        while (ends_[row] <= number) ++row;
        first_.push_back(row);
    }
    first_.push_back(n - 1);
}

void WeightedDraws::draw(std::uint64_t seed, std::uint64_t epoch, std::uint64_t begin,
                         std::uint64_t end, std::uint32_t* rows) const {
    const std::uint64_t key = hashed_key(seed, epoch, kWeightedDraws);
    for (std::uint64_t place = begin; place < end; ++place) {
        const std::uint64_t number = Stream(key, place).below_wide(ends_.back());
        const std::uint32_t* const first = &first_[number >> shift_];
        const auto found = std::upper_bound(&ends_[first[0]], &ends_[first[1]], number);
        *rows++ = static_cast<std::uint32_t>(found - ends_.data());
    }
}

void weighted_order(const double* weights, std::uint32_t n, std::uint32_t samples,
                    std::uint64_t seed, std::uint64_t epoch, std::uint32_t* rows) {
    struct Arrival {
        std::uint64_t time;
        std::uint32_t row;
        bool operator<(const Arrival& other) const {
            return time < other.time || (time == other.time && row < other.row);
        }
    };
    const std::uint64_t key = hashed_key(seed, epoch, kWeightedOrder);
    std::vector<Arrival> arrivals;
    arrivals.reserve(n);
    for (std::uint32_t row = 0; row < n; ++row) {
        if (weights[row] > 0.0) {
            arrivals.push_back({arrival(weights[row], random_bits(row, key)), row});
        }
    }
    const auto last = arrivals.begin() + static_cast<std::ptrdiff_t>(samples);
    if (last != arrivals.end()) std::nth_element(arrivals.begin(), last, arrivals.end());
    std::sort(arrivals.begin(), last);
    std::transform(arrivals.begin(), last, rows, [](const Arrival& a) { return a.row; });
}

void balanced_draws(const Classes& classes, std::uint64_t seed, std::uint64_t epoch,
                    std::uint64_t begin, std::uint64_t end, std::uint32_t* rows) {
    const std::uint64_t key = hashed_key(seed, epoch, kDrawsOfClass);
    Rounds rounds(classes.count, seed, epoch);
    for (std::uint64_t place = begin; place < end; ++place) {
        const std::uint32_t c = rounds.class_at(place);
        const std::uint32_t member = Stream(key, place).below(classes.size(c));
        *rows++ = classes.members[classes.begins[c] + member];
    }
}

void balanced_order(const Classes& classes, std::uint32_t samples, std::uint64_t seed,
                    std::uint64_t epoch, std::uint32_t* rows) {
    std::vector<std::uint32_t> members(classes.members,
                                       classes.members + classes.begins[classes.count]);
    const std::uint64_t key = hashed_key(seed, epoch, kOrderOfClass);
    for (std::uint32_t c = 0; c < classes.count; ++c) {
        shuffle(members.data() + classes.begins[c], classes.size(c), Stream(key, c));
    }
    Rounds rounds(classes.count, seed, epoch);
    for (std::uint64_t place = 0; place < samples; ++place) {
        const std::uint64_t begin = classes.begins[rounds.class_at(place)];
        *rows++ = members[begin + place / classes.count];
    }
}

}  // namespace fusestep
