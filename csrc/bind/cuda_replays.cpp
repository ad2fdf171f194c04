// Steps that a stream captures and a graph replays: the table of settings that the replays read,
// and the capture itself.
#include <algorithm>
#include <cstring>

#include "cuda_plan.h"

namespace fusestep {

void CudaPlan::prepare_replays(std::size_t steps, const py::object& clocks, double grad_scale) {
    const Busy busy(*this);
    refuse_capture("prepare_replays");
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
    launcher_.compile(cases, true, collects_);  // nothing can be compiled during the capture
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

py::object CudaPlan::capture(const Asked& asked, const std::optional<Clock>& clock) {
    if (!is_ready_) {
        throw StateError(
            "a step can be captured after prepare_replays(steps), which makes the table of "
            "settings that it reads");
    }
    if (!asked.gradients.is_none() || accumulated_samples() > 0.0 || clock || asked.squared_norm) {
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
    launch_update(0, size());
    launcher_.run();
    replayed_table_.is_fixed = has_graphs_ = true;
    captured_cases_ = launcher_.compiled();
    return info({rates_[0]}, 0, 0, true);
}

void CudaPlan::invalidate_replays() {
    is_ready_ = false;
    if (!has_graphs_) return;
    launcher_.upload_rows(0, 0);
    launcher_.run();
}

}  // namespace fusestep
