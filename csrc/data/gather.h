// Copies chosen rows of many arrays side by side, on several threads.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

namespace fusestep {

// What a row's elements are, where they become float32 on the way.
enum class Element {
    kBytes,
    kUint8,
    kInt8,
    kUint16,
    kInt16,
    kUint32,
    kInt32,
    kInt64,
    kFloat32,
    kFloat64
};

// One array: rows of `row_elements` elements of `item_size` bytes, `stride` bytes apart.
struct Column {
    const char* source;
    std::ptrdiff_t stride;
    std::size_t row_elements;
    std::size_t item_size;
    Element element = Element::kBytes;  // kBytes: copied as they are
    float scale = 1.0f;                 // otherwise scale * float32(x) + shift
    float shift = 0.0f;
    char* target;  // rows without gaps
};

// Row i of every target becomes row indices[i] of its source.
void gather(const std::vector<Column>& columns, const std::uint32_t* indices, std::size_t n);
void gather(const std::vector<Column>& columns, const std::uint64_t* indices, std::size_t n);

}  // namespace fusestep
