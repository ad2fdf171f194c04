// Works the thread pool and the plans from several threads at once. The thread sanitizer watches
// for races; the program itself checks that every result has the bits of the serial run.
#include "../../csrc/runtime/pool.h"

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "../../csrc/expression/program.h"
#include "../../csrc/runtime/grouping.h"
#include "../../csrc/runtime/isa.h"
#include "../../csrc/runtime/plan.h"

namespace fusestep {
namespace {

constexpr int kCallers = 4;
constexpr std::size_t kClocks = 12'345;
constexpr int kThreads = 6;
constexpr int kSteps = 4;
// around blocks, chunks and the size from which a step is shared out, with an empty array inside
constexpr std::size_t kSizes[] = {1, 40'000, 7, 1023, 1025, 0, 65'537, 3};

using Bytes = std::vector<unsigned char>;

// Changes the thread count all the time while it lives.
class Meddler {
 public:
    Meddler() : thread_([this] { meddle(); }) {}
    ~Meddler() {
        done_.store(true);
        thread_.join();
        set_thread_count(1);
    }
    Meddler(const Meddler&) = delete;
    Meddler& operator=(const Meddler&) = delete;

 private:
    void meddle() {
        for (int threads = 1; !done_.load(); threads = threads % kThreads + 1) {
            set_thread_count(threads);
            std::this_thread::yield();
        }
    }

    std::atomic<bool> done_{false};
    std::thread thread_;
};

// Values between -1 and 1 that depend on the seed alone.
class Noise {
 public:
    explicit Noise(std::uint64_t seed) : state_(seed) {}
    double next() {
        state_ = state_ * 6364136223846793005u + 1442695040888963407u;
        return static_cast<double>(state_ >> 11) / 4503599627370496.0 - 1.0;
    }

 private:
    std::uint64_t state_;
};

// An optimizer with arrays of its own: float32 and float64 in turn, all flags of the rule off or
// on.
class Model {
 public:
    Model(const RuleEntry& rule, bool flags) : flags_(flags) {
        for (int i = 0; i < rule.columns; ++i) {
            const Column& column = rule.column[i];
            const double number = column.upper == 1.0 ? 0.9 : 0.01;
            hyper_.push_back(column.flag ? (flags ? 1.0 : 0.0) : number);
        }
        hyper_.resize(hyper_.size() + kCommonColumns);
        hyper_[static_cast<std::size_t>(rule.columns + kMaximize)] = flags ? 1.0 : 0.0;
        Noise noise(7);
        std::vector<Leaf> leaves;
        for (const std::size_t size : kSizes) {
            Leaf leaf;
            leaf.size = size;
            leaf.type = leaves.size() % 2 == 0 ? kFloat32 : kFloat64;
            leaf.parameter = array(leaf, &noise);
            const unsigned used = rule.states_used(hyper_.data());
            for (int k = 0; k < rule.states; ++k) {
                if (used >> k & 1) leaf.state[k] = array(leaf, nullptr);
            }
            leaves.push_back(leaf);
        }
        std::vector<Accumulator> sums;
        for (const Leaf& leaf : leaves) sums.push_back({array(leaf, nullptr), false});
        const std::size_t written = arrays_.size();
        for (const Leaf& leaf : leaves) gradients_.push_back(array(leaf, &noise));
        plan_ = std::make_unique<Plan>(rule, std::move(leaves), 1, hyper_.data());
        plan_->accumulators() = std::move(sums);
        written_ = written;
    }

    void train() {
        StepOptions options;
        options.clip_by_norm = true;
        options.clip_norm = 5.0;
        options.nonfinite = NonFinite::kSkip;
        if (flags_) options.grad_scale = 3.0;
        if (flags_) options.clip_value = 0.01;
        for (int step = 0; step < kSteps; ++step) {
            for (std::size_t i = 0; i < gradients_.size(); ++i) {
                const bool absent = step == 2 && i == 1;
                plan_->set_gradient(i, absent ? nullptr : gradients_[i]);
            }
            norms_.push_back(plan_->step(options).grad_norm);
        }
        for (const double samples : {2.0, 5.0}) norms_.push_back(plan_->accumulate(samples));
        plan_->use_accumulated();
        options.grad_scale *= 7.0;
        norms_.push_back(plan_->step(options).grad_norm);
    }

    // All that the steps wrote: parameters, state, reported norms.
    Bytes bytes() const {
        Bytes all(norms_.size() * sizeof(double));
        std::memcpy(all.data(), norms_.data(), all.size());
        for (std::size_t i = 0; i < written_; ++i) {
            all.insert(all.end(), arrays_[i].begin(), arrays_[i].end());
        }
        return all;
    }

