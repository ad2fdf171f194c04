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

// What helpers take part in, from when it is posted until it is withdrawn.
class Job {
 public:
    explicit Job(int helper_limit) : helper_limit_(helper_limit) {}
    virtual ~Job() = default;

    // Works until nothing is left; thread 0 is the caller.
    virtual void work(int thread) = 0;

    bool wants_help() const {
        return !exhausted_.load(std::memory_order_relaxed) &&
               helpers.load(std::memory_order_relaxed) < helper_limit_;
    }
    int helper_limit() const { return helper_limit_; }

    std::atomic<int> helpers{0};
    Job* following = nullptr;

 protected:
    void set_exhausted() { exhausted_.store(true, std::memory_order_relaxed); }

 private:
    int helper_limit_;
    std::atomic<bool> exhausted_{false};
};

// One call of run_parallel. Each thread has its own part of the range and takes over what is left
// of the others' when done: from step to step an array stays in the cache, or the memory, of its
// thread.
class ParallelJob final : public Job {
 public:
    ParallelJob(std::size_t count, int threads, Task task, void* context)
        : Job(std::min(threads, kMostParts) - 1),
          task_(task),
          context_(context),
          parts_(helper_limit() + 1) {
        for (int k = 0; k < parts_; ++k) {
            part_[k].next.store(share(count, k), std::memory_order_relaxed);
            part_[k].end = share(count, k + 1);
        }
    }

    void work(int thread) override {
        for (int k = 0; k < parts_; ++k) {
            Part& part = part_[(thread + k) % parts_];
            for (std::size_t i;
                 (i = part.next.fetch_add(1, std::memory_order_relaxed)) < part.end;) {
                task_(context_, i);
            }
        }
        set_exhausted();
    }

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
    Part part_[kMostParts];
};

// Waits a moment for another thread, and lets others have the processor when it takes long.
void pause(int round) {
    if (round < kWatchRounds) {
        FUSESTEP_RELAX();
    } else {
        std::this_thread::yield();
    }
}

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

    void run(ParallelJob& job) {
        post(job, true);
        job.work(0);
        withdraw(job);
    }

    // first: at the head of the queue; else helped only when idle.
    void post(Job& job, bool first) {
        int wake;
        {
            std::lock_guard<std::mutex> lock(mutex_);
            start_helpers(job.helper_limit());
            Job** link = &jobs_;
            while (!first && *link != nullptr) link = &(*link)->following;
            job.following = *link;
            *link = &job;
            posted_.fetch_add(1, std::memory_order_release);
            const int helpers = static_cast<int>(threads_.size());
            wake = std::min(helpers - awake_.load(std::memory_order_relaxed), job.helper_limit());
        }
        for (; wake > 0; --wake) posted_signal_.notify_one();
    }

    // Returns when nobody works at the job any more.
    void withdraw(Job& job) {
        {
            std::lock_guard<std::mutex> lock(mutex_);
            Job** link = &jobs_;
            while (*link != &job) link = &(*link)->following;
            *link = job.following;
        }
        // nobody can join any more; wait for those who still hold a chunk
        for (int round = 0; job.helpers.load(std::memory_order_acquire) != 0; ++round) pause(round);
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
        ParallelJob job(count, threads, task, context);
        pool().run(job);
    } else {
        for (std::size_t i = 0; i < count; ++i) task(context, i);
    }
    if (shared) pool().note_end();
}

class Background::Work final : public Job {
 public:
    Work(std::size_t count, Task task, void* context)
        : Job(std::min(thread_count() - 1, kMostHelpers)),
          count_(count),
          task_(task),
          context_(context),
          pool_(&pool()),
          done_(new std::atomic<bool>[count]) {
        for (std::size_t i = 0; i < count; ++i) done_[i].store(false, std::memory_order_relaxed);
        if (helper_limit() > 0) pool_->post(*this, false);
    }
    ~Work() override {
        next_.store(count_, std::memory_order_relaxed);
        if (helper_limit() > 0 && !is_forked()) pool_->withdraw(*this);
    }

    void work(int /*thread*/) override {
        while (take()) {
        }
        set_exhausted();
    }

    bool has(std::size_t count) {
        std::size_t known = known_.load(std::memory_order_acquire);
        while (known < count && done_[known].load(std::memory_order_acquire)) ++known;
        known_.store(known, std::memory_order_release);
        return known >= count;
    }

    void finish(std::size_t count) {
        for (int round = 0; !has(count);) {
            if (!take()) pause(round++);
        }
    }

 private:
    // Copying memory seldom becomes faster with more.
    static constexpr int kMostHelpers = 4;

    bool is_forked() const { return pool_ != shared_pool.load(); }

    bool take() {
        const std::size_t i = next_.fetch_add(1, std::memory_order_relaxed);
        if (i >= count_) return false;
        task_(context_, i);
        done_[i].store(true, std::memory_order_release);
        return true;
    }

    std::size_t count_;
    Task task_;
    void* context_;
    Pool* pool_;
    std::unique_ptr<std::atomic<bool>[]> done_;
    std::atomic<std::size_t> next_{0};
    std::atomic<std::size_t> known_{0};  // so many from the first on are done
};

Background::Background(std::size_t count, Task task, void* context)
    : work_(new Work(count, task, context)) {}

Background::~Background() = default;

bool Background::has(std::size_t count) { return work_->has(count); }

void Background::finish(std::size_t count) {
    const FloatEnvironment environment;
    work_->finish(count);
}

}  // namespace fusestep
