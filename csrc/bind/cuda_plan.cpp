// The plan over arrays of a GPU, as Python holds it: checks and prepares natively, fills the
// structs of cuda/launch.h, and has them launched. It never reads the arrays.
//
// Nothing waits for the device but what must know something of it: nonfinite="raise", and whoever
// asks for a norm or a count. Where the device alone knows how many updates there were, with
// nonfinite="skip" or when a captured step is replayed, it counts them itself and takes the
// settings of its next update from a table of rows.
#include <pybind11/stl.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "../runtime/float_environment.h"
#include "checked_plan.h"
#include "cuda_launcher.h"

namespace fusestep {
namespace {

constexpr std::size_t kMostUnknown = 32;  // steps of which the host does not know if they applied
constexpr std::uint64_t kReplays = 0;     // the report of all replays

// Which row of settings the step of a report has used.
std::size_t row_of(const device::Report& report, std::int64_t base) {
    return static_cast<std::size_t>(report.applied - static_cast<std::int64_t>(report.applies) -
                                    base);
}

// StepInfo of a GPU step; reading may wait.
class CudaStepInfo {
 public:
    // `rates` are for each number of updates there may have been, from `base` on. Number 0 is of no
    // report; the step has applied then.
    CudaStepInfo(py::object plan, const CudaLauncher& device, std::vector<double> rates,
                 std::int64_t base, std::uint64_t number, bool has_applied)
        : plan_(std::move(plan)),
          launcher_(&device),
          rates_(std::move(rates)),
          base_(base),
          number_(number),
          has_applied_(has_applied) {}

    double lr() const {
        if (rates_.size() == 1) return rates_[0];
        return rates_.at(row_of(launcher_->wait_report(number_), base_));
    }
    py::object grad_norm() const {
        if (number_ == 0) return py::none();
        return py::float_(launcher_->wait_report(number_).grad_norm);
    }
    bool applied() const { return has_applied_ || launcher_->wait_report(number_).applies != 0; }

    py::tuple values() const { return py::make_tuple(lr(), grad_norm(), applied()); }
    std::string text() const {
        const auto shown = [](const py::object& value) {
            return py::repr(value).cast<std::string>();
        };
        return "fusestep.StepInfo(lr=" + shown(py::float_(lr())) +
               ", grad_norm=" + shown(grad_norm()) + ", applied=" + shown(py::bool_(applied())) +
               ")";
    }

 private:
    py::object plan_;  // keeps the device
    const CudaLauncher* launcher_;
    std::vector<double> rates_;
    std::int64_t base_;
    std::uint64_t number_;
    bool has_applied_;
};

class CudaPlan : public CheckedPlan {
 public:
    CudaPlan(const py::object& make_launcher, py::object array_type, int device,
             const std::string& rule, std::vector<std::string> paths, const py::list& parameters,
             const py::list& states, const std::vector<int>& groups,
             const py::array_t<double>& settings, const py::list& containers)
        : CheckedPlan({std::move(array_type), device}, rule, std::move(paths), parameters, states,
                      groups, settings, containers),
          launcher_(make_launcher, plan()),
          gradients_(leaf_count()),
          entry_of_(leaf_count()),
          holds_(leaf_count()),
          participants_(leaf_count()) {
        unknown_.reserve(kMostUnknown + 1);
    }

    static constexpr bool kTakesForeign = false;

    py::object step(py::handle gradients, double grad_scale, py::handle clock, bool take_norm,
                    py::handle changes, const py::object& learn, py::handle squared_norm) {
        const Busy busy(*this);
        Changes attributes(changes);
        const std::optional<Clock> now = read_clock(clock);
        const Asked asked = {gradients, grad_scale, take_norm || !learn.is_none(),
                             read_squared_norm(squared_norm)};
        if (launcher_.enter()) return capture(asked, now);
        if (options({}, false).nonfinite != NonFinite::kSkip) {
            return host_counted_step(asked, now, attributes, learn);
        }
        const py::object info = device_counted_step(asked, now);
        if (changes.is_none() && learn.is_none()) return info;
        const auto& told = info.cast<const CudaStepInfo&>();
        if (!told.applied()) return info;
        Changes learnt(learn.is_none() ? py::none() : learn(told.grad_norm()));
        attributes.apply();
        learnt.apply();
        return info;
    }