 private:
    // Memory of the leaf's size and type, random or zero.
    void* array(const Leaf& leaf, Noise* noise) {
        const std::size_t item = leaf.type == kFloat32 ? sizeof(float) : sizeof(double);
        arrays_.emplace_back((leaf.size + 1) * item);  // one more: its address is never null
        unsigned char* const data = arrays_.back().data();
        for (std::size_t i = 0; noise != nullptr && i < leaf.size; ++i) {
            const double value = noise->next();
            const float narrow = static_cast<float>(value);
            const void* const source = leaf.type == kFloat32 ? static_cast<const void*>(&narrow)
                                                             : static_cast<const void*>(&value);
            std::memcpy(data + i * item, source, item);
        }
        return data;
    }

    bool flags_;
    std::vector<double> hyper_;
    std::vector<Bytes> arrays_;
    std::size_t written_ = 0;
    std::vector<void*> gradients_;
    std::vector<double> norms_;
    std::unique_ptr<Plan> plan_;
};

// One model for every rule without and one with its flags.
std::vector<std::unique_ptr<Model>> models() {
    std::vector<std::unique_ptr<Model>> all;
    for (const RuleEntry& rule : kRuleEntries) {
        all.push_back(std::make_unique<Model>(rule, false));
        all.push_back(std::make_unique<Model>(rule, true));
    }
    return all;
}

// The visits are plain integers: a race, or a task still running at return, is the sanitizer's to
// report.
bool every_index_is_visited_once() {
    const Meddler meddler;
    std::atomic<int> wrong{0};
    std::vector<std::thread> callers;
    for (int caller = 0; caller < kCallers; ++caller) {
        callers.emplace_back([&wrong, caller] {
            constexpr std::size_t counts[] = {0, 1, 2, 3, 64, 1000};
            for (std::size_t round = 0; round < 400; ++round) {
                const std::size_t count = counts[(round + static_cast<std::size_t>(caller)) % 6];
                std::vector<int> visits(count);
                auto visit = [&visits](std::size_t i) { ++visits[i]; };
                run_parallel(count, true, visit);
                for (const int n : visits) wrong += n != 1;
            }
        });
    }
    for (std::thread& caller : callers) caller.join();
    return wrong == 0;
}

// What one call wrote on any thread, the next call may read on any other.
bool later_calls_see_what_earlier_ones_wrote() {
    set_thread_count(kThreads);
    std::vector<std::size_t> values(5000);
    for (int round = 0; round < 200; ++round) {
        std::vector<std::size_t> next(values.size());
        auto task = [&](std::size_t i) { next[i] = values[values.size() - 1 - i] + 1; };
        run_parallel(values.size(), true, task);
        values.swap(next);
    }
    for (const std::size_t value : values) {
        if (value != 200) return false;
    }
    return true;
}

std::vector<Bytes> serial_results() {
    set_thread_count(1);
    std::vector<Bytes> results;
    for (const auto& model : models()) {
        model->train();
        results.push_back(model->bytes());
    }
    return results;
}

bool one_after_another_has_the_serial_bits(const std::vector<Bytes>& expected) {
    for (int threads = 2; threads <= kThreads; threads += 2) {
        set_thread_count(threads);
        const auto all = models();
        for (std::size_t k = 0; k < all.size(); ++k) {
            all[k]->train();
            if (all[k]->bytes() != expected[k]) return false;
        }
    }
    return true;
}

bool all_at_once_have_the_serial_bits(const std::vector<Bytes>& expected) {
    const Meddler meddler;
    const auto all = models();
    std::vector<std::thread> trainers;
    for (const auto& model : all) trainers.emplace_back([&model] { model->train(); });
    for (std::thread& trainer : trainers) trainer.join();
    for (std::size_t k = 0; k < all.size(); ++k) {
        if (all[k]->bytes() != expected[k]) return false;
    }
    return true;
}

// A warm-up times a power of e, for many clocks, chunk by chunk.
class Curve {
 public:
    Curve() : steps_(kClocks) {
        const std::size_t step = program_.add_input(kStep);
        const std::size_t passed = add(op_divide, 2, step, program_.add_constant(3000.0));
        const std::size_t rise = add(op_minimum, 2, passed, program_.add_constant(1.0));
        const std::size_t fall =
            add(op_exp, 1, add(op_multiply, 2, passed, program_.add_constant(-1.0)));
        const std::size_t curve = add(op_multiply, 2, rise, fall);
        program_.add_output(add(op_multiply, 2, curve, program_.add_cell(&factor_)));
        for (std::size_t i = 0; i < kClocks; ++i) steps_[i] = static_cast<long long>(i);
    }

    std::vector<double> values() const {
        ClockColumn clock[kClockInputs];
        clock[kStep].whole = steps_.data();
        const std::vector<double> cells = program_.cell_values();
        std::vector<double> values(kClocks);
        auto task = [&](std::size_t i) {
            const std::size_t begin = i * 1000, end = std::min(kClocks, begin + 1000);
            program_.run(active_evaluate(), clock, cells, begin, end, values.data());
        };
        run_parallel((kClocks + 999) / 1000, true, task);
        return values;
    }

