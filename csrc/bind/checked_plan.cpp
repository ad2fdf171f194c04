#include "checked_plan.h"

#include <pybind11/stl.h>

#include <algorithm>
#include <cmath>

namespace fusestep {
namespace {

constexpr const char* kInUse = "this optimizer is already inside a call of another thread";

}  // namespace

std::string nonfinite_message(const std::string& parameter, const char* what) {
    return parameter + ": gradient holds " + what +
           "; nothing was updated (nonfinite=\"skip\" skips such steps)";
}

CheckedPlan::CheckedPlan(ArrayKind kind, const std::string& rule, std::vector<std::string> paths,
                         const py::list& parameters, const py::list& states,
                         const std::vector<int>& groups, const py::array_t<double>& settings,
                         const py::list& containers, const py::list& copies)
    : kind_(std::move(kind)),
      paths_(std::move(paths)),
      views_(check_parameters(kind_, paths_, parameters, extents_)),
      parameters_(parameters),
      states_(states),
      copies_(copies),
      containers_(containers, parameters_, paths_),
      table_(numbers_of(settings)),
      plan_(make_plan(rule, states, groups)),
      checked_(paths_.size()) {
    memory_ = written(views_);
    count_looks();
    for (const py::handle copy : copies_) {
        if (!copy.is_none() && !kind_.type) fixed_copies_.push_back(py::weakref(copy));
    }
    fixed_parameters_ = fixed(parameters_);
}

// Busy announces itself before it looks for a holder, and a Hold before it looks for a call: of two
// that come at once, at least one sees the other.
CheckedPlan::Busy::Busy(CheckedPlan& owner, bool ends_parts) : owner_(owner) {
    if (owner_.busy_.exchange(true)) throw StateError(kInUse);
    const unsigned long holder = owner_.holder_.load();
    const bool is_held = holder != 0 && holder != PyThread_get_thread_ident();
    if (is_held || (owner_.parts_ && !ends_parts)) {
        owner_.busy_.store(false);
        if (is_held) throw StateError(kInUse);
        owner_.require_whole();
    }
}

CheckedPlan::Hold::Hold(py::object owner, CheckedPlan& plan)
    : owner_(std::move(owner)), plan_(&plan) {
    const unsigned long me = PyThread_get_thread_ident();
    unsigned long holder = 0;
    if (!plan.holder_.compare_exchange_strong(holder, me) && holder != me) throw StateError(kInUse);
    if (plan.busy_.load()) {
        if (plan.holds_ == 0) plan.holder_.store(0);
        throw StateError(kInUse);
    }
    ++plan.holds_;
}

void CheckedPlan::Hold::release() {
    if (plan_ != nullptr && --plan_->holds_ == 0) plan_->holder_.store(0);
    plan_ = nullptr;
}

void CheckedPlan::bind(py::handle gradients) {
    const Busy busy(*this);
    if (accumulated_.samples > 0.0) {
        throw StateError("gradients are accumulated: step() first, then bind(grads)");
    }
    if (gradients.is_none()) {
        bound_ = py::none();
        fixed_gradients_.clear();
        return;
    }
    const py::tuple given = py::tuple(py::reinterpret_borrow<py::object>(gradients));
    try {
        take(given, Taking::kBinding);
    } catch (...) {
        if (!bound_.is_none()) take(bound_, Taking::kBinding);
        throw;
    }
    bound_ = given;
    fixed_gradients_ = fixed(given);
}

void CheckedPlan::set_accumulators(const py::list& arrays, bool takes_rows) {
    const Busy busy(*this);
    if (accumulated_.micro_batches > 0) throw StateError("these accumulators are in use");
    if (py::len(arrays) != paths_.size()) {
        throw py::value_error("expected one accumulator for each parameter");
    }
    std::vector<Accumulator> taken;
    std::vector<py::ssize_t> extents;
    for (std::size_t i = 0; i < paths_.size(); ++i) {
        const std::string name = parameter(i) + " accumulator";
        const ArrayView view = check_writeable(kind_, name, arrays[i], extents);
        if (view.type != views_[i].type || view.size != views_[i].size) {
            throw py::value_error(name + " must have the parameter's dtype and size");
        }
        taken.emplace_back();
        taken.back().data = view.data;
        taken.back().is_zero = taken.back().takes_rows = takes_rows;
    }
    plan_.accumulators() = std::move(taken);
    kept_accumulators_ = arrays;
}

py::object CheckedPlan::begin_accumulate(py::handle gradients, double samples) {
    if (!bound_.is_none()) {
        throw StateError("gradients are bound: bind(None) first, then accumulate(grads, samples)");
    }
    if (!(samples > 0.0) || !std::isfinite(samples)) {
        throw py::value_error("samples must be finite and greater than 0, not " +
                              number_text(samples));
    }
    if (plan_.accumulators().empty()) throw StateError("there are no accumulators");
    return take(gradients, Taking::kAccumulation);
}

void CheckedPlan::end_accumulate(double samples, double squares) {
    accumulated_.samples += samples;
    ++accumulated_.micro_batches;
    accumulated_.weighted_squares += samples * squares;
}

py::tuple CheckedPlan::accumulated() const {
    py::list holds;
    for (const Accumulator& sum : plan_.accumulators()) holds.append(sum.holds);
    return py::make_tuple(accumulated_.samples, accumulated_.micro_batches,
                          accumulated_.weighted_squares, holds);
}

void CheckedPlan::discard_accumulated() {
    const Busy busy(*this);
    forget_accumulated();
}

CheckedPlan::Step CheckedPlan::begin_step(py::handle gradients, double grad_scale, bool in_parts) {
    if (!(grad_scale > 0.0) || !std::isfinite(grad_scale)) {
        throw py::value_error("grad_scale must be finite and greater than 0, not " +
                              number_text(grad_scale));
    }
    require_own_values();
    look_at_arrays();
    Step step;
    step.grad_scale = grad_scale;
    step.uses_accumulated = gradients.is_none() && accumulated_.samples > 0.0;
    if (step.uses_accumulated) {
        step.grad_scale *= accumulated_.samples;
        if (!(step.grad_scale > 0.0) || !std::isfinite(step.grad_scale)) {
            throw py::value_error("grad_scale times the accumulated samples is " +
                                  number_text(step.grad_scale));
        }
        plan_.use_accumulated();
        if (in_parts && plan_.has_rows()) {
            throw StateError(
                "begin_parts: Rows are accumulated, which a step in parts does not "
                "take: step() instead");
        }
    } else if (gradients.is_none()) {
        if (bound_.is_none()) {
            throw StateError(
                "step() without gradients needs bound or accumulated ones: call bind(grads) "
                "or accumulate(grads, samples) first, or step(grads)");
        }
    } else {
        if (accumulated_.samples > 0.0) {
            throw StateError(
                "gradients are accumulated: call step() without others, or "
                "discard_accumulated() first");
        }
        if (!bound_.is_none()) {
            throw StateError("gradients are bound: call step() without them, or bind(None) first");
        }
        step.passed = take(gradients, in_parts ? Taking::kParts : Taking::kStep);
    }
    check_held(step.grad_scale);
    return step;
}

// What float32 makes 0 or infinite would make every gradient infinite, NaN or 0.
void CheckedPlan::check_held(double grad_scale) const {
    constexpr double kSmallest = 0x1p-149, kLargest = 3.4028234663852886e38;
    if (!plan_.has(kFloat32) || (grad_scale >= kSmallest && grad_scale <= kLargest)) return;
    std::size_t i = 0;
    while (views_[i].type != kFloat32) ++i;
    throw py::value_error(
        "grad_scale, times the samples of accumulated gradients, must be between "
        "1.4e-45 and 3.4e+38 for " +
        parameter(i) + ", which is float32, not " + number_text(grad_scale));
}

void CheckedPlan::check_prepared(std::ptrdiff_t unprepared) {
    if (unprepared == kPrepared) return;
    scheduled_.undo();
    const std::size_t leaf = static_cast<std::size_t>(unprepared);
    const Plan::Prepared& last = plan_.prepared().back();
    if (plan_.leaves()[leaf].has_rows && (last.leaf != leaf || plan_.needs_whole(leaf))) {
        throw py::value_error(parameter(leaf) +
                              ": gradient is a Rows, but this update takes norms or other sums of "
                              "whole arrays: pass a dense gradient; nothing was updated");
    }
    throw py::value_error(parameter(leaf) + ": lr, divided by the bias correction or times " +
                          "weight_decay, is beyond " +
                          (views_[leaf].type == kFloat32 ? "float32" : "float64") +
                          "; nothing was updated");
}

std::optional<SquaredNorm> CheckedPlan::read_squared_norm(py::handle given) {
    if (given.is_none()) return std::nullopt;
    SquaredNorm norm = {0.0, 1.0};
    if (py::isinstance<py::tuple>(given)) {
        const auto [sum, scale] = given.cast<std::pair<double, double>>();
        norm = {sum, scale};
    } else {
        norm.sum = given.cast<double>();
    }
    if (norm.sum < 0.0 || !(norm.scale > 0.0)) {
        throw py::value_error("squared_norm must be at least 0, and its scale above 0");
    }
    return norm;
}

StepOptions CheckedPlan::options(const Step& step, bool take_norm,
                                 const std::optional<SquaredNorm>& squared_norm) const {
    StepOptions options;
    options.grad_scale = step.grad_scale;
    options.clip_norm = plan_.common(kClipNorm);
    options.clip_by_norm = !std::isnan(options.clip_norm);
    options.clip_value = plan_.common(kClipValue);
    options.nonfinite = nonfinite_;
    options.take_norm = take_norm;
    options.squared_norm = squared_norm;
    return options;
}

py::sequence CheckedPlan::gradients(const Step& step) const {
    if (step.uses_accumulated) return kept_accumulators_;
    return step.passed ? step.passed : bound_;
}

void CheckedPlan::restore(const std::vector<double>& values) {
    std::copy(values.begin(), values.end(), table_.begin());
}

void CheckedPlan::end_step(const Step& step, bool applied) {
    ++attempted_;
    if (applied) ++applied_;
    if (step.uses_accumulated) forget_accumulated();
}

Plan CheckedPlan::make_plan(const std::string& rule, const py::list& states,
                            const std::vector<int>& groups) {
    const RuleEntry* entry = find_rule(rule);
    if (entry == nullptr) throw py::value_error("no rule '" + rule + "'");
    const std::size_t columns = static_cast<std::size_t>(entry->columns + kCommonColumns);
    std::vector<Leaf> leaves(paths_.size());
    std::vector<Output> outputs = check_copies();
    std::vector<Units> units;
    for (std::size_t i = 0; i < leaves.size(); ++i) {
        const ArrayView& view = views_[i];
        leaves[i].parameter = view.data;
        leaves[i].size = view.size;
        leaves[i].type = view.type;
        leaves[i].group = groups.at(i);
        const double* const hyper = table_.data() + static_cast<std::size_t>(groups[i]) * columns;
        const std::vector<void*> state =
            check_states(i, *entry, states[i].cast<py::dict>(), entry->states_used(hyper));
        std::copy_n(state.begin(), entry->states, leaves[i].state);
        if (hyper[entry->columns + kAgc] != 0.0) {
            units.resize(leaves.size());
            units[i] = units_of(i, hyper[entry->columns + kAgcAxis]);
        }
        if (state.back() == nullptr) continue;
        outputs.resize(leaves.size());
        outputs[i].average = state.back();
    }
    return Plan(*entry, std::move(leaves), static_cast<int>(table_.size() / columns), table_.data(),
                std::move(outputs), std::move(units));
}

// Checks one gradient per parameter, None allowed, and remembers where they are. Returns the
// gradients as a list or tuple.
py::object CheckedPlan::take(py::handle gradients, Taking taking) {
#ifdef Py_GIL_DISABLED  // another thread may change a list at any time
    py::object items = py::reinterpret_steal<py::object>(PySequence_Tuple(gradients.ptr()));
#else
    py::object items = py::reinterpret_steal<py::object>(
        PySequence_Fast(gradients.ptr(), "gradients must be a sequence"));
#endif
    if (!items) throw py::error_already_set();
    require_count("gradients", static_cast<std::size_t>(PySequence_Fast_GET_SIZE(items.ptr())));
    plan_.forget_rows();
    if (!kind_.type && take_plain(items)) return items;
    // looking closer may run Python code, which may change the caller's list
    items = py::reinterpret_steal<py::object>(PySequence_Tuple(items.ptr()));
    if (!items) throw py::error_already_set();
    for (std::size_t i = 0; i < paths_.size(); ++i) {
        const py::handle item = PyTuple_GET_ITEM(items.ptr(), static_cast<py::ssize_t>(i));
        const void* gradient = nullptr;
        if (const Rows* const rows = as_rows(item)) {
            take_rows(i, *rows, taking);
            continue;
        }
        if (!item.is_none()) {
            gradient = kind_.type ? known_.find(i, item) : nullptr;
            if (gradient == nullptr) {
                gradient = check_gradient(kind_, paths_[i], views_[i], item);
                check_apart(i, gradient);
                if (kind_.type) known_.remember(i, item, gradient);
            }
        }
        plan_.set_gradient(i, gradient);
    }
    return items;
}

// The same for arrays of NumPy's own class, and none other: runs no Python code.
bool CheckedPlan::take_plain(py::handle items) {
    PyObject** const item = PySequence_Fast_ITEMS(items.ptr());
    const std::size_t count = paths_.size();
    for (std::size_t i = 0; i < count; ++i) {
        if (i + kAhead < count) prefetch_array(item[i + kAhead]);
        if (i + kAhead / 2 < count) prefetch_extents(item[i + kAhead / 2]);
        const void* gradient = nullptr;
        if (item[i] != Py_None) {
            gradient = find_gradient(item[i], views_[i]);
            if (gradient == nullptr) return false;
            check_apart(i, gradient);
        }
        plan_.set_gradient(i, gradient);
    }
    return true;
}

void CheckedPlan::require_apart(const MemoryMap& memory, std::size_t i,
                                const void* gradient) const {
    const ArrayView& view = views_[i];
    const std::string* other = memory.overlapping(gradient, view.size * item_size(view.type));
    if (other == nullptr) return;
    throw py::value_error(parameter(i) + ": gradient shares memory with " + *other +
                          ", which the step writes: pass an array of its own");
}

void CheckedPlan::forget_accumulated() {
    accumulated_.samples = accumulated_.weighted_squares = 0.0;
    accumulated_.micro_batches = 0;
    plan_.forget_accumulated();
}

}  // namespace fusestep
