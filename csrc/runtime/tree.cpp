#include "tree.h"

#include <algorithm>
#include <cstring>

#include "float_environment.h"
#include "isa.h"
#include "walks.h"

namespace fusestep {
namespace {

constexpr std::size_t kPiece = 512;          // elements: a stack of them stays in a cache
constexpr std::size_t kPiecesPerTask = 128;  // long enough for memory to stream
constexpr std::size_t kTask = kPiece * kPiecesPerTask;

template <class T>
void add_piece(std::size_t first, std::size_t count, const std::vector<const void*>& arrays,
               const std::vector<int>& additions, T* target) {
    alignas(64) T sums[kDeepest][kPiece];
    const T* stack[kDeepest];
    std::size_t top = 0;
    for (std::size_t k = 0; k < additions.size(); ++k) {
        if (additions[k] != kAdd) {
            stack[top++] =
                static_cast<const T*>(arrays[static_cast<std::size_t>(additions[k])]) + first;
            continue;
        }
        const T* const left = stack[top - 2];
        const T* const right = stack[top - 1];
        T* const sum = k + 1 == additions.size() ? target + first : sums[top - 2];
        for (std::size_t i = 0; i < count; ++i) sum[i] = left[i] + right[i];
        stack[--top - 1] = sum;
    }
    if (stack[0] != target + first) std::memcpy(target + first, stack[0], count * sizeof(T));
}

// Calls visit(begin, end) for ranges of elements, which begin at multiples of kTask.
template <class Visit>
void in_parallel(std::size_t count, Visit visit) {
    auto task = [&](std::size_t i) {
        const FloatEnvironment environment;
        visit(i * kTask, std::min(count, (i + 1) * kTask));
    };
    const std::size_t tasks = divide_up(count, kTask);
    if (count < kParallelElements) {
        for (std::size_t i = 0; i < tasks; ++i) task(i);
    } else {
        run_parallel(tasks, count >= kWorthWaking, task);
    }
}

template <class T>
void add_along(std::size_t count, const std::vector<const void*>& arrays,
               const std::vector<int>& additions, void* target) {
    in_parallel(count, [&](std::size_t begin, std::size_t end) {
        for (std::size_t first = begin; first < end; first += kPiece) {
            add_piece<T>(first, std::min(kPiece, end - first), arrays, additions,
                         static_cast<T*>(target));
        }
    });
}

}  // namespace

void add_along(DataType type, std::size_t count, const std::vector<const void*>& arrays,
               const std::vector<int>& additions, void* target) {
    const auto add = type == kFloat32 ? add_along<float> : add_along<double>;
    add(count, arrays, additions, target);
}

void sum_blocks(DataType type, std::size_t count, const void* array, double scale, double* sums) {
    static_assert(kTask % kBlock == 0, "a block is of one task");
    const SumSquares kernel =
        active_kernels().sum_squares[type][scale == 1.0 ? kPlain : kScaledSum];
    in_parallel(count, [&](std::size_t begin, std::size_t end) {
        for (std::size_t first = begin; first < end; first += kBlock) {
            double lanes[kLanes] = {};
            kernel(std::min<std::size_t>(kBlock, end - first),
                   static_cast<const char*>(array) + first * item_size(type), scale, 0, lanes);
            sums[first / kBlock] = add_lanes(lanes);
        }
    });
}

}  // namespace fusestep