    // Evaluates the settings of the next steps, for replays of one that is captured.
    void prepare_replays(std::size_t steps, const py::object& clocks, double grad_scale) {
        const Busy busy(*this);
        if (launcher_.enter()) throw StateError("prepare_replays: not while a stream is capturing");
        settle();
        take_row();
        if (options({}, false).nonfinite == NonFinite::kRaise) {
            throw StateError(
                "prepare_replays: a captured step can't raise: nonfinite must be 'skip' or "
                "'propagate'");
        }
        if (!is_bound()) {
            throw StateError(
                "prepare_replays: a captured step reads the same gradient arrays in every replay: "
                "bind(grads) first");
        }
        std::vector<std::optional<Clock>> given;
        if (!clocks.is_none()) {
            for (const py::handle clock : clocks) given.push_back(read_clock(clock));
        }
        Attempt attempt(*this, {py::none(), grad_scale, false, std::nullopt});
        make_rows(steps, given);
        const Shape shape = this->shape();
        const std::set<unsigned> cases = this->cases();
        if (replayed_table_.is_fixed &&
            (!(shape == shape_) || !std::includes(captured_cases_.begin(), captured_cases_.end(),
                                                  cases.begin(), cases.end()))) {
            replayed_table_ = {};
            invalidate_replays();
            throw StateError(
                "prepare_replays: the captured step does not fit the present settings: call this "
                "once more, and capture anew");
        }
        launcher_.compile(cases, true);  // nothing can be compiled during the capture
        launcher_.upload_table(replayed_table_, rows_, steps, clip_norms_);
        launcher_.upload_gradients(gradients_);
        launcher_.upload_entries(entry_of_);
        launcher_.upload_counts(attempted_, applied_);
        launcher_.upload_rows(applied_, static_cast<std::int64_t>(steps));
        launcher_.run();
        launcher_.report(kReplays)->exhausted = 0;
        shape_ = shape;
        rows_.resize(entries_);
        first_row_ = rows_;
        first_clock_ = given.empty() ? std::nullopt : given[0];
        note_participants();
        is_ready_ = counts_ = true;
        attempt.keep_first_row();
        launcher_.synchronize();  // a graph may be launched on another stream
    }
    // Whether a graph replays a step.
    bool is_captured() const { return has_graphs_; }

    // Adds a micro-batch. Returns the sum of its squares as an array of the device.
    py::object accumulate(py::handle gradients, double samples) {
        const Busy busy(*this);
        refuse_capture();
        const py::tuple squares = launcher_.object().attr("new_number")();
        const py::object passed = begin_accumulate(gradients, samples);
        note_gradients();
        for (std::size_t i = 0; i < leaf_count(); ++i) {
            holds_[i] = plan().accumulators()[i].holds ? 1 : 0;
        }
        device::SumLaunch& sum = launcher_.sum();
        sum.concludes = 0;
        sum.weight = samples;
        sum.sum = reinterpret_cast<double*>(squares[1].cast<std::uintptr_t>());
        sum.weighted_sum = launcher_.weighted_squares();
        launcher_.follow_sum(false);
        Queue queue(launcher_);
        launcher_.compile({}, true);
        if (has_graphs_) launcher_.upload_rows(0, 0);  // replays read the same table of gradients
        if (accumulated_samples() == 0.0) launcher_.upload_weighted_squares(0.0);
        launcher_.upload_gradients(gradients_);
        launcher_.upload_holds(holds_);
        launcher_.launch_sum();
        launcher_.run();
        is_ready_ = false;
        for (std::size_t i = 0; i < leaf_count(); ++i) {
            if (gradients_[i] != 0) plan().accumulators()[i].holds = true;
        }
        end_accumulate(samples, 0.0);
        return squares[0];
    }
    void refuse_capture() {
        if (launcher_.enter()) throw StateError("accumulate: not while a stream is capturing");
    }

    // What every plan has, where a GPU adds something.

