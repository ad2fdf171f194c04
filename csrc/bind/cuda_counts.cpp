// What the host knows of the updates that the device counts.
#include "cuda_plan.h"

namespace fusestep {

void CudaPlan::settle() {
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

void CudaPlan::resettle() {
    struct Counted {
        CudaPlan& owner;
        ~Counted() {
            owner.updates_before_ = owner.plan().updates();
            owner.handed_on_before_ = owner.plan().values();
        }
    } const counted{*this};
    settle();
}

void CudaPlan::settle_alone() {
    if (!counts_ && !has_graphs_) return;
    const Busy busy(*this);
    settle();
}

void CudaPlan::resolve_arrived() {
    std::size_t arrived = 0;
    while (arrived < unknown_.size() && launcher_.has_report(unknown_[arrived])) {
        const device::Report& report = *launcher_.report(unknown_[arrived]);
        resolve(1, report.applied - applied_);
        ++arrived;
    }
    unknown_.erase(unknown_.begin(), unknown_.begin() + static_cast<std::ptrdiff_t>(arrived));
}

void CudaPlan::resolve(std::int64_t attempted, std::int64_t applied) {
    attempted_ += attempted;
    applied_ += applied;
    for (std::size_t i = 0; i < leaf_count(); ++i) {
        if (participants_[i]) plan().updates()[i] += applied;
    }
    if (applied > 0 && plan().rule().values > 0) {
        plan().values() = row_handed_on_.at(static_cast<std::size_t>(applied_ - row_base_ - 1));
    }
}

void CudaPlan::let_host_count() {
    const Busy busy(*this, true);
    settle();
    invalidate_replays();
    counts_ = false;
}

void CudaPlan::note_participants() {
    for (std::size_t i = 0; i < leaf_count(); ++i) participants_[i] = gradients_[i] != 0;
}

bool CudaPlan::has_same_participants() const {
    for (std::size_t i = 0; i < leaf_count(); ++i) {
        if (participants_[i] != (gradients_[i] != 0)) return false;
    }
    return true;
}

}  // namespace fusestep
