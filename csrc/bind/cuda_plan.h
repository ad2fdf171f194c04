// The plan over arrays of a GPU, as Python holds it: checks and prepares natively, fills the
// structs of cuda/launch.h, and has them launched. It never reads the arrays.
//
// Nothing waits for the device but what must know something of it: nonfinite="raise", and whoever
// asks for a norm or a count. Where the device alone knows how many updates there were, with
// nonfinite="skip" or when a captured step is replayed, it counts them itself and takes the
// settings of its next update from a table of rows.
#pragma once
#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "checked_plan.h"
#include "cuda_launcher.h"

namespace fusestep {

class CudaPlan : public CheckedPlan {
 public:
    CudaPlan(const py::object& make_launcher, py::object array_type, int device,
             const std::string& rule, std::vector<std::string> paths, const py::list& parameters,
             const py::list& states, const std::vector<int>& groups,
             const py::array_t<double>& settings, const py::list& containers,
             const py::list& copies);

    static constexpr bool kTakesForeign = false;

    py::object step(py::handle gradients, double grad_scale, py::handle clock, bool take_norm,
                    py::handle changes, const py::object& learn, py::handle squared_norm);

    // What CheckedPlan::update_part() goes on with. Waits for the device where it alone can tell
    // whether the step applies.
    py::object begin_parts(py::handle gradients, double grad_scale, py::handle clock,
                           bool take_norm, py::handle changes, py::handle squared_norm);

    // Evaluates the settings of the next steps, for replays of one that is captured.
    void prepare_replays(std::size_t steps, const py::object& clocks, double grad_scale);
    // Whether a graph replays a step.
    bool is_captured() const { return has_graphs_; }

    // Adds a micro-batch. Returns the sum of its squares as an array of the device.
    py::object accumulate(py::handle gradients, double samples);
    // Goes on in the current stream; throws StateError naming the call where that is capturing.
    void refuse_capture(const std::string& call);

    void put_in_place(const py::object& values);
    void take_back();

    // What every plan has, where a GPU adds something.

    void rebind(const py::list& parameters, const py::list& containers, const py::object& changes);
    void set_accumulators(const py::list& arrays, bool takes_rows);
    py::tuple accumulated() const;
    py::array_t<double> settings();
    void set_settings(const py::array_t<double>& settings, const py::object& program,
                      std::vector<Target> targets, const py::object& changes);
    void load(const std::vector<std::int64_t>& updates, std::int64_t attempted,
              std::int64_t applied, const py::tuple& accumulated,
              const py::array_t<double>& settings, const py::object& program,
              std::vector<Target> targets, const std::string& nonfinite, const py::list& arrays,
              const py::object& changes, const Values& values);
    void set_nonfinite(const std::string& name);
    std::int64_t attempted();
    std::int64_t applied();
    std::vector<std::int64_t> updates();
    Values values();

 private:
    // steps of which the host does not know if they applied
    static constexpr std::size_t kMostUnknown = 32;
    static constexpr std::uint64_t kReplays = 0;  // the report of all replays

    // What a captured launch has in it for good.
    struct Shape {
        NonFinite nonfinite;
        bool needs_norm;
        std::size_t entries;
        bool collects;
        bool clips;
        double grad_scale;

        bool operator==(const Shape& other) const {
            return nonfinite == other.nonfinite && needs_norm == other.needs_norm &&
                   entries == other.entries && collects == other.collects && clips == other.clips &&
                   grad_scale == other.grad_scale;
        }
    };

    // What a step is asked for, besides its clock.
    struct Asked {
        py::handle gradients;
        double grad_scale;
        bool take_norm;
        std::optional<SquaredNorm> squared_norm;
    };

    // A step of which the host does not know yet which of its rows it has used.
    struct Latest {
        std::uint64_t number;
        std::int64_t base;
    };

    // Lets go of what was queued and not run.
    class Queue {
     public:
        explicit Queue(CudaLauncher& device) : launcher_(device) {}
        ~Queue() { launcher_.drop(); }
        Queue(const Queue&) = delete;
        Queue& operator=(const Queue&) = delete;

     private:
        CudaLauncher& launcher_;
    };

    // A step that is checked and prepared. Takes back counts and settings at its end unless they
    // are kept.
    class Attempt {
     public:
        Attempt(CudaPlan& owner, const Asked& asked);
        ~Attempt();
        Attempt(const Attempt&) = delete;
        Attempt& operator=(const Attempt&) = delete;

        void undo();
        // Counts and settings stay.
        void keep() { is_kept_ = true; }
        // The settings are those of the first row, the counts as before.
        void keep_first_row();

