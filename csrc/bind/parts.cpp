// A step that is updated in parts.
#include <utility>

#include "checked_plan.h"

namespace fusestep {

void CheckedPlan::go_on_in_parts(Step step, Changes changes) {
    parts_.emplace(Parts{std::move(step), std::move(changes)});
}

// The norms of units take whole gradients, before any of a parameter is updated.
void CheckedPlan::require_parts() const {
    for (const Leaf& leaf : plan_.leaves()) {
        if (!plan_.clips_units(leaf.group)) continue;
        throw StateError("begin_parts: with agc a step can't be updated in parts: step() instead");
    }
}

void CheckedPlan::require_whole() const {
    if (!parts_) return;
    throw StateError("a step is updated in parts: update the rest, or load a saved state");
}

CheckedPlan::Parts& CheckedPlan::begun() {
    if (!parts_) throw StateError("no step is updated in parts: begin_parts() first");
    return *parts_;
}

bool CheckedPlan::update_part(std::size_t end) {
    const Busy busy(*this, true);
    Parts& parts = begun();
    if (end > size() || (end % kBlock != 0 && end != size())) {
        throw py::value_error("a part must end at a multiple of " + std::to_string(kBlock) +
                              " or at " + std::to_string(size()) + ", not at " +
                              std::to_string(end));
    }
    if (end < parts.done) {
        throw StateError("elements up to " + std::to_string(parts.done) + " are updated");
    }
    look_at_arrays();
    update_elements(parts.done, end);
    parts.done = end;
    if (end < size()) return false;
    Parts ended = std::move(parts);
    parts_.reset();
    end_step(ended.step, true);
    ended.changes.apply();
    return true;
}

void CheckedPlan::cancel_parts() {
    const Busy busy(*this, true);
    if (begun().done > 0) {
        throw StateError("some parts of this step are updated: update the rest");
    }
    plan_.take_back_prepared();
    scheduled_.undo();
    const std::optional<Parts> cancelled = std::exchange(parts_, std::nullopt);
}

}  // namespace fusestep