    void rebind(const py::list& parameters, const py::list& containers, const py::object& changes) {
        const Hold hold({}, *this);
        if (launcher_.enter()) throw StateError("rebind: not while a stream is capturing");
        let_host_count();
        CheckedPlan::rebind(parameters, containers, changes);
        upload_leaves();
    }

    void set_accumulators(const py::list& arrays) {
        CheckedPlan::set_accumulators(arrays);
        upload_leaves();
    }

    py::tuple accumulated() const {
        py::tuple values = CheckedPlan::accumulated();
        if (values[1].cast<std::int64_t>() > 0) values[2] = launcher_.read_weighted_squares();
        return values;
    }

    py::array_t<double> settings() {
        know_row();
        return CheckedPlan::settings();
    }

    void set_settings(const py::array_t<double>& settings, const py::object& program,
                      std::vector<Target> targets, const py::object& changes) {
        CheckedPlan::set_settings(settings, program, std::move(targets), changes);
        latest_.reset();
    }

    void load(const std::vector<std::int64_t>& updates, std::int64_t attempted,
              std::int64_t applied, const py::tuple& accumulated,
              const py::array_t<double>& settings, const py::object& program,
              std::vector<Target> targets, const std::string& nonfinite, const py::list& arrays,
              const py::object& changes, const Values& values) {
        const Hold hold({}, *this);
        if (launcher_.enter()) throw StateError("load_state_dict: not while a stream is capturing");
        // what may fail, before anything is written: the device's memory, its counts
        const py::object copies = launcher_.object().attr("staged")(arrays);
        let_host_count();
        CheckedPlan::load(updates, attempted, applied, accumulated, settings, program,
                          std::move(targets), nonfinite, py::list(), changes, values);
        latest_.reset();
        launcher_.object().attr("write")(copies);
        launcher_.upload_weighted_squares(accumulated[2].cast<double>());
        launcher_.run();
    }

    void set_nonfinite(const std::string& name) {
        const Hold hold({}, *this);
        settle_alone();
        CheckedPlan::set_nonfinite(name);
    }

    std::int64_t attempted() {
        settle_alone();
        return attempted_;
    }
    std::int64_t applied() {
        settle_alone();
        return applied_;
    }
    std::vector<std::int64_t> updates() {
        launcher_.enter();  // who saves or loads a state reads or writes arrays next
        settle_alone();
        return plan().updates();
    }
    Values values() {
        settle_alone();
        return CheckedPlan::values();
    }

 private:
    // What a captured launch has in it for good.
    struct Shape {
        NonFinite nonfinite;
        bool needs_norm;
        std::size_t entries;
        bool clips;
        double grad_scale;

        bool operator==(const Shape& other) const {
            return nonfinite == other.nonfinite && needs_norm == other.needs_norm &&
                   entries == other.entries && clips == other.clips &&
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
        Attempt(CudaPlan& owner, const Asked& asked) : owner_(owner), queue_(owner.launcher_) {
            // keeps what was passed
            owner.step_ = owner.begin_step(asked.gradients, asked.grad_scale);
            owner.updates_before_ = owner.plan().updates();
            owner.values_before_ = owner.setting_values();
            owner.handed_on_before_ = owner.plan().values();
            StepOptions& options = owner.options_ =
                owner.options(owner.step_, asked.take_norm, asked.squared_norm);
            options.scales_later = options.clip_by_norm;
            owner.needs_norm_ = options.take_norm || options.clip_by_norm || options.squared_norm ||
                                options.nonfinite != NonFinite::kPropagate;
            owner.note_gradients();
        }
        ~Attempt() {
            if (!is_kept_) undo();
            owner_.step_.passed = py::object();
        }
        Attempt(const Attempt&) = delete;
        Attempt& operator=(const Attempt&) = delete;

        void undo() {
            owner_.plan().updates() = owner_.updates_before_;
            owner_.plan().values() = owner_.handed_on_before_;
            owner_.restore(owner_.values_before_);
        }
        // Counts and settings stay.
        void keep() { is_kept_ = true; }
        // The settings are those of the first row, the counts as before.
        void keep_first_row() {
            owner_.latest_.reset();
            owner_.row_values_.swap(owner_.next_values_);
            owner_.row_handed_on_.swap(owner_.next_handed_on_);
            owner_.row_base_ = owner_.applied_;
            owner_.restore(owner_.row_values_[0]);
            is_kept_ = true;
        }

     private:
        CudaPlan& owner_;
        Queue queue_;
        bool is_kept_ = false;
    };

