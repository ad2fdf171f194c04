#include "gather.h"

#include <algorithm>
#include <cstring>

#include "../runtime/pool.h"

namespace fusestep {
namespace {

// Threads take about this many bytes at a time; below the second number nobody is woken.
constexpr std::size_t kChunkBytes = 128 * 1024;
constexpr std::size_t kWorthWaking = 512 * 1024;

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

template <class Index>
void gather_all(const std::vector<RowSource>& columns, const Index* indices, std::size_t n) {
    std::size_t row_bytes = 1;
    for (const RowSource& column : columns) row_bytes += column.row_elements * column.item_size;
    const std::size_t chunk = std::max<std::size_t>(1, kChunkBytes / row_bytes);
    auto task = [&](std::size_t i) {
        const std::size_t begin = i * chunk, end = std::min(n, begin + chunk);
        for (const RowSource& column : columns) {
            if (column.convert == nullptr) {
                copy_rows(column, indices, begin, end);
            } else {
                convert_rows(column, indices, begin, end);
            }
        }
    };
    run_parallel((n + chunk - 1) / chunk, n * row_bytes >= kWorthWaking, task);
}

}  // namespace

void gather(const std::vector<RowSource>& columns, const std::uint32_t* indices, std::size_t n) {
    gather_all(columns, indices, n);
}

void gather(const std::vector<RowSource>& columns, const std::uint64_t* indices, std::size_t n) {
    gather_all(columns, indices, n);
}

}  // namespace fusestep
