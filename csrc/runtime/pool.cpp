#include "pool.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#include "float_environment.h"

#if defined(__linux__)
#include <sched.h>
#endif
#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#define FUSESTEP_HAS_FORK
#endif
#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#define FUSESTEP_RELAX() _mm_pause()
#elif defined(__aarch64__) && !defined(_MSC_VER)
#define FUSESTEP_RELAX() __asm__ __volatile__("yield")
#else
#define FUSESTEP_RELAX() std::this_thread::yield()
#endif

namespace fusestep {
namespace {

using Clock = std::chrono::steady_clock;

// How long a helper watches for the next job before it sleeps: about 50 microseconds.
constexpr int kWatchRounds = 1500;

// Calls this close to each other are taken for a loop of steps, once there have been some of them.
constexpr std::chrono::microseconds kClose{50};
constexpr int kLoop = 4;

// One call of run_parallel. Each thread has its own part of the range and takes over what is left
// of the others' when done: from step to step an array stays in the cache, or the memory, of its
// thread.
class Job {
 public:
    Job(std::size_t count, int threads, Task task, void* context)
        : task_(task), context_(context), parts_(std::min(threads, kMostParts)) {
        for (int k = 0; k < parts_; ++k) {
            part_[k].next.store(share(count, k), std::memory_order_relaxed);
            part_[k].end = share(count, k + 1);
        }
    }

    // Works until no index is left, starting with the part of the given thread (0 is the caller).
    void work(int thread) {
        for (int k = 0; k < parts_; ++k) {
            Part& part = part_[(thread + k) % parts_];
            for (std::size_t i;
                 (i = part.next.fetch_add(1, std::memory_order_relaxed)) < part.end;) {
                task_(context_, i);
            }
        }
        exhausted_.store(true, std::memory_order_relaxed);
    }

    bool wants_help() const {
        return !exhausted_.load(std::memory_order_relaxed) &&
               helpers.load(std::memory_order_relaxed) < parts_ - 1;
    }
    int helper_limit() const { return parts_ - 1; }

    std::atomic<int> helpers{0};
    Job* following = nullptr;

 private:
    static constexpr int kMostParts = 64;
    struct alignas(64) Part {
        std::atomic<std::size_t> next;
        std::size_t end;
    };

    std::size_t share(std::size_t count, int k) const {
        return count * static_cast<std::size_t>(k) / static_cast<std::size_t>(parts_);
    }

    Task task_;
    void* context_;
    int parts_;
    std::atomic<bool> exhausted_{false};
    Part part_[kMostParts];
};

class Pool {
 public:
    // Whether helpers are awake, or worth waking because calls come in a loop.
    bool is_warm() {
        if (awake_.load(std::memory_order_relaxed) > 0) return true;
        const Clock::duration latest(latest_.load(std::memory_order_relaxed));
        if (Clock::now().time_since_epoch() - latest > kClose) {
            close_calls_.store(0, std::memory_order_relaxed);
            return false;
        }
        return close_calls_.fetch_add(1, std::memory_order_relaxed) >= kLoop;
    }

    void note_end() {
        latest_.store(Clock::now().time_since_epoch().count(), std::memory_order_relaxed);
    }

    void run(Job& job) {
        int wake;
        {
            std::lock_guard<std::mutex> lock(mutex_);
            start_helpers(job.helper_limit());
            job.following = jobs_;
            jobs_ = &job;
            posted_.fetch_add(1, std::memory_order_release);
            const int helpers = static_cast<int>(threads_.size());
            wake = std::min(helpers - awake_.load(std::memory_order_relaxed), job.helper_limit());
        }
        for (; wake > 0; --wake) posted_signal_.notify_one();
        job.work(0);
        {
            std::lock_guard<std::mutex> lock(mutex_);
            Job** link = &jobs_;
            while (*link != &job) link = &(*link)->following;
            *link = job.following;
        }
        // nobody can join any more; wait for those who still hold a chunk
        for (int round = 0; job.helpers.load(std::memory_order_acquire) != 0; ++round) {
            if (round < kWatchRounds) {
                FUSESTEP_RELAX();
            } else {
                std::this_thread::yield();
            }
        }
    }

