#include "gather.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace fusestep {
namespace {

// Threads take about this many bytes at a time.
constexpr std::size_t kChunkBytes = 128 * 1024;

template <std::size_t bytes, class Index>
void copy_small(const RowSource& column, const Index* indices, std::size_t begin, std::size_t end) {
    char* target = column.target + begin * bytes;
    for (std::size_t i = begin; i < end; ++i, target += bytes) {
        std::memcpy(target, column.source + static_cast<std::ptrdiff_t>(indices[i]) * column.stride,
                    bytes);
    }
}

template <class Index>
void copy_rows(const RowSource& column, const Index* indices, std::size_t begin, std::size_t end) {
    const std::size_t bytes = column.row_elements * column.item_size;
    switch (bytes) {
        case 1:
            return copy_small<1>(column, indices, begin, end);
        case 2:
            return copy_small<2>(column, indices, begin, end);
        case 4:
            return copy_small<4>(column, indices, begin, end);
        case 8:
            return copy_small<8>(column, indices, begin, end);
        case 16:
            return copy_small<16>(column, indices, begin, end);
        default:
            break;
    }
    char* target = column.target + begin * bytes;
    for (std::size_t i = begin; i < end; ++i, target += bytes) {
        std::memcpy(target, column.source + static_cast<std::ptrdiff_t>(indices[i]) * column.stride,
                    bytes);
    }
}

template <class Index>
void convert_rows(const RowSource& column, const Index* indices, std::size_t begin,
                  std::size_t end) {
    float* target = reinterpret_cast<float*>(column.target) + begin * column.row_elements;
    for (std::size_t i = begin; i < end; ++i, target += column.row_elements) {
        const char* row = column.source + static_cast<std::ptrdiff_t>(indices[i]) * column.stride;
        column.convert(column.row_elements, row, column.scale, column.shift, target);
    }
}

}  // namespace

Gathering::Gathering(std::vector<RowSource> columns, const std::uint32_t* indices, std::size_t n)
    : columns_(std::move(columns)), narrow_(indices), n_(n) {
    begin();
}

Gathering::Gathering(std::vector<RowSource> columns, const std::uint64_t* indices, std::size_t n)
    : columns_(std::move(columns)), wide_(indices), n_(n) {
    begin();
}

void Gathering::begin() {
    std::size_t row_bytes = 1;
    for (const RowSource& column : columns_) {
        row_bytes += column.row_elements * std::max(column.item_size, sizeof(float));
    }
    chunk_rows_ = std::max<std::size_t>(1, kChunkBytes / row_bytes);
    background_ = std::make_unique<Background>(chunks(n_), &Gathering::run, this);
}

void Gathering::run(void* gathering, std::size_t chunk) {
    const Gathering& self = *static_cast<const Gathering*>(gathering);
    if (self.narrow_ != nullptr) {
        self.gather(self.narrow_, chunk);
    } else {
        self.gather(self.wide_, chunk);
    }
}

template <class Index>
void Gathering::gather(const Index* indices, std::size_t chunk) const {
    const std::size_t begin = chunk * chunk_rows_, end = std::min(n_, begin + chunk_rows_);
    for (const RowSource& column : columns_) {
        if (column.convert == nullptr) {
            copy_rows(column, indices, begin, end);
        } else {
            convert_rows(column, indices, begin, end);
        }
    }
}

}  // namespace fusestep
