// What a plan keeps of a parameter that was given rows.
#pragma once
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <utility>
#include <vector>

#include "plan.h"

namespace fusestep {

// A block of numbers of any type.
alignas(64) inline constexpr double kZeros[kBlock] = {};

// What an update used, for the rows that have missed it.
struct Plan::Logged {
    alignas(16) unsigned char scalars[kScalarBytes];
    alignas(16) unsigned char gradient_scalars[sizeof(GradientScalars<double>)];
    Update update;
    double average_rate;
};

struct Plan::LeafRows {
    struct Freed {
        void operator()(std::uint32_t* counts) const { std::free(counts); }
    };

    std::size_t leaf = 0;
    std::size_t rows = 0;
    std::size_t width = 0;  // elements of each
    bool skips = false;     // what a row has missed stays missed; there is no log then
    TouchedRows touched;    // by the gradient

    std::unique_ptr<Logged[]> log;
    std::size_t capacity = 0;
    std::size_t logged = 0;
    std::size_t before = 0;  // what was logged before the present step
    std::size_t cold_from =
        0;  // from here on, what is logged leaves rows without state as they are
    std::unique_ptr<std::uint32_t[], Freed> seen;  // of each row, how many of the logged updates
    std::vector<std::uint32_t> merged;             // rows that will have been accumulated

    // Whether no row can have missed anything: then nothing is asked or noted of single ones.
    bool is_even() const { return skips || logged == 0; }

    // Neither takes memory before it is written: the counts come as zeros from the system.
    // False where there is none for them.
    bool make_log(std::size_t updates) {
        std::unique_ptr<Logged[]> room(new (std::nothrow) Logged[updates]);
        if (seen == nullptr) {
            seen.reset(static_cast<std::uint32_t*>(std::calloc(rows + 1, sizeof(std::uint32_t))));
        }
        if (room == nullptr || seen == nullptr) return false;
        log = std::move(room);
        capacity = updates;
        return true;
    }
};

}  // namespace fusestep