    // A step that the host counts, as soon as it is launched.
    py::object host_counted_step(const Asked& asked, const std::optional<Clock>& clock,
                                 Changes& attributes, const py::object& learn) {
        settle();
        Attempt attempt(*this, asked);
        rows_.clear();
        prepare_row(clock, 0);
        launcher_.compile(cases(), needs_norm_);
        const bool is_inline = rows_.size() <= device::kInlineEntries;
        if (is_inline) std::copy(rows_.begin(), rows_.end(), launcher_.update().entry);
        if (!is_inline) launcher_.upload_table(table_, rows_, 1, {});
        const std::uint64_t number = needs_norm_ ? launcher_.new_report() : 0;
        fill(is_inline ? nullptr : &table_, false, number);
        launcher_.upload_gradients(gradients_);
        launcher_.upload_entries(entry_of_);
        if (has_graphs_) launcher_.upload_rows(0, 0);  // they are of the counts before this step
        if (needs_norm_) launch_norm();
        Changes learnt{py::none()};
        if (options_.nonfinite == NonFinite::kRaise || !learn.is_none()) {
            launcher_.run();
            const device::Report told = launcher_.wait_report(number);
            if (!told.applies) raise_nonfinite();
            if (!learn.is_none()) learnt = Changes(learn(told.grad_norm));
        }
        if (entries_ > 0) launcher_.launch_update();
        launcher_.run();
        attempt.keep();
        counts_ = is_ready_ = false;
        latest_.reset();
        end_step(step_, true);
        attributes.apply();
        learnt.apply();
        return info({lr()}, 0, number, true);
    }

    // A step that applies or not, as the device will find, and may follow others like it.
    py::object device_counted_step(const Asked& asked, const std::optional<Clock>& clock) {
        if (is_ready_) settle();
        resolve_arrived();
        Attempt attempt(*this, asked);
        if (unknown_.size() >= kMostUnknown || !has_same_participants()) resettle();
        try {
            make_rows(unknown_.size() + 1, {clock});
        } catch (const py::value_error&) {
            // retry with settled counts: a row evaluated ahead was out of range
            if (unknown_.empty()) throw;
            attempt.undo();
            resettle();
            make_rows(1, {clock});
        }
        if (!hands_on_alike()) {
            attempt.undo();
            resettle();
            make_rows(1, {clock});
        }
        const std::int64_t base = applied_;
        const std::size_t rows = rates_.size();
        launcher_.compile(cases(), true);
        launcher_.upload_table(table_, rows_, rows, clip_norms_);
        launcher_.upload_gradients(gradients_);
        launcher_.upload_entries(entry_of_);
        if (!counts_) launcher_.upload_counts(attempted_, applied_);
        launcher_.upload_rows(base, static_cast<std::int64_t>(rows));
        const std::uint64_t number = launcher_.new_report();
        fill(&table_, true, number);
        launch_norm();
        if (entries_ > 0) launcher_.launch_update();
        launcher_.run();
        attempt.keep_first_row();
        counts_ = true;
        if (rows > 1) latest_ = Latest{number, base};
        note_participants();
        unknown_.push_back(number);
        if (step_.uses_accumulated) forget_accumulated();
        invalidate_replays();
        return info(rates_, base, number, false);
    }

