// Copies chosen rows of many arrays side by side, on several threads.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "../kernels/table.h"

namespace fusestep {

// One array: rows of `row_elements` elements of `item_size` bytes, `stride` bytes apart.
struct RowSource {
    const char* source;
    std::ptrdiff_t stride;
    std::size_t row_elements;
    std::size_t item_size;
    Convert convert = nullptr;  // nullptr: copied as they are
    float scale = 1.0f;         // otherwise scale * float32(x) + shift
    float shift = 0.0f;
    char* target;  // rows without gaps
};

// Row i of every target becomes row indices[i] of its source.
void gather(const std::vector<RowSource>& columns, const std::uint32_t* indices, std::size_t n);
void gather(const std::vector<RowSource>& columns, const std::uint64_t* indices, std::size_t n);

}  // namespace fusestep
