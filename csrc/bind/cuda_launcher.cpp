#include "cuda_launcher.h"

#include <pybind11/stl.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstring>
#include <string>
#include <utility>

#include "arrays.h"

namespace fusestep {
namespace {

constexpr std::size_t kAlignment = 256;  // bytes: of what the device's memory holds

std::size_t divide_up(std::size_t a, std::size_t b) { return (a + b - 1) / b; }
std::size_t round_up(std::size_t a, std::size_t b) { return divide_up(a, b) * b; }

// What a launch passes by value: an array of one element, in memory that its owner keeps.
template <class T>
py::array as_struct(T& value, const py::object& owner) {
    return py::array(py::dtype("V" + std::to_string(sizeof(T))), {1}, {}, &value, owner);
}

// That a thread block measures: whole units where they are columns, side by side, or short.
std::size_t units_together(const Units& units) {
    const bool are_columns = units.inner == 1 && units.count > 1;
    return are_columns || unit_size(units) <= kBlock ? device::kUnitSlots : 1;
}

template <class T>
const unsigned char* bytes_of(const std::vector<T>& table) {
    return reinterpret_cast<const unsigned char*>(table.data());
}

}  // namespace

CudaLauncher::CudaLauncher(const py::object& make, const Plan& plan) {
    const std::size_t leaf_count = plan.leaves().size();
    const std::size_t total = plan.size();
    std::size_t begin = 0, chunks = 0, tensor_sums = 0;
    for (const Leaf& leaf : plan.leaves()) {
        begins_.push_back(begin);
        chunk_begins_.push_back(chunks);
        begin += leaf.size;
        chunks += divide_up(leaf.size, device::kChunk);
        tensor_sums += divide_up(leaf.size, kBlock);
    }
    begins_.push_back(begin);
    chunk_begins_.push_back(chunks);
    tensor_sums *= static_cast<std::size_t>(plan.rule().sums);
    std::size_t units = 0, unit_chunks = 0;
    for (std::size_t i = 0; i < plan.units().size(); ++i) {
        const auto count = static_cast<std::size_t>(plan.units()[i].count);
        units += count;
        if (plan.leaves()[i].size == 0) continue;
        unit_chunks += divide_up(count, units_together(plan.units()[i]));
    }
    // room for the sums of all levels, and counters for their groups
    const std::size_t blocks = std::max<std::size_t>(1, divide_up(total, kBlock));
    std::size_t sums = blocks, level = blocks, groups = 0;
    do {
        level = divide_up(level, kBlock);
        sums += level;
        groups += level;
    } while (level > 1);

    leaves_ = reserve(leaf_count * sizeof(device::Leaf));
    chunks_ = reserve(chunks * sizeof(device::Chunk));
    gradients_at_ = reserve(leaf_count * sizeof(void*));
    entry_of_ = reserve(leaf_count * sizeof(unsigned));
    holds_ = reserve(leaf_count);
    partial_ = reserve(sums * sizeof(double));
    arrived_ = reserve(groups * sizeof(unsigned));
    outcome_ = reserve(sizeof(device::Outcome));
    progress_ = reserve(sizeof(device::Progress));
    weighted_ = reserve(sizeof(double));
    plain_sum_ = reserve(sizeof(double));
    tensor_sums_ = reserve(tensor_sums * sizeof(double));
    factors_ = reserve(plan.rule().sums > 0 ? leaf_count * kFactorBytes : 0);

    unit_chunks_ = reserve(unit_chunks * sizeof(device::Chunk));
    unit_factors_ = reserve(units * sizeof(double));

    object_ = make(plan.rule().type, size_, (kReports + 1) * sizeof(device::Report));
    memory_ = object_.attr("address").cast<std::uintptr_t>();
    reports_ = object_.attr("reports").cast<std::uintptr_t>();
    for (std::uint64_t i = 0; i <= kReports; ++i) *report(i) = {};
    enter_ = object_.attr("enter");
    synchronize_ = object_.attr("synchronize");
    read_ = object_.attr("read");
    allocate_ = object_.attr("allocate");
    compile_ = object_.attr("compile");
    run_ = object_.attr("run");

    device::UpdateLaunch& update = launches_->update;
    device::SumLaunch& sum = launches_->sum;
    update.leaves = sum.leaves = at<device::Leaf>(leaves_);
    update.gradients = sum.gradients = at<const void*>(gradients_at_);
    update.sums = at<double>(tensor_sums_);
    update.unit_chunks = at<device::Chunk>(unit_chunks_);
    update.factors = at<unsigned char>(factors_);
    sum.holds = at<unsigned char>(holds_);
    sum.leaf_count = leaf_count;
    sum.total = total;
    sum.partial = at<double>(partial_);
    sum.arrived = at<unsigned>(arrived_);
    // the arrays must not keep the plan, which keeps them: nothing would find that circle
    const py::capsule owner(new std::shared_ptr<Launches>(launches_), [](void* kept) {
        delete static_cast<std::shared_ptr<Launches>*>(kept);
    });
    const std::size_t sum_grid = divide_up(blocks, device::kBlocksPerGroup);
    update_struct_ = as_struct(launches_->update, owner);
    set_range(0, total, false);
    if (unit_chunks > 0) {
        units_ = py::make_tuple("fusestep_units", unit_chunks, device::kThreads, update_struct_);
    }
    sum_ = py::make_tuple("fusestep_sum", sum_grid, device::kThreads,
                          as_struct(launches_->sum, owner));
    second_sum_ = py::make_tuple("fusestep_sum", sum_grid, device::kThreads,
                                 as_struct(launches_->second_sum, owner));
    conclusion_ =
        py::make_tuple("fusestep_conclude", 1, 1, as_struct(launches_->sum.conclusion, owner));

    gradients_.known.resize(leaf_count);  // zeros, as the device has them
    entries_.known.resize(leaf_count);
    enter();
    upload_leaves(plan);
    upload_chunks(plan);
    upload_unit_chunks(plan);
    run();
}

void CudaLauncher::set_range(std::size_t first, std::size_t last, bool collects) {
    first_ = first;
    last_ = last;
    collects_ = collects;
    const auto leaf_behind = [&](std::size_t element) {  // the first one that ends behind it
        const auto ends = begins_.begin() + 1;
        return static_cast<std::size_t>(std::upper_bound(ends, begins_.end(), element) - ends);
    };
    const std::size_t begun = leaf_behind(first);
    if (collects) {  // tensors that end in the range, wholly
        first = begins_[begun];
        last = begins_[leaf_behind(last)];
    }
    updates_ = first < last;
    if (!updates_) return;
    const std::size_t ended = leaf_behind(last - 1);
    const std::size_t chunk = chunk_begins_[begun] + (first - begins_[begun]) / device::kChunk;
    const std::size_t chunks =
        chunk_begins_[ended] + divide_up(last - begins_[ended], device::kChunk) - chunk;
    device::UpdateLaunch& update = launches_->update;
    update.chunks = at<device::Chunk>(chunks_) + chunk;
    update.first = first;
    update.last = last;
    update.first_leaf = begun;
    update_ = py::make_tuple("fusestep_update", chunks, device::kThreads, update_struct_);
    collect_ = py::make_tuple("fusestep_collect", chunks, device::kCollectThreads, update_struct_);
    combine_ =
        py::make_tuple("fusestep_combine", ended + 1 - begun, device::kThreads, update_struct_);
}

std::size_t CudaLauncher::reserve(std::size_t bytes) {
    return std::exchange(size_, size_ + round_up(bytes, kAlignment));
}

device::Progress CudaLauncher::read_progress() const {
    const std::string bytes = read_(progress_, sizeof(device::Progress)).cast<std::string>();
    device::Progress progress;
    std::memcpy(&progress, bytes.data(), sizeof progress);
    return progress;
}

double CudaLauncher::read_weighted_squares() const {
    const std::string bytes = read_(weighted_, sizeof(double)).cast<std::string>();
    double value;
    std::memcpy(&value, bytes.data(), sizeof value);
    return value;
}

void CudaLauncher::compile(const std::set<unsigned>& cases, bool sums, bool collects) {
    const bool has_all =
        std::includes(compiled_.begin(), compiled_.end(), cases.begin(), cases.end());
    const bool has_passes = has_all && (has_collect_ || !collects);
    if (has_passes && (has_sums_ || !sums)) return;
    std::set<unsigned> wanted = compiled_;
    wanted.insert(cases.begin(), cases.end());
    if (sums && !has_sums_) {
        compile_("sum.cu", py::make_tuple("fusestep_sum", "fusestep_conclude"), py::tuple());
        has_sums_ = true;
    }
    if (has_passes) return;
    const py::tuple listed = py::cast(std::vector<unsigned>(wanted.begin(), wanted.end()));
    if (collects || has_collect_) {
        compile_("collect.cu", py::make_tuple("fusestep_collect", "fusestep_combine"), listed);
    }
    if (!units_.empty() && !has_units_) {
        compile_("units.cu", py::make_tuple("fusestep_units"), py::tuple());
        has_units_ = true;
    }
    if (!has_all) compile_("update.cu", py::make_tuple("fusestep_update"), listed);
    has_collect_ |= collects;
    compiled_.swap(wanted);
}

void CudaLauncher::queue_upload(std::uintptr_t target, const void* data, std::size_t bytes) {
    if (bytes == 0) return;
    uploads_.append(py::make_tuple(target, py::bytes(static_cast<const char*>(data), bytes)));
}

void CudaLauncher::upload_leaves(const Plan& plan) {
    std::vector<device::Leaf> table;
    const auto sums = static_cast<unsigned long long>(plan.rule().sums);
    unsigned long long begin = 0, sums_begin = 0;
    std::size_t unit_factors_begin = 0;
    for (std::size_t i = 0; i < plan.leaves().size(); ++i) {
        const Leaf& leaf = plan.leaves()[i];
        device::Leaf entry = {};
        entry.parameter = leaf.parameter;
        std::copy_n(leaf.state, kMaxStates, entry.state);
        if (!plan.accumulators().empty()) entry.accumulator = plan.accumulators()[i].data;
        if (!plan.outputs().empty()) {
            const Output& output = plan.outputs()[i];
            entry.average = output.average;
            entry.copy = output.copy;
            entry.copy_type = output.copy_type;
        }
        entry.begin = begin;
        entry.size = leaf.size;
        entry.type = leaf.type;
        entry.sums = sums_begin;
        if (!plan.units().empty()) {
            entry.units = plan.units()[i];
            entry.units_together = units_together(entry.units);
            entry.unit_factors = at<double>(unit_factors_) + unit_factors_begin;
            unit_factors_begin += static_cast<std::size_t>(entry.units.count);
        }
        table.push_back(entry);
        begin += leaf.size;
        sums_begin += sums * divide_up(leaf.size, kBlock);
    }
    queue_upload(leaves_, table);
}

void CudaLauncher::upload_chunks(const Plan& plan) {
    std::vector<device::Chunk> table;
    for (std::size_t i = 0; i < plan.leaves().size(); ++i) {
        const std::size_t count = divide_up(plan.leaves()[i].size, device::kChunk);
        for (std::size_t k = 0; k < count; ++k) {
            table.push_back({static_cast<unsigned>(i), static_cast<unsigned>(k)});
        }
    }
    queue_upload(chunks_, table);
}

void CudaLauncher::upload_unit_chunks(const Plan& plan) {
    std::vector<device::Chunk> table;
    for (std::size_t i = 0; i < plan.units().size(); ++i) {
        if (plan.leaves()[i].size == 0) continue;
        const Units& units = plan.units()[i];
        const std::size_t count =
            divide_up(static_cast<std::size_t>(units.count), units_together(units));
        for (std::size_t k = 0; k < count; ++k) {
            table.push_back({static_cast<unsigned>(i), static_cast<unsigned>(k)});
        }
    }
    queue_upload(unit_chunks_, table);
}

void CudaLauncher::upload_holds(const std::vector<unsigned char>& holds) {
    queue_upload(holds_, holds);
}

void CudaLauncher::upload_counts(std::int64_t attempted, std::int64_t applied) {
    const std::int64_t counts[] = {attempted, applied};
    static_assert(offsetof(device::Progress, applied) == sizeof counts[0]);
    queue_upload(memory_ + progress_, counts, sizeof counts);
}

void CudaLauncher::upload_rows(std::int64_t base, std::int64_t rows) {
    const std::int64_t numbers[] = {base, rows};
    queue_upload(memory_ + progress_ + offsetof(device::Progress, base), numbers, sizeof numbers);
}

void CudaLauncher::upload_weighted_squares(double value) {
    queue_upload(memory_ + weighted_, &value, sizeof value);
}

void CudaLauncher::upload_table(RowTable& table, const std::vector<device::Entry>& entries,
                                std::size_t rows, const std::vector<double>& norms) {
    if (table.is_fixed && rows > table.rows) {
        throw py::value_error(
            "steps must be at most as many as before the step was captured, which reads the table "
            "made then");
    }
    if (!table.is_fixed) {
        table.rows = rows;
        table.norm_bytes =
            norms.empty() ? 0 : round_up(rows * sizeof(double), alignof(device::Entry));
    }
    const std::size_t size = table.norm_bytes + entries.size() * sizeof(device::Entry);
    if (size > table.bytes) {
        const std::size_t bytes = std::max(2 * table.bytes, size);
        table.address = allocate_(bytes).cast<std::uintptr_t>();
        table.bytes = bytes;
    }
    staged_.resize(size);
    // not memcpy, which takes no null pointer of an empty vector
    std::copy_n(bytes_of(norms), norms.size() * sizeof(double), staged_.begin());
    std::copy_n(bytes_of(entries), entries.size() * sizeof(device::Entry),
                staged_.begin() + static_cast<std::ptrdiff_t>(table.norm_bytes));
    queue_upload(table.address, staged_.data(), size);
}

void CudaLauncher::launch_sum() {
    queued_.append(sum_);
    if (follows_) queued_.append(second_sum_);
}

void CudaLauncher::launch_conclusion() { queued_.append(conclusion_); }

void CudaLauncher::launch_update(std::size_t first, std::size_t last, bool collects) {
    if (first != first_ || last != last_ || collects != collects_) {
        set_range(first, last, collects);
    }
    if (!updates_) return;
    if (!units_.empty()) queued_.append(units_);
    if (collects) {
        queued_.append(collect_);
        queued_.append(combine_);
    }
    queued_.append(update_);
}

void CudaLauncher::follow_sum(bool follows) {
    follows_ = follows;
    device::SumLaunch& first = launches_->sum;
    device::SumLaunch& second = launches_->second_sum;
    first.is_followed = follows;
    if (!follows) return;
    first.sum = at<double>(plain_sum_);
    second = first;
    second.plain_sum = at<double>(plain_sum_);
    second.is_followed = 0;
    second.sum = nullptr;
}

void CudaLauncher::hand_over(bool waits) {
    const py::list uploads = std::exchange(uploads_, py::list());
    const py::list queued = std::exchange(queued_, py::list());
    // until it is done, what the device holds is not known
    if (gradients_.is_queued) gradients_.known.clear();
    if (entries_.is_queued) entries_.known.clear();
    if (!uploads.empty() || !queued.empty()) run_(uploads, queued, waits);
    if (std::exchange(gradients_.is_queued, false)) gradients_.known.swap(gradients_.next);
    if (std::exchange(entries_.is_queued, false)) entries_.known.swap(entries_.next);
}

device::Report CudaLauncher::run_for_report(std::uint64_t number) {
    hand_over(true);
    return wait_report(number);
}

void CudaLauncher::drop() {
    uploads_ = py::list();
    queued_ = py::list();
    gradients_.is_queued = entries_.is_queued = false;
}

device::Report* CudaLauncher::report(std::uint64_t number) const {
    const std::uint64_t slot = number == 0 ? kReports : number % kReports;
    return reinterpret_cast<device::Report*>(reports_) + slot;
}

bool CudaLauncher::has_report(std::uint64_t number) const {
    const volatile unsigned long long& written = report(number)->number;
    const bool has = written == number;
    std::atomic_thread_fence(std::memory_order_acquire);  // the device writes the number last
    return has;
}

device::Report CudaLauncher::wait_report(std::uint64_t number) const {
    if (!has_report(number)) synchronize();
    if (!has_report(number)) {
        throw StateError("what that step told is gone: ask for it within the next " +
                         std::to_string(kReports - 1) + " steps");
    }
    return *report(number);
}

}  // namespace fusestep