    // The launches of a step, recorded by the current stream.
    py::object capture(const Asked& asked, const std::optional<Clock>& clock) {
        if (!is_ready_) {
            throw StateError(
                "a step can be captured after prepare_replays(steps), which makes the table of "
                "settings that it reads");
        }
        if (!asked.gradients.is_none() || accumulated_samples() > 0.0 || clock ||
            asked.squared_norm) {
            throw StateError(
                "a captured step takes bound gradients and the clocks of prepare_replays: "
                "bind(grads), then step() without arguments");
        }
        Attempt attempt(*this, asked);
        make_rows(1, {first_clock_});
        const bool has_changed =
            !(shape() == shape_) || rows_.size() != first_row_.size() ||
            std::memcmp(rows_.data(), first_row_.data(), rows_.size() * sizeof(device::Entry)) != 0;
        if (has_changed || !launcher_.knows(gradients_)) {
            throw StateError(
                "settings or gradients have changed since prepare_replays(steps): call it again");
        }
        fill(&replayed_table_, true, kReplays);
        launch_norm();
        if (entries_ > 0) launcher_.launch_update();
        launcher_.run();
        replayed_table_.is_fixed = has_graphs_ = true;
        captured_cases_ = launcher_.compiled();
        return info({rates_[0]}, 0, 0, true);
    }

    // Counts

    // Takes over what the device has counted, and waits for it; throws StateError where there were
    // more replays than rows.
    void settle() {
        if (counts_) {
            const device::Progress progress = launcher_.read_progress();
            resolve(progress.attempted - attempted_, progress.applied - applied_);
            unknown_.clear();
        }
        if (!has_graphs_) return;
        if (!counts_) launcher_.synchronize();
        device::Report& report = *launcher_.report(kReplays);
        if (report.exhausted == 0) return;
        report.exhausted = 0;
        throw StateError(
            "a captured step was replayed more often than prepare_replays(steps) said: the "
            "replays beyond updated nothing");
    }
    // In the middle of an attempt, which must not take back what the device has counted.
    void resettle() {
        struct Counted {
            CudaPlan& owner;
            ~Counted() {
                owner.updates_before_ = owner.plan().updates();
                owner.handed_on_before_ = owner.plan().values();
            }
        } const counted{*this};
        settle();
    }
    void settle_alone() {
        if (!counts_ && !has_graphs_) return;
        const Busy busy(*this);
        settle();
    }

    // Takes over what steps have reported by now.
    void resolve_arrived() {
        std::size_t arrived = 0;
        while (arrived < unknown_.size() && launcher_.has_report(unknown_[arrived])) {
            const device::Report& report = *launcher_.report(unknown_[arrived]);
            resolve(1, report.applied - applied_);
            ++arrived;
        }
        unknown_.erase(unknown_.begin(), unknown_.begin() + static_cast<std::ptrdiff_t>(arrived));
    }

    void resolve(std::int64_t attempted, std::int64_t applied) {
        attempted_ += attempted;
        applied_ += applied;
        for (std::size_t i = 0; i < leaf_count(); ++i) {
            if (participants_[i]) plan().updates()[i] += applied;
        }
        if (applied > 0 && plan().rule().values > 0) {
            plan().values() = row_handed_on_.at(static_cast<std::size_t>(applied_ - row_base_ - 1));
        }
    }

    void let_host_count() {
        const Busy busy(*this);
        settle();
        invalidate_replays();
        counts_ = false;
    }

    // Invalidates the table: later replays update nothing.
    void invalidate_replays() {
        is_ready_ = false;
        if (!has_graphs_) return;
        launcher_.upload_rows(0, 0);
        launcher_.run();
    }

    // The settings that the last step has used; waits where the device alone knows.
    void take_row() {
        if (!latest_) return;
        const std::size_t row = row_of(launcher_.wait_report(latest_->number), latest_->base);
        restore(row_values_.at(row));
        latest_.reset();
    }
    void know_row() {
        try {
            const Busy busy(*this);
            take_row();
        } catch (const StateError&) {  // another thread's step is not disturbed
        }
    }

    void note_participants() {
        for (std::size_t i = 0; i < leaf_count(); ++i) participants_[i] = gradients_[i] != 0;
    }
    bool has_same_participants() const {
        for (std::size_t i = 0; i < leaf_count(); ++i) {
            if (participants_[i] != (gradients_[i] != 0)) return false;
        }
        return true;
    }

    // Settings

