#include "touched_rows.h"

#include <algorithm>

namespace fusestep {
namespace {

// Rows of values that are asked for ahead.
constexpr std::size_t kAhead = 8;

}  // namespace

std::size_t TouchedRows::set(const RowNumbers& numbers, std::size_t rows, const void* values,
                             std::size_t width) {
    values_ = values;
    width_ = width;
    in_place_ = false;
    if (numbers.is_wide) {
        groups_.group(static_cast<const std::int64_t*>(numbers.data), numbers.count);
    } else {
        groups_.group(static_cast<const std::int32_t*>(numbers.data), numbers.count);
    }
    std::size_t outside = numbers.count;  // the first place of a row that is none
    for (std::size_t k = 0; k < size(); ++k) {
        if (row(k) >= rows) outside = std::min(outside, place(k));
    }
    return outside;
}

void TouchedRows::set_in_place(const std::vector<std::uint32_t>& rows, const void* values,
                               std::size_t width) {
    values_ = values;
    width_ = width;
    in_place_ = true;
    groups_.group(rows.data(), rows.size());
}

std::size_t TouchedRows::from(std::size_t row) const {
    std::size_t first = 0;
    for (std::size_t count = size(); count > 0;) {
        const std::size_t half = count / 2;
        if (this->row(first + half) < row) {
            first += half + 1;
            count -= half + 1;
        } else {
            count = half;
        }
    }
    return first;
}

void TouchedRows::prefetch(DataType type, std::size_t k) const {
    const std::size_t bytes = width_ * item_size(type);
    prefetch_elements(static_cast<const char*>(values_) + place(k) * bytes, bytes);
}

template <class T>
const T* TouchedRows::row_values(std::size_t k, std::size_t first, std::size_t n, T* room) const {
    const T* const all = static_cast<const T*>(values_);
    if (in_place_) return all + place(k) * width_ + first;
    const std::uint32_t* const order = groups_.order();
    const std::size_t begin = groups_.begins()[k], end = groups_.begins()[k + 1];
    for (std::size_t at = begin; at < end; ++at) {
        const T* const passed = all + order[at] * width_ + first;
        if (at + kAhead < end) {
            prefetch_elements(all + order[at + kAhead] * width_ + first, n * sizeof(T));
        }
        if (at == begin) {
            // 0 and not the value itself, which may be -0
            for (std::size_t j = 0; j < n; ++j) room[j] = T(0) + passed[j];
        } else {
            for (std::size_t j = 0; j < n; ++j) room[j] = room[j] + passed[j];
        }
    }
    return room;
}

const void* TouchedRows::values(DataType type, std::size_t k, std::size_t first, std::size_t n,
                                void* room) const {
    if (type == kFloat32) return row_values(k, first, n, static_cast<float*>(room));
    return row_values(k, first, n, static_cast<double*>(room));
}

const void* TouchedRows::whole_rows(DataType type, std::size_t k, std::size_t rows,
                                    void* room) const {
    if (in_place_) return values(type, k, 0, width_, room);
    for (std::size_t j = 0; j < rows; ++j) {
        values(type, k + j, 0, width_, static_cast<char*>(room) + j * width_ * item_size(type));
    }
    return room;
}

}  // namespace fusestep
