// What a .cu file expects of the CUDA compiler, for the compiler of the host: the threads of a
// block are coroutines that switch at __syncthreads, and blocks run one after the other. So a block
// may not wait for another one, and there are no warps and no dynamic shared memory.
#pragma once
#include <ucontext.h>

#if defined(__SSE__)
#include <xmmintrin.h>
#endif

#include <cmath>
#include <cstddef>
#include <cstring>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __shared__ static
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __grid_constant__

struct dim3 {
    unsigned x = 1, y = 1, z = 1;
};

static dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulation {

constexpr std::size_t kStackBytes = 64 * 1024;

struct Thread {
    ucontext_t context;
    std::vector<char> stack = std::vector<char>(kStackBytes);
    dim3 index;
    bool ended;
};

// One launch at a time: the caller holds Python's lock.
static std::vector<Thread> threads;
static Thread* running;
static ucontext_t scheduler;
static void (*body)(void*);
static void* body_arguments;

inline void leave() {
    Thread* self = running;
    swapcontext(&self->context, &scheduler);
    threadIdx = self->index;
}

inline void run_thread() {
    body(body_arguments);
    running->ended = true;
    swapcontext(&running->context, &scheduler);
}

inline dim3 place(std::size_t i, dim3 size) {
    const std::size_t row = i / size.x;
    return {static_cast<unsigned>(i % size.x), static_cast<unsigned>(row % size.y),
            static_cast<unsigned>(row / size.y)};
}

inline std::size_t count(dim3 size) { return std::size_t{size.x} * size.y * size.z; }

inline void run_block() {
    for (std::size_t i = 0; i < threads.size(); ++i) {
        Thread& thread = threads[i];
        thread.index = place(i, blockDim);
        thread.ended = false;
        getcontext(&thread.context);
        thread.context.uc_stack.ss_sp = thread.stack.data();
        thread.context.uc_stack.ss_size = thread.stack.size();
        makecontext(&thread.context, run_thread, 0);
    }
    for (bool left = true; left;) {
        left = false;
        for (Thread& thread : threads) {
            if (thread.ended) continue;
            running = &thread;
            threadIdx = thread.index;
            swapcontext(&scheduler, &thread.context);
            left |= !thread.ended;
        }
    }
}

template <class T>
T read(const void* bytes) {
    T value;
    std::memcpy(&value, bytes, sizeof(T));
    return value;
}

template <class... Parameters>
struct Call {
    void (*kernel)(Parameters...);
    void* const* arguments;

    template <std::size_t... i>
    void run(std::index_sequence<i...>) const {
        kernel(read<Parameters>(arguments[i])...);
    }
    static void run(void* self) {
        static_cast<Call*>(self)->run(std::index_sequence_for<Parameters...>{});
    }
};

// False if the arguments do not have the number and sizes of the kernel's parameters.
template <class... Parameters>
bool launch(void (*kernel)(Parameters...), const unsigned* grid, const unsigned* block,
            bool backward, bool flushes, std::size_t argument_count, const std::size_t* sizes,
            void* const* arguments) {
    const std::vector<std::size_t> expected{sizeof(Parameters)...};
    if (expected != std::vector<std::size_t>(sizes, sizes + argument_count)) return false;
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {block[0], block[1], block[2]};
    Call<Parameters...> call{kernel, arguments};
    body = Call<Parameters...>::run;
    body_arguments = &call;
    threads.resize(count(blockDim));
#if defined(__SSE__)
    // subnormal operands and results become zero, as with -ftz=true
    const unsigned control = _mm_getcsr();
    if (flushes) _mm_setcsr(control | 0x8040);
#endif
    const std::size_t blocks = count(gridDim);
    for (std::size_t i = 0; i < blocks; ++i) {
        blockIdx = place(backward ? blocks - 1 - i : i, gridDim);
        run_block();
    }
#if defined(__SSE__)
    _mm_setcsr(control);
#endif
    return true;
}

}  // namespace emulation

inline void __syncthreads() { emulation::leave(); }
inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __threadfence_system() {}

template <class T>
T atomicAdd(T* address, T value) {
    const T old = *address;
    *address = old + value;
    return old;
}

template <class T>
T atomicExch(T* address, T value) {
    return std::exchange(*address, value);
}

template <class T>
T __ldg(const T* address) {
    return *address;
}

#define EMULATED(name)                                                                        \
    extern "C" bool launch_##name(const unsigned* grid, const unsigned* block, bool backward, \
                                  bool flushes, std::size_t argument_count,                   \
                                  const std::size_t* sizes, void* const* arguments) {         \
        return emulation::launch(name, grid, block, backward, flushes, argument_count, sizes, \
                                 arguments);                                                  \
    }