    // The entries of an update that comes after `ahead` others of this kind, behind those of the
    // rows before.
    void prepare_row(const std::optional<Clock>& clock, std::int64_t ahead) {
        follow_schedule(clock, ahead);
        const StepOptions now = options(step_, false);
        options_.clip_norm = now.clip_norm;
        options_.clip_value = now.clip_value;
        {
            const FloatEnvironment environment;
            check_prepared(plan().prepare(options_, 1.0));
        }
        entries_ = plan().prepared().size();
        for (const Plan::Prepared& prepared : plan().prepared()) rows_.push_back(entry(prepared));
        for (std::size_t i = 0; i < leaf_count(); ++i) {
            entry_of_[i] = static_cast<std::uint32_t>(plan().leaves()[i].prepared);
        }
    }

    // Rows for so many updates, one after the other. The clocks are one for each, one for all, or
    // none. Counts are as before then.
    void make_rows(std::size_t count, const std::vector<std::optional<Clock>>& clocks) {
        rows_.clear();
        clip_norms_.clear();
        rates_.clear();
        next_values_.resize(count);
        next_handed_on_.resize(count);
        for (std::size_t i = 0; i < count; ++i) {
            const std::optional<Clock> clock =
                clocks.empty() ? std::nullopt : clocks[clocks.size() == 1 ? 0 : i];
            prepare_row(clock, static_cast<std::int64_t>(i));
            if (options_.clip_by_norm) clip_norms_.push_back(options_.clip_norm);
            rates_.push_back(lr());
            next_values_[i] = setting_values();
            next_handed_on_[i] = plan().values();
        }
        plan().updates() = updates_before_;
        plan().values() = handed_on_before_;
    }

    // Whether the rows say of what updates hand on the same as those of the step before, where both
    // have a row for an update. If not, it depends on which of the steps under way apply.
    bool hands_on_alike() const {
        if (plan().rule().values == 0 || unknown_.empty()) return true;
        const auto first = static_cast<std::size_t>(applied_ - row_base_);
        for (std::size_t i = first; i < row_handed_on_.size(); ++i) {
            if (i - first >= next_handed_on_.size()) break;
            if (row_handed_on_[i] != next_handed_on_[i - first]) return false;
        }
        return true;
    }

    Shape shape() const {
        return {options_.nonfinite, needs_norm_, entries_, options_.clip_by_norm,
                options_.grad_scale};
    }

    std::set<unsigned> cases() const {
        std::set<unsigned> found;
        for (const device::Entry& row : rows_) found.insert(row.kernel_case);
        return found;
    }

    double lr() const { return plan().lr(); }

    static device::Entry entry(const Plan::Prepared& prepared) {
        device::Entry entry = {};
        std::memcpy(entry.scalars, prepared.scalars, sizeof(entry.scalars));
        if (prepared.type == kFloat32) {
            const auto& s = *static_cast<const GradientScalars<float>*>(prepared.gradient_scalars);
            entry.divisor = static_cast<double>(s.divisor);
            entry.limit = static_cast<double>(s.limit);
            entry.sign = static_cast<double>(s.factor);
        } else {
            const auto& s = *static_cast<const GradientScalars<double>*>(prepared.gradient_scalars);
            entry.divisor = s.divisor;
            entry.limit = s.limit;
            entry.sign = s.factor;
        }
        entry.kernel_case = (static_cast<unsigned>(prepared.type) * kTreatments +
                             static_cast<unsigned>(prepared.treatment)) *
                                kMaxVariants +
                            prepared.variant;
        return entry;
    }

    // Launches

