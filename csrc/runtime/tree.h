// What several processes add: arrays along a fixed tree, and squares in blocks.
#pragma once
#include <cstddef>
#include <vector>

#include "../kernels/table.h"

namespace fusestep {

// Additions in postfix: a number from 0 on pushes that array, kAdd puts the sum of the two on top
// in their place. One is left at the end.
constexpr int kAdd = -1;
constexpr std::size_t kDeepest = 16;  // arrays on the stack

// Writes what the additions make of arrays of `count` elements, each of which is read once.
// `target` may be one of them.
void add_along(DataType type, std::size_t count, const std::vector<const void*>& arrays,
               const std::vector<int>& additions, void* target);

// Writes the sum of squares of each block of kBlock elements, which are multiplied by `scale`
// first; the last block may be shorter.
void sum_blocks(DataType type, std::size_t count, const void* array, double scale, double* sums);

}  // namespace fusestep
