// The rows of a gradient that holds some rows of its parameter alone.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "../kernels/table.h"
#include "grouping.h"

namespace fusestep {

// Numbers of rows, in any order and with repetitions, as they are passed.
struct RowNumbers {
    const void* data = nullptr;
    bool is_wide = false;  // int64, not int32
    std::size_t count = 0;

    std::int64_t operator[](std::size_t k) const {
        return is_wide ? static_cast<const std::int64_t*>(data)[k]
                       : static_cast<const std::int32_t*>(data)[k];
    }
};

// Asks for the memory of some elements, as far as it is worth it: the processor goes on by itself.
inline void prefetch_elements(const void* data, std::size_t bytes) {
    constexpr std::size_t kLine = 64, kMostBytes = 512;
    const char* const begin = static_cast<const char*>(data);
    for (std::size_t at = 0; at < bytes && at < kMostBytes; at += kLine) {
        FUSESTEP_PREFETCH(begin + at);
    }
}

// Each row once, in ascending order, with its values: the sum, in the order they are passed, of 0
// and all that are passed for it.
class TouchedRows {
 public:
    static constexpr std::uint64_t kMost = 0xFFFFFFFF;  // rows, and rows passed

    // `values` has `width` elements for each of the numbers. Returns how many of these are among so
    // many rows, from the first on; if that is not all, it is not to be used. The numbers that are
    // looked at are those that were sorted, whatever another thread makes of the array meanwhile.
    std::size_t set(const RowNumbers& numbers, std::size_t rows, const void* values,
                    std::size_t width);
    // Rows in ascending order, whose values stand at their places in the memory of the parameter's
    // size, as they are.
    void set_in_place(const std::vector<std::uint32_t>& rows, const void* values,
                      std::size_t width);

    std::size_t size() const { return groups_.count(); }
    std::size_t row(std::size_t k) const { return static_cast<std::size_t>(groups_.ids()[k]); }
    // The first of them that is at least this row.
    std::size_t from(std::size_t row) const;

    // Asks for the memory of the k-th row's values.
    void prefetch(DataType type, std::size_t k) const;

    // The values of elements first to first + n of the k-th row: where they are, or in `room`.
    const void* values(DataType type, std::size_t k, std::size_t first, std::size_t n,
                       void* room) const;
    // Those of rows k to k + rows, which are neighbours.
    const void* whole_rows(DataType type, std::size_t k, std::size_t rows, void* room) const;

 private:
    template <class T>
    const T* row_values(std::size_t k, std::size_t first, std::size_t n, T* room) const;
    std::size_t place(std::size_t k) const {
        return in_place_ ? row(k) : groups_.order()[groups_.begins()[k]];
    }

    const void* values_ = nullptr;
    std::size_t width_ = 0;
    bool in_place_ = false;
    Grouping groups_;  // of the numbers passed
};

}  // namespace fusestep