    // Fills the structs for the launches of one step. The entries are in the table, or in the
    // struct for nullptr; `counts`: the device does; `number` is of the report.
    void fill(const RowTable* table, bool counts, std::uint64_t number) {
        device::UpdateLaunch& update = launcher_.update();
        update.table = table == nullptr ? nullptr : table->entries();
        update.entry_of = entries_ > 1 ? launcher_.entry_of() : nullptr;
        update.entries = entries_;
        update.outcome = needs_norm_ || counts ? launcher_.outcome() : nullptr;
        device::SumLaunch& sum = launcher_.sum();
        sum.weight = 0.0;
        sum.sum = nullptr;
        sum.weighted_sum = nullptr;
        sum.concludes = 1;
        device::Conclusion& conclusion = sum.conclusion;
        conclusion.grad_scale = options_.grad_scale;
        conclusion.clip_norm = options_.clip_by_norm ? options_.clip_norm : NAN;
        conclusion.clip_norms = counts && options_.clip_by_norm ? table->norms() : nullptr;
        const SquaredNorm given = options_.squared_norm.value_or(SquaredNorm());
        conclusion.sum = given.sum;
        conclusion.scale = given.scale;
        conclusion.has_sum = needs_norm_;
        conclusion.skips = options_.nonfinite != NonFinite::kPropagate;
        conclusion.number = number;
        conclusion.progress = counts ? launcher_.progress() : nullptr;
        conclusion.outcome = launcher_.outcome();
        conclusion.report = launcher_.report(number);
        // squares of float32 stay far inside the range of double
        launcher_.follow_sum(needs_norm_ && plan().has(kFloat64));
    }
    // Launches what tells the norm, or what would at its end where nothing needs it.
    void launch_norm() {
        if (needs_norm_ && !options_.squared_norm) {
            launcher_.launch_sum();
        } else {
            launcher_.launch_conclusion();
        }
    }

    void upload_leaves() {
        launcher_.upload_leaves(plan());
        launcher_.run();
    }

    py::object info(std::vector<double> rates, std::int64_t base, std::uint64_t number,
                    bool has_applied) {
        return py::cast(
            CudaStepInfo(py::cast(this), launcher_, std::move(rates), base, number, has_applied));
    }

    [[noreturn]] void raise_nonfinite() {
        const py::sequence gradients = this->gradients(step_);
        for (std::size_t i = 0; i < leaf_count(); ++i) {
            if (gradients_[i] == 0) continue;
            const py::object what = launcher_.object().attr("nonfinite_in")(gradients[i]);
            if (what.is_none()) continue;
            throw py::value_error(
                nonfinite_message(parameter(i), what.cast<std::string>().c_str()));
        }
        // another stream has written the gradient since
        throw py::value_error(nonfinite_message("params", "NaN or infinity"));
    }

    std::size_t leaf_count() const { return plan().leaves().size(); }

    void note_gradients() {
        for (std::size_t i = 0; i < leaf_count(); ++i) {
            gradients_[i] = reinterpret_cast<std::uint64_t>(plan().leaves()[i].gradient);
        }
    }

    CudaLauncher launcher_;

    // of the step that is prepared
    Step step_;
    StepOptions options_;
    bool needs_norm_ = false;
    std::vector<std::uint64_t> gradients_;
    std::vector<std::uint32_t> entry_of_;
    std::vector<unsigned char> holds_;
    std::size_t entries_ = 0;          // of a row
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
};

}  // namespace

void register_cuda_plan(py::module_& module) {
    module.def(
        "check_device_parameters",
        [](const py::object& array_type, int device, const std::vector<std::string>& paths,
           const py::list& parameters) {
            std::vector<py::ssize_t> extents;
            check_parameters({array_type, device}, paths, parameters, extents);
        },
        py::arg("array_type"), py::arg("device"), py::arg("paths"), py::arg("parameters"));
    py::class_<CudaStepInfo>(module, "CudaStepInfo")
        .def_property_readonly("lr", &CudaStepInfo::lr)
        .def_property_readonly("grad_norm", &CudaStepInfo::grad_norm)
        .def_property_readonly("applied", &CudaStepInfo::applied)
        .def("__iter__", [](const CudaStepInfo& info) { return py::iter(info.values()); })
        .def("__repr__", &CudaStepInfo::text);
    py::class_<CudaPlan> plan(module, "CudaPlan");
    plan.def(py::init<const py::object&, py::object, int, const std::string&,
                      std::vector<std::string>, const py::list&, const py::list&,
                      const std::vector<int>&, const py::array_t<double>&, const py::list&>(),
             py::arg("make_launcher"), py::arg("array_type"), py::arg("device"), py::arg("rule"),
             py::arg("paths"), py::arg("parameters"), py::arg("states"), py::arg("groups"),
             py::arg("settings").noconvert(), py::arg("containers") = py::list());
    define_plan(plan);
}

}  // namespace fusestep