 private:
    std::size_t add(Operation operation, int operands, std::size_t a, std::size_t b = 0) {
        Instruction instruction{};
        instruction.operation = operation;
        instruction.operand[0] = a;
        instruction.operand[1] = b;
        return program_.add(instruction, operands, active_evaluate());
    }

    double factor_ = 0.5;
    Program program_;
    std::vector<long long> steps_;
};

bool one_program_serves_several_threads(const std::vector<double>& expected) {
    const Meddler meddler;
    const Curve curve;
    std::vector<std::vector<double>> found(kCallers);
    std::vector<std::thread> callers;
    for (auto& values : found) callers.emplace_back([&] { values = curve.values(); });
    for (std::thread& caller : callers) caller.join();
    return std::all_of(found.begin(), found.end(),
                       [&](const std::vector<double>& values) { return values == expected; });
}

// Each caller has several backgrounds at work, waits for parts of them, and leaves one unfinished.
bool backgrounds_go_on_beside_steps() {
    const Meddler meddler;
    std::atomic<int> wrong{0};
    auto call = [&wrong] {
        for (int round = 0; round < 40; ++round) {
            std::vector<std::size_t> first(3000), second(500), third(2000), steps(700);
            auto fill = [](void* values, std::size_t i) {
                (*static_cast<std::vector<std::size_t>*>(values))[i] = i + 1;
            };
            Background a(first.size(), fill, &first), b(second.size(), fill, &second);
            const Background unfinished(third.size(), fill, &third);
            for (std::size_t part = 0; part <= first.size(); part += 500) {
                a.finish(part);
                auto step = [&](std::size_t i) { steps[i] += i; };
                run_parallel(steps.size(), true, step);
                for (std::size_t i = 0; i < part; ++i) wrong += first[i] != i + 1;
            }
            b.finish(second.size());
            for (std::size_t i = 0; i < second.size(); ++i) wrong += second[i] != i + 1;
            for (std::size_t i = 0; i < steps.size(); ++i) wrong += steps[i] != 7 * i;
        }
    };
    std::vector<std::thread> callers;
    for (int k = 0; k < kCallers; ++k) callers.emplace_back(call);
    for (std::thread& caller : callers) caller.join();
    return wrong == 0;
}

// Callers group numbers of their own, in memory that they keep.
bool groups_are_those_of_a_stable_sort() {
    const Meddler meddler;
    std::atomic<int> wrong{0};
    auto call = [&wrong](std::uint64_t seed) {
        Noise noise(seed);
        Grouping grouping;
        for (const std::size_t n : {100'000u, 300u, 70'000u, 0u, 40'000u}) {
            std::vector<std::int64_t> ids(n);
            for (std::int64_t& id : ids) id = static_cast<std::int64_t>(20'000 * noise.next());
            std::vector<std::uint32_t> order(n);
            for (std::size_t i = 0; i < n; ++i) order[i] = static_cast<std::uint32_t>(i);
            std::stable_sort(order.begin(), order.end(),
                             [&](std::uint32_t a, std::uint32_t b) { return ids[a] < ids[b]; });
            grouping.group(ids.data(), n);
            wrong += !std::equal(order.begin(), order.end(), grouping.order());
            std::vector<std::ptrdiff_t> inverse(n);
            grouping.write_inverse(inverse.data());
            for (std::size_t i = 0; i < n; ++i) wrong += grouping.ids()[inverse[i]] != ids[i];
        }
    };
    std::vector<std::thread> callers;
    for (std::uint64_t k = 0; k < kCallers; ++k) callers.emplace_back(call, k);
    for (std::thread& caller : callers) caller.join();
    return wrong == 0;
}

int passed = 0;
int failed = 0;

void check(const std::string& what, bool holds) {
    std::printf("%s: %s\n", holds ? "ok" : "FAILED", what.c_str());
    std::fflush(stdout);
    ++(holds ? passed : failed);
}

}  // namespace
}  // namespace fusestep

int main() {
    using namespace fusestep;
    check("every index is visited once", every_index_is_visited_once());
    check("later calls see what earlier ones wrote", later_calls_see_what_earlier_ones_wrote());
    check("backgrounds go on beside steps", backgrounds_go_on_beside_steps());
    check("groups are those of a stable sort", groups_are_those_of_a_stable_sort());
    use_isa("baseline");
    const std::vector<Bytes> expected = serial_results();
    const std::vector<double> scheduled = Curve().values();
    for (const std::string& isa : supported_isas()) {
        check(isa + " is active", use_isa(isa) && isa == active_isa());
        check(isa + ", one plan after another: the serial bits",
              one_after_another_has_the_serial_bits(expected));
        check(isa + ", all plans at once: the serial bits",
              all_at_once_have_the_serial_bits(expected));
        check(isa + ", one program in several threads: the serial bits",
              one_program_serves_several_threads(scheduled));
    }
    std::printf("%d passed, %d failed\n", passed, failed);
    return failed == 0 ? 0 : 1;
}