     private:
        CudaPlan& owner_;
        Queue queue_;
        bool is_kept_ = false;
    };

    // Steps

    // A step that the host counts, as soon as it is launched.
    py::object host_counted_step(const Asked& asked, const std::optional<Clock>& clock,
                                 Changes& attributes, const py::object& learn);
    // Prepares such a step, and queues all of it but the update. Returns the number of its report,
    // or 0 where nothing needs the norm.
    std::uint64_t queue_norm(const std::optional<Clock>& clock);
    void host_counts() {
        counts_ = is_ready_ = false;
        latest_.reset();
    }
    // A step that applies or not, as the device will find, and may follow others like it.
    py::object device_counted_step(const Asked& asked, const std::optional<Clock>& clock,
                                   bool waits);
    // The launches of a step, recorded by the current stream.
    py::object capture(const Asked& asked, const std::optional<Clock>& clock);

    // Fills the structs for the launches of one step. The entries are in the table, or in the
    // struct for nullptr; `counts`: the device does; `number` is of the report.
    void fill(const RowTable* table, bool counts, std::uint64_t number);
    void update_elements(std::size_t first, std::size_t last) override;
    // Launches what tells the norm, or what would at its end where nothing needs it.
    void launch_norm();
    void launch_update(std::size_t first, std::size_t last);
    py::object info(std::vector<double> rates, std::int64_t base, std::uint64_t number,
                    bool has_applied);
    [[noreturn]] void raise_nonfinite();
    // Invalidates the table: later replays update nothing.
    void invalidate_replays();

    // Counts

    // Takes over what the device has counted, and waits for it; throws StateError where there were
    // more replays than rows.
    void settle();
    // In the middle of an attempt, which must not take back what the device has counted.
    void resettle();
    void settle_alone();
    // Takes over what steps have reported by now.
    void resolve_arrived();
    void resolve(std::int64_t attempted, std::int64_t applied);
    void let_host_count();
    void note_participants();
    bool has_same_participants() const;

    // Rows of settings

    // The entries of an update that comes after `ahead` others of this kind, behind those of the
    // rows before.
    void prepare_row(const std::optional<Clock>& clock, std::int64_t ahead);
    // Rows for so many updates, one after the other. The clocks are one for each, one for all, or
    // none. Counts are as before then.
    void make_rows(std::size_t count, const std::vector<std::optional<Clock>>& clocks);
    // Whether the rows say of what updates hand on the same as those of the step before, where both
    // have a row for an update. If not, it depends on which of the steps under way apply.
    bool hands_on_alike() const;
    Shape shape() const;
    std::set<unsigned> cases() const;
    double lr() const { return plan().lr(); }
    // The settings that the last step has used; waits where the device alone knows.
    void take_row();
    void know_row();

    // Arrays

    std::size_t leaf_count() const { return plan().leaves().size(); }
    void note_gradients();
    void upload_leaves();

    CudaLauncher launcher_;

    // of the step that is prepared
    Step step_;
    StepOptions options_;
    bool needs_norm_ = false;
    std::vector<std::uint64_t> gradients_;
    std::vector<std::uint32_t> entry_of_;
    std::vector<unsigned char> holds_;
    std::size_t entries_ = 0;          // of a row
    bool collects_ = false;            // whether any row has sums over tensors
    std::vector<device::Entry> rows_;  // one after the other
    std::vector<double> clip_norms_;   // by row, like the next
    std::vector<double> rates_;
    std::vector<std::vector<double>> next_values_;
    std::vector<std::int64_t> updates_before_;
    std::vector<double> values_before_;
    std::vector<std::vector<double>> next_handed_on_;  // by row: what its update leaves
    std::vector<double> handed_on_before_;

    bool counts_ = false;                          // whether the device does
    std::vector<std::uint64_t> unknown_;           // reports of steps that it has not told of yet
    std::vector<bool> participants_;               // the parameters whose updates it counts
    std::optional<Latest> latest_;                 // the last step, if its row is not known
    std::vector<std::vector<double>> row_values_;  // its rows
    std::vector<std::vector<double>> row_handed_on_;
    std::int64_t row_base_ = 0;  // updates before the first row
    RowTable table_;             // of steps that the device counts

    bool is_ready_ = false;  // the table of replays is of the present counts, and the device counts
    bool has_graphs_ = false;
    RowTable replayed_table_;
    Shape shape_ = {};
    std::vector<device::Entry> first_row_;
    std::optional<Clock> first_clock_;
    std::set<unsigned> captured_cases_;

    py::list own_values_;  // of parameters that hold others: arrays and what they had
};

}  // namespace fusestep