 private:
    void start_helpers(int wanted) {
        try {
            for (int thread = static_cast<int>(threads_.size()) + 1; thread <= wanted; ++thread) {
                threads_.emplace_back([this, thread] { help(thread); });
                awake_.fetch_add(1, std::memory_order_relaxed);
            }
        } catch (const std::system_error&) {
            // the system gives no more threads: the calling thread does their share
        }
    }

    void help(int thread) {
        FloatEnvironment environment;
        std::uint64_t seen = 0;
        for (;;) {
            for (int round = 0; round < kWatchRounds; ++round) {
                if (posted_.load(std::memory_order_acquire) != seen) break;
                FUSESTEP_RELAX();
            }
            std::unique_lock<std::mutex> lock(mutex_);
            awake_.fetch_sub(1, std::memory_order_relaxed);
            posted_signal_.wait(lock,
                                [&] { return posted_.load(std::memory_order_relaxed) != seen; });
            awake_.fetch_add(1, std::memory_order_relaxed);
            seen = posted_.load(std::memory_order_relaxed);
            while (Job* job = first_that_wants_help()) {
                job->helpers.fetch_add(1, std::memory_order_relaxed);
                lock.unlock();
                job->work(thread);
                // the job may be gone after this
                job->helpers.fetch_sub(1, std::memory_order_release);
                lock.lock();
            }
        }
    }

    Job* first_that_wants_help() const {
        Job* job = jobs_;
        while (job != nullptr && !job->wants_help()) job = job->following;
        return job;
    }

    std::mutex mutex_;
    std::condition_variable posted_signal_;
    std::atomic<std::uint64_t> posted_{0};
    Job* jobs_ = nullptr;
    std::atomic<int> awake_{0};
    std::atomic<Clock::rep> latest_{0};
    std::atomic<int> close_calls_{0};
    std::vector<std::thread> threads_;
};

std::atomic<int> configured_threads{0};

// Never destroyed: helpers sleep until the process ends, and no exit order can hang on them.
std::atomic<Pool*> shared_pool{nullptr};

Pool& pool() {
    Pool* current = shared_pool.load(std::memory_order_acquire);
    if (current != nullptr) return *current;
#ifdef FUSESTEP_HAS_FORK
    // a forked child has none of the helpers, and perhaps a locked mutex: it leaves the pool behind
    static const int registered =
        pthread_atfork(nullptr, nullptr, [] { shared_pool.store(nullptr); });
    static_cast<void>(registered);
#endif
    Pool* fresh = new Pool;
    if (shared_pool.compare_exchange_strong(current, fresh)) return *fresh;
    delete fresh;
    return *current;
}

}  // namespace

int default_thread_count() {
#if defined(__linux__)
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof(set), &set) == 0) return CPU_COUNT(&set);
#endif
    const unsigned processors = std::thread::hardware_concurrency();
    return processors > 0 ? static_cast<int>(processors) : 1;
}

int thread_count() {
    int threads = configured_threads.load(std::memory_order_relaxed);
    if (threads == 0) {
        threads = default_thread_count();
        configured_threads.store(threads, std::memory_order_relaxed);
    }
    return threads;
}

void set_thread_count(int threads) { configured_threads.store(threads, std::memory_order_relaxed); }

void run_parallel(std::size_t count, bool worth_waking, Task task, void* context) {
    const int threads = thread_count();
    const bool shared = threads > 1 && count > 1;
    if (shared && (worth_waking || pool().is_warm())) {
        Job job(count, threads, task, context);
        pool().run(job);
    } else {
        for (std::size_t i = 0; i < count; ++i) task(context, i);
    }
    if (shared) pool().note_end();
}

}  // namespace fusestep
