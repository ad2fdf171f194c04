// The thread pool. Nothing starts before the first parallel call; a forked child starts its own.
#pragma once
#include <cstddef>
#include <memory>

namespace fusestep {

// The process's CPU affinity, or the number of processors where that is unknown.
int default_thread_count();

constexpr int kMostThreads = 1024;  // that may be set

int thread_count();
void set_thread_count(int threads);

using Task = void (*)(void* context, std::size_t index);

// Calls task(context, i) once for every i in [0, count), on the calling thread and up to
// thread_count() - 1 helpers, and returns when all calls have returned. Tasks must not throw.
// Several threads may call this at once; they share the helpers.
//
// Helpers stay awake for a moment after a call, then sleep, and waking one takes as long as it
// takes to update some 300,000 elements. So a call that is not `worth_waking` is shared only with
// helpers that are awake, unless such calls follow one another closely.
void run_parallel(std::size_t count, bool worth_waking, Task task, void* context);

template <class Function>
void run_parallel(std::size_t count, bool worth_waking, Function& function) {
    run_parallel(
        count, worth_waking,
        [](void* context, std::size_t i) { (*static_cast<Function*>(context))(i); }, &function);
}

// Calls task(context, i) for i from 0 on, in this order, while its owner does something else. The
// helpers that run_parallel does not need do it, and the owner itself when it comes for a result.
// Tasks must not throw. A forked child, which has no helpers, can only destroy it.
class Background {
 public:
    Background(std::size_t count, Task task, void* context);
    ~Background();  // leaves out what has not begun
    Background(const Background&) = delete;
    Background& operator=(const Background&) = delete;

    // Whether the first `count` calls have returned.
    bool has(std::size_t count);
    // Returns when they have.
    void finish(std::size_t count);

 private:
    class Work;
    std::unique_ptr<Work> work_;
};

}  // namespace fusestep
