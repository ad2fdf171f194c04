// A plan's side of a GPU: where its tables lie there, and what is uploaded and launched. The work
// itself is queued by an object of Python (fusestep.engines.cuda.launcher.Launcher).
#pragma once
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <memory>
#include <set>
#include <vector>

#include "../cuda/launch.h"
#include "../runtime/plan.h"

namespace fusestep {

namespace py = pybind11;

// Rows of settings on the device, behind the clipping norm of each.
struct RowTable {
    std::uintptr_t address = 0;
    std::size_t bytes = 0;
    std::size_t rows = 0;        // for which there is room
    std::size_t norm_bytes = 0;  // where the rows begin
    bool is_fixed = false;       // a captured graph holds these addresses: never reallocate

    const double* norms() const { return reinterpret_cast<const double*>(address); }
    const device::Entry* entries() const {
        return reinterpret_cast<const device::Entry*>(address + norm_bytes);
    }
};

class CudaLauncher {
 public:
    static constexpr std::size_t kReports = 256;  // that are kept

    // `make` is called with the name of the rule's struct and the bytes for tables, of the device,
    // and for reports, of the host.
    CudaLauncher(const py::object& make, const Plan& plan);

    // Goes on in the current stream, behind what was launched on another. Whether that stream is
    // capturing.
    bool enter() const { return enter_().cast<bool>(); }
    // Waits for all that was launched.
    void synchronize() const { synchronize_(); }
    const py::object& object() const { return object_; }

    // What lies on the device, once all is done.
    device::Progress read_progress() const;
    double read_weighted_squares() const;

    // Compiles what the launches of a step need, unless that was done; `sums` of squares, and the
    // first pass of updates that go twice over tensors, too.
    void compile(const std::set<unsigned>& cases, bool sums, bool collects);
    const std::set<unsigned>& compiled() const { return compiled_; }

    // Queues: nothing is done before run().
    void upload_leaves(const Plan& plan);
    void upload_chunks(const Plan& plan);
    void upload_unit_chunks(const Plan& plan);
    void upload_gradients(const std::vector<std::uint64_t>& gradients) {
        upload_new(gradients_, gradients, gradients_at_);
    }
    void upload_entries(const std::vector<std::uint32_t>& entry_of) {
        upload_new(entries_, entry_of, entry_of_);
    }
    void upload_holds(const std::vector<unsigned char>& holds);
    void upload_counts(std::int64_t attempted, std::int64_t applied);
    void upload_rows(std::int64_t base, std::int64_t rows);
    void upload_weighted_squares(double value);
    // Norms may be none.
    void upload_table(RowTable& table, const std::vector<device::Entry>& entries, std::size_t rows,
                      const std::vector<double>& norms);
    void launch_sum();
    void launch_conclusion();
    // Of elements of the index space; with sums, of the tensors whose last element is one of them.
    void launch_update(std::size_t first, std::size_t last, bool collects);

    // Hands over what was queued. Where that fails, the device may have got some of it.
    void run() { hand_over(false); }
    // Likewise, and waits for the report of that number.
    device::Report run_for_report(std::uint64_t number);
    // Forgets what was queued.
    void drop();

    // Whether the device knows that the gradients are there.
    bool knows(const std::vector<std::uint64_t>& gradients) const {
        return gradients == gradients_.known;
    }

    // Reports of steps, in memory of the host that the device writes. Numbers are never used twice;
    // 0 is that of all replays.
    std::uint64_t new_report() { return ++latest_report_; }
    device::Report* report(std::uint64_t number) const;
    // Whether the device has written the report of that number, and no later one in its place.
    bool has_report(std::uint64_t number) const;
    // That report; waits for it. Throws StateError where another has taken its place.
    device::Report wait_report(std::uint64_t number) const;

    // What the next launches are given. Only what differs between steps is left to the caller.
    device::UpdateLaunch& update() { return launches_->update; }
    device::SumLaunch& sum() { return launches_->sum; }
    const unsigned* entry_of() const { return at<unsigned>(entry_of_); }
    device::Outcome* outcome() const { return at<device::Outcome>(outcome_); }
    device::Progress* progress() const { return at<device::Progress>(progress_); }
    double* weighted_squares() const { return at<double>(weighted_); }
    // Whether a second sum follows the first, and stands in where that has left the range of
    // double.
    void follow_sum(bool follows);

 private:
    struct Launches {
        device::UpdateLaunch update = {};
        device::SumLaunch sum = {};
        device::SumLaunch second_sum = {};
    };

    template <class T>
    T* at(std::size_t offset) const {
        return reinterpret_cast<T*>(memory_ + offset);
    }
    // What the device holds of a table, and what it will once all that is queued was run.
    template <class T>
    struct Known {
        std::vector<T> known;
        std::vector<T> next;
        bool is_queued = false;
    };
    template <class T>
    void upload_new(Known<T>& table, const std::vector<T>& values, std::size_t offset) {
        if (values == table.known) return;
        table.next = values;
        table.is_queued = true;
        queue_upload(offset, values);
    }
    std::size_t reserve(std::size_t bytes);
    void set_range(std::size_t first, std::size_t last, bool collects);
    void hand_over(bool waits);
    void queue_upload(std::uintptr_t target, const void* data, std::size_t bytes);
    template <class T>
    void queue_upload(std::size_t offset, const std::vector<T>& data) {
        queue_upload(memory_ + offset, data.data(), data.size() * sizeof(T));
    }

    std::shared_ptr<Launches> launches_ = std::make_shared<Launches>();
    std::size_t size_ = 0;  // of the tables, and where each begins
    std::size_t leaves_, chunks_, gradients_at_, entry_of_, holds_, partial_, arrived_, outcome_,
        progress_, weighted_, plain_sum_, tensor_sums_, factors_, unit_chunks_, unit_factors_;
    std::uintptr_t memory_ = 0;
    std::uintptr_t reports_ = 0;
    std::uint64_t latest_report_ = 0;
    py::object object_, enter_, synchronize_, read_, allocate_, compile_, run_;
    // kernel, grid, threads, struct
    py::tuple sum_, second_sum_, conclusion_, units_, collect_, combine_, update_;
    py::array update_struct_;
    std::vector<std::size_t> begins_;        // of each leaf in the index space, and where all end
    std::vector<std::size_t> chunk_begins_;  // likewise in the table of chunks
    // what the launches are for, and whether there is something to update in it
    std::size_t first_ = 0, last_ = 0;
    bool collects_ = false;
    bool updates_ = false;
    bool follows_ = false;
    std::set<unsigned> compiled_;
    std::vector<unsigned char> staged_;  // a table on its way to be uploaded
    bool has_sums_ = false;
    bool has_collect_ = false;
    bool has_units_ = false;
    py::list uploads_, queued_;
    Known<std::uint64_t> gradients_;
    Known<std::uint32_t> entries_;
};

}  // namespace fusestep
