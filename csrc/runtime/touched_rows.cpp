#include "touched_rows.h"

#include <algorithm>

#include "pool.h"

namespace fusestep {
namespace {

constexpr unsigned kDigit = 8;  // bits
constexpr std::size_t kDigits = std::size_t{1} << kDigit;

// Keys that a thread sorts in one go: fewer are sorted by the calling thread alone.
constexpr std::size_t kPiece = 16 * 1024;
constexpr std::size_t kPieces = 64;

template <class Index>
std::size_t find_outside(const Index* numbers, std::size_t count, std::size_t rows) {
    for (std::size_t k = 0; k < count; ++k) {
        if (static_cast<std::uint64_t>(static_cast<std::int64_t>(numbers[k])) >= rows) return k;
    }
    return count;
}

}  // namespace

std::size_t find_outside(const RowNumbers& numbers, std::size_t rows) {
    return numbers.is_wide
               ? find_outside(static_cast<const std::int64_t*>(numbers.data), numbers.count, rows)
               : find_outside(static_cast<const std::int32_t*>(numbers.data), numbers.count, rows);
}

void TouchedRows::set(const RowNumbers& numbers, const void* values, std::size_t width) {
    values_ = values;
    width_ = width;
    in_place_ = false;
    keys_.resize(numbers.count);
    bool sorted = true;
    for (std::size_t k = 0; k < numbers.count; ++k) {
        keys_[k] = static_cast<std::uint64_t>(numbers[k]) << 32 | k;
        sorted &= k == 0 || keys_[k - 1] < keys_[k];
    }
    if (!sorted) sort();
    first_.clear();
    for (std::size_t k = 0; k < keys_.size(); ++k) {
        if (k == 0 || keys_[k] >> 32 != keys_[k - 1] >> 32) {
            first_.push_back(static_cast<std::uint32_t>(k));
        }
    }
    first_.push_back(static_cast<std::uint32_t>(keys_.size()));
}

void TouchedRows::set_in_place(const std::vector<std::uint32_t>& rows, const void* values,
                               std::size_t width) {
    values_ = values;
    width_ = width;
    in_place_ = true;
    keys_.clear();
    first_.clear();
    for (const std::uint32_t row : rows) {
        first_.push_back(static_cast<std::uint32_t>(keys_.size()));
        keys_.push_back(static_cast<std::uint64_t>(row) << 32);
    }
    first_.push_back(static_cast<std::uint32_t>(keys_.size()));
}

// By one digit of the row after the other, each time in the order that there was: the order does
// not depend on the pieces that threads take.
void TouchedRows::sort() {
    const std::size_t count = keys_.size();
    other_.resize(count);
    std::uint64_t differing = 0;
    for (const std::uint64_t key : keys_) differing |= key ^ keys_[0];
    const std::size_t pieces = std::clamp<std::size_t>(count / kPiece, 1, kPieces);
    std::size_t places[kPieces][kDigits];
    for (unsigned shift = 32; shift < 64; shift += kDigit) {
        if ((differing >> shift & (kDigits - 1)) == 0) continue;
        const auto for_pieces = [&](auto visit) {
            auto task = [&](std::size_t piece) {
                visit(places[piece], count * piece / pieces, count * (piece + 1) / pieces);
            };
            if (pieces == 1) {
                task(0);
            } else {
                run_parallel(pieces, true, task);
            }
        };
        for_pieces([&](std::size_t* place, std::size_t begin, std::size_t end) {
            std::fill_n(place, kDigits, 0);
            for (std::size_t k = begin; k < end; ++k) ++place[keys_[k] >> shift & (kDigits - 1)];
        });
        std::size_t next = 0;
        for (std::size_t digit = 0; digit < kDigits; ++digit) {
            for (std::size_t piece = 0; piece < pieces; ++piece) {
                const std::size_t of_digit = places[piece][digit];
                places[piece][digit] = next;
                next += of_digit;
            }
        }
        for_pieces([&](std::size_t* place, std::size_t begin, std::size_t end) {
            for (std::size_t k = begin; k < end; ++k) {
                other_[place[keys_[k] >> shift & (kDigits - 1)]++] = keys_[k];
            }
        });
        keys_.swap(other_);
    }
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
    const std::size_t end = first_[k + 1];
    for (std::size_t at = first_[k]; at < end; ++at) {
        const T* const passed = all + (keys_[at] & kMost) * width_ + first;
        if (at == first_[k]) {
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
