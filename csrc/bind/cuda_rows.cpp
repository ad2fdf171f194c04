// The settings of updates to come: a row of entries for each, and what those updates hand on; and
// which row the last step has used.
#include <cstring>

#include "../runtime/float_environment.h"
#include "cuda_plan.h"
#include "cuda_step_info.h"

namespace fusestep {
namespace {

device::Entry entry(const Plan::Prepared& prepared, bool outputs) {
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
    entry.average_rate = prepared.average_rate;
    entry.agc = prepared.agc;
    entry.agc_eps = prepared.agc_eps;
    const unsigned units = prepared.clips_units ? 1 : 0;
    entry.kernel_case = (((units * 2 + static_cast<unsigned>(outputs)) * kDataTypes +
                          static_cast<unsigned>(prepared.type)) *
                             kTreatments +
                         static_cast<unsigned>(prepared.treatment)) *
                            kMaxVariants +
                        prepared.variant;
    return entry;
}

}  // namespace

void CudaPlan::prepare_row(const std::optional<Clock>& clock, std::int64_t ahead) {
    follow_schedule(clock, ahead);
    const StepOptions now = options(step_, false);
    options_.clip_norm = now.clip_norm;
    options_.clip_value = now.clip_value;
    {
        const FloatEnvironment environment;
        check_prepared(plan().prepare(options_, 1.0));
    }
    entries_ = plan().prepared().size();
    collects_ |= plan().collects();
    for (const Plan::Prepared& prepared : plan().prepared()) {
        rows_.push_back(entry(prepared, !plan().outputs().empty()));
    }
    for (std::size_t i = 0; i < leaf_count(); ++i) {
        entry_of_[i] = static_cast<std::uint32_t>(plan().leaves()[i].prepared);
    }
}

void CudaPlan::make_rows(std::size_t count, const std::vector<std::optional<Clock>>& clocks) {
    rows_.clear();
    collects_ = false;
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

bool CudaPlan::hands_on_alike() const {
    if (plan().rule().values == 0 || unknown_.empty()) return true;
    const auto first = static_cast<std::size_t>(applied_ - row_base_);
    for (std::size_t i = first; i < row_handed_on_.size(); ++i) {
        if (i - first >= next_handed_on_.size()) break;
        if (row_handed_on_[i] != next_handed_on_[i - first]) return false;
    }
    return true;
}

CudaPlan::Shape CudaPlan::shape() const {
    return {options_.nonfinite, needs_norm_,           entries_,
            collects_,          options_.clip_by_norm, options_.grad_scale};
}

std::set<unsigned> CudaPlan::cases() const {
    std::set<unsigned> found;
    for (const device::Entry& row : rows_) found.insert(row.kernel_case);
    return found;
}

void CudaPlan::take_row() {
    if (!latest_) return;
    const std::size_t row = row_of(launcher_.wait_report(latest_->number), latest_->base);
    restore(row_values_.at(row));
    latest_.reset();
}

void CudaPlan::know_row() {
    try {
        const Busy busy(*this);
        take_row();
    } catch (const StateError&) {  // another thread's step is not disturbed
    }
}

}  // namespace fusestep
