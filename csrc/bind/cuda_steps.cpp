// A step, which the host counts as soon as it is launched, or the device where it alone knows
// whether the step applies.
#include <algorithm>
#include <cmath>
#include <utility>

#include "cuda_plan.h"
#include "cuda_step_info.h"

namespace fusestep {

CudaPlan::Attempt::Attempt(CudaPlan& owner, const Asked& asked)
    : owner_(owner), queue_(owner.launcher_) {
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

CudaPlan::Attempt::~Attempt() {
    if (!is_kept_) undo();
    owner_.step_.passed = py::object();
}

void CudaPlan::Attempt::undo() {
    owner_.plan().updates() = owner_.updates_before_;
    owner_.plan().values() = owner_.handed_on_before_;
    owner_.restore(owner_.values_before_);
}

void CudaPlan::Attempt::keep_first_row() {
    owner_.latest_.reset();
    owner_.row_values_.swap(owner_.next_values_);
    owner_.row_handed_on_.swap(owner_.next_handed_on_);
    owner_.row_base_ = owner_.applied_;
    owner_.restore(owner_.row_values_[0]);
    is_kept_ = true;
}

py::object CudaPlan::step(py::handle gradients, double grad_scale, py::handle clock, bool take_norm,
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
    const bool waits = !changes.is_none() || !learn.is_none();
    const py::object info = device_counted_step(asked, now, waits);
    if (!waits) return info;
    const auto& told = info.cast<const CudaStepInfo&>();
    if (!told.applied()) return info;
    Changes learnt(learn.is_none() ? py::none() : learn(told.grad_norm()));
    attributes.apply();
    learnt.apply();
    return info;
}

py::object CudaPlan::host_counted_step(const Asked& asked, const std::optional<Clock>& clock,
                                       Changes& attributes, const py::object& learn) {
    settle();
    Attempt attempt(*this, asked);
    const std::uint64_t number = queue_norm(clock);
    Changes learnt{py::none()};
    if (options_.nonfinite == NonFinite::kRaise || !learn.is_none()) {
        const device::Report told = launcher_.run_for_report(number);
        if (!told.applies) raise_nonfinite();
        if (!learn.is_none()) learnt = Changes(learn(told.grad_norm));
    }
    launch_update(0, size());
    launcher_.run();
    attempt.keep();
    host_counts();
    end_step(step_, true);
    attributes.apply();
    learnt.apply();
    return info({lr()}, 0, number, true);
}

std::uint64_t CudaPlan::queue_norm(const std::optional<Clock>& clock) {
    rows_.clear();
    collects_ = false;
    prepare_row(clock, 0);
    launcher_.compile(cases(), needs_norm_, collects_);
    const bool is_inline = rows_.size() <= device::kInlineEntries;
    if (is_inline) std::copy(rows_.begin(), rows_.end(), launcher_.update().entry);
    if (!is_inline) launcher_.upload_table(table_, rows_, 1, {});
    const std::uint64_t number = needs_norm_ ? launcher_.new_report() : 0;
    fill(is_inline ? nullptr : &table_, false, number);
    launcher_.upload_gradients(gradients_);
    launcher_.upload_entries(entry_of_);
    if (has_graphs_) launcher_.upload_rows(0, 0);  // they are of the counts before this step
    if (needs_norm_) launch_norm();
    return number;
}

py::object CudaPlan::begin_parts(py::handle gradients, double grad_scale, py::handle clock,
                                 bool take_norm, py::handle changes, py::handle squared_norm) {
    const Busy busy(*this);
    require_parts();
    Changes attributes(changes);
    const std::optional<Clock> now = read_clock(clock);
    const Asked asked = {gradients, grad_scale, take_norm, read_squared_norm(squared_norm)};
    refuse_capture("begin_parts");
    if (has_graphs_) {
        throw StateError(
            "begin_parts: a graph replays a step of this optimizer, and a replay between two parts "
            "would change what the second one reads");
    }
    settle();
    Attempt attempt(*this, asked);
    const std::uint64_t number = queue_norm(now);
    bool applies = true;
    if (options_.squared_norm || options_.nonfinite == NonFinite::kPropagate) {
        launcher_.run();
        if (options_.squared_norm) applies = plan().measure(options_).applied;
    } else {
        applies = launcher_.run_for_report(number).applies != 0;
    }
    if (!applies && options_.nonfinite == NonFinite::kRaise) raise_nonfinite();
    attempt.keep();
    host_counts();
    if (applies) {
        go_on_in_parts(step_, std::move(attributes));
    } else {
        plan().take_back_prepared();
        end_step(step_, false);
    }
    return info({lr()}, 0, number, applies);
}

void CudaPlan::update_elements(std::size_t first, std::size_t last) {
    refuse_capture("update_part");
    Queue queue(launcher_);
    launch_update(first, last);
    launcher_.run();
}

py::object CudaPlan::device_counted_step(const Asked& asked, const std::optional<Clock>& clock,
                                         bool waits) {
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
    launcher_.compile(cases(), true, collects_);
    launcher_.upload_table(table_, rows_, rows, clip_norms_);
    launcher_.upload_gradients(gradients_);
    launcher_.upload_entries(entry_of_);
    if (!counts_) launcher_.upload_counts(attempted_, applied_);
    launcher_.upload_rows(base, static_cast<std::int64_t>(rows));
    const std::uint64_t number = launcher_.new_report();
    fill(&table_, true, number);
    launch_norm();
    launch_update(0, size());
    if (waits) {
        launcher_.run_for_report(number);
    } else {
        launcher_.run();
    }
    attempt.keep_first_row();
    counts_ = true;
    if (rows > 1) latest_ = Latest{number, base};
    note_participants();
    unknown_.push_back(number);
    if (step_.uses_accumulated) forget_accumulated();
    invalidate_replays();
    return info(rates_, base, number, false);
}

void CudaPlan::fill(const RowTable* table, bool counts, std::uint64_t number) {
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

void CudaPlan::launch_update(std::size_t first, std::size_t last) {
    if (entries_ > 0) launcher_.launch_update(first, last, collects_);
}

void CudaPlan::launch_norm() {
    if (needs_norm_ && !options_.squared_norm) {
        launcher_.launch_sum();
    } else {
        launcher_.launch_conclusion();
    }
}

py::object CudaPlan::info(std::vector<double> rates, std::int64_t base, std::uint64_t number,
                          bool has_applied) {
    return py::cast(
        CudaStepInfo(py::cast(this), launcher_, std::move(rates), base, number, has_applied));
}

void CudaPlan::raise_nonfinite() {
    const py::sequence gradients = this->gradients(step_);
    for (std::size_t i = 0; i < leaf_count(); ++i) {
        if (gradients_[i] == 0) continue;
        const py::object what = launcher_.object().attr("nonfinite_in")(gradients[i]);
        if (what.is_none()) continue;
        throw py::value_error(nonfinite_message(parameter(i), what.cast<std::string>().c_str()));
    }
    // another stream has written the gradient since
    throw py::value_error(nonfinite_message("params", "NaN or infinity"));
}

}  // namespace fusestep
