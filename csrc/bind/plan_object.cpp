#include "plan_object.h"

#include <pybind11/stl.h>

#include <algorithm>
#include <cmath>

namespace fusestep {
namespace {

struct NonFiniteName {
    const char* name;
    NonFinite value;
};
constexpr NonFiniteName kNonFiniteNames[] = {
    {"propagate", NonFinite::kPropagate}, {"skip", NonFinite::kSkip}, {"raise", NonFinite::kRaise}};

constexpr const char* kInUse = "this optimizer is already inside a call of another thread";

NonFinite find_nonfinite(const std::string& name) {
    for (const NonFiniteName& choice : kNonFiniteNames) {
        if (name == choice.name) return choice.value;
    }
    throw py::value_error("nonfinite must be 'propagate', 'skip' or 'raise', not '" + name + "'");
}

std::vector<double> numbers(const py::array_t<double>& table) {
    const py::array_t<double, py::array::c_style> rows(table);
    return {rows.data(), rows.data() + rows.size()};
}

void check_counts(const std::vector<std::int64_t>& updates, std::size_t parameters) {
    if (updates.size() != parameters)
        throw py::value_error("expected one count for each parameter");
    for (const std::int64_t count : updates) {
        if (count < 0) throw py::value_error("counts must be at least 0");
    }
}

}  // namespace

std::string nonfinite_message(const std::string& parameter) {
    return parameter +
           ": gradient holds NaN or infinity; nothing was updated (nonfinite=\"skip\" skips such "
           "steps)";
}

std::vector<ArrayView> check_parameters(const ArrayKind& kind,
                                        const std::vector<std::string>& paths,
                                        const py::list& parameters,
                                        std::vector<py::ssize_t>& extents) {
    std::vector<ArrayView> views;
    MemoryMap memory;
    for (std::size_t i = 0; i < paths.size(); ++i) {
        const std::string name = parameter_name(paths[i]);
        views.push_back(check_writeable(kind, name, parameters[i], extents));
        memory.add(views[i].data, views[i].size * item_size(views[i].type), name);
    }
    memory.close();
    const py::ssize_t* next = extents.data();
    for (ArrayView& view : views) {
        view.extents = next;
        next += view.dimensions;
    }
    return views;
}

PlanObject::PlanObject(ArrayKind kind, const std::string& rule, std::vector<std::string> paths,
                       const py::list& parameters, const py::list& states,
                       const std::vector<int>& groups, const py::array_t<double>& hyper,
                       const py::array_t<double>& limits)
    : kind_(std::move(kind)),
      paths_(std::move(paths)),
      views_(check_parameters(kind_, paths_, parameters, extents_)),
      kept_(py::make_tuple(parameters, states)),
      hyper_(numbers(hyper)),
      limits_(numbers(limits)),
      plan_(make_plan(rule, states, groups)),
      checked_(paths_.size()) {}

// Busy announces itself before it looks for a holder, and hold() before it looks for a call: of two
// that come at once, at least one sees the other.
PlanObject::Busy::Busy(PlanObject& owner) : owner_(owner) {
    if (owner_.busy_.exchange(true)) throw StateError(kInUse);
    const unsigned long holder = owner_.holder_.load();
    if (holder != 0 && holder != PyThread_get_thread_ident()) {
        owner_.busy_.store(false);
        throw StateError(kInUse);
    }
}

void PlanObject::hold() {
    const unsigned long me = PyThread_get_thread_ident();
    unsigned long holder = 0;
    if (!holder_.compare_exchange_strong(holder, me) && holder != me) throw StateError(kInUse);
    if (busy_.load()) {
        if (holds_ == 0) holder_.store(0);
        throw StateError(kInUse);
    }
    ++holds_;
}

void PlanObject::release() {
    if (--holds_ == 0) holder_.store(0);
}

void PlanObject::bind(py::handle gradients) {
    const Busy busy(*this);
    if (accumulated_.samples > 0.0) {
        throw StateError("gradients are accumulated: step() first, then bind(grads)");
    }
    if (gradients.is_none()) {
        bound_ = py::none();
        return;
    }
    const py::tuple fixed = py::tuple(py::reinterpret_borrow<py::object>(gradients));
    try {
        take(fixed);
    } catch (...) {
        if (!bound_.is_none()) take(bound_);
        throw;
    }
    bound_ = fixed;
}

py::array_t<double> PlanObject::hyper() const {
    const py::ssize_t columns = plan_.rule().columns + 1;
    return py::array_t<double>({static_cast<py::ssize_t>(hyper_.size()) / columns, columns},
                               hyper_.data());
}

py::array_t<double> PlanObject::limits() const {
    return py::array_t<double>(static_cast<py::ssize_t>(limits_.size()), limits_.data());
}

PlanObject::Settings::Settings(PlanObject& plan, const py::array_t<double>& hyper,
                               const py::array_t<double>& limits, const py::object& program,
                               const py::list& targets, const py::object& nonfinite)
    : plan_(plan),
      hyper_(numbers(hyper)),
      limits_(numbers(limits)),
      targets_(program, targets, {&plan.hyper_, &plan.limits_}),
      nonfinite_(nonfinite.is_none() ? plan.nonfinite_
                                     : find_nonfinite(nonfinite.cast<std::string>())) {
    if (hyper_.size() != plan.hyper_.size() || limits_.size() != plan.limits_.size()) {
        throw py::value_error("expected tables of the sizes that the plan was built with");
    }
}

void PlanObject::Settings::write() {
    std::copy(hyper_.begin(), hyper_.end(), plan_.hyper_.begin());
    std::copy(limits_.begin(), limits_.end(), plan_.limits_.begin());
    std::swap(plan_.targets_, targets_);  // letting go of a program may wait until all is written
    plan_.nonfinite_ = nonfinite_;
}

void PlanObject::set_settings(const py::array_t<double>& hyper, const py::array_t<double>& limits,
                              const py::object& program, const py::list& targets,
                              const py::object& nonfinite, const py::object& changes) {
    const Busy busy(*this);
    Settings settings(*this, hyper, limits, program, targets, nonfinite);
    Changes attributes(changes);
    settings.write();
    attributes.apply();
}

void PlanObject::load(const std::vector<std::int64_t>& updates, std::int64_t attempted,
                      std::int64_t applied, const py::tuple& accumulated,
                      const py::array_t<double>& hyper, const py::array_t<double>& limits,
                      const py::object& program, const py::list& targets,
                      const py::object& nonfinite, const py::list& arrays,
                      const py::object& changes) {
    const Busy busy(*this);
    check_counts(updates, paths_.size());
    if (applied < 0 || attempted < applied) {
        throw py::value_error("applied must be at least 0 and at most attempted");
    }
    const Accumulated sums = read_accumulated(accumulated);
    Settings settings(*this, hyper, limits, program, targets, nonfinite);
    const Copies copies(arrays);
    Changes attributes(changes);
    copies.apply();
    plan_.updates() = updates;
    attempted_ = attempted;
    applied_ = applied;
    write(sums);
    settings.write();
    attributes.apply();
}

void PlanObject::set_accumulators(const py::list& arrays) {
    const Busy busy(*this);
    if (!plan_.accumulators().empty()) {
        throw StateError("this optimizer has its accumulators already");
    }
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
        taken.push_back({view.data, false});
    }
    plan_.accumulators() = std::move(taken);
    kept_accumulators_ = arrays;
}

py::object PlanObject::begin_accumulate(py::handle gradients, double samples) {
    if (!bound_.is_none()) {
        throw StateError("gradients are bound: bind(None) first, then accumulate(grads, samples)");
    }
    if (!(samples > 0.0) || !std::isfinite(samples)) {
        throw py::value_error("samples must be finite and greater than 0, not " +
                              number_text(samples));
    }
    if (plan_.accumulators().empty()) throw StateError("there are no accumulators");
    return take(gradients);
}

void PlanObject::end_accumulate(double samples, double squares) {
    accumulated_.samples += samples;
    ++accumulated_.micro_batches;
    accumulated_.weighted_squares += samples * squares;
}

py::tuple PlanObject::accumulated() const {
    py::list holds;
    for (const Accumulator& sum : plan_.accumulators()) holds.append(sum.holds);
    return py::make_tuple(accumulated_.samples, accumulated_.micro_batches,
                          accumulated_.weighted_squares, holds);
}

PlanObject::Accumulated PlanObject::read_accumulated(const py::tuple& values) const {
    Accumulated read = {values[0].cast<double>(), values[1].cast<std::int64_t>(),
                        values[2].cast<double>(), values[3].cast<std::vector<bool>>()};
    if (!(read.samples >= 0.0) || !std::isfinite(read.samples) || read.micro_batches < 0 ||
        (read.samples > 0.0) != (read.micro_batches > 0)) {
        throw py::value_error("accumulated samples and micro-batches must be both 0 or neither");
    }
    if (read.holds.size() != plan_.accumulators().size()) {
        throw py::value_error("expected one flag for each accumulator");
    }
    if (read.samples > 0.0 && !bound_.is_none()) throw StateError("gradients are bound");
    return read;
}

void PlanObject::write(const Accumulated& accumulated) {
    std::vector<Accumulator>& sums = plan_.accumulators();
    for (std::size_t i = 0; i < sums.size(); ++i) sums[i].holds = accumulated.holds[i];
    accumulated_.samples = accumulated.samples;
    accumulated_.micro_batches = accumulated.micro_batches;
    accumulated_.weighted_squares = accumulated.weighted_squares;
}

void PlanObject::set_accumulated(const py::tuple& values) {
    const Busy busy(*this);
    write(read_accumulated(values));
}

void PlanObject::discard_accumulated() {
    const Busy busy(*this);
    forget_accumulated();
}

PlanObject::Step PlanObject::begin_step(py::handle gradients, double grad_scale) {
    if (!(grad_scale > 0.0) || !std::isfinite(grad_scale)) {
        throw py::value_error("grad_scale must be finite and greater than 0, not " +
                              number_text(grad_scale));
    }
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
        step.passed = take(gradients);
    }
    return step;
}

StepOptions PlanObject::options(const Step& step, bool take_norm) const {
    StepOptions options;
    options.grad_scale = step.grad_scale;
    options.clip_by_norm = !std::isnan(limits_[0]);
    options.clip_norm = limits_[0];
    options.clip_value = limits_[1];
    options.nonfinite = nonfinite_;
    options.take_norm = take_norm;
    return options;
}

void PlanObject::restore(const Tables& tables) {
    std::copy(tables.hyper.begin(), tables.hyper.end(), hyper_.begin());
    std::copy(tables.limits.begin(), tables.limits.end(), limits_.begin());
}

void PlanObject::end_step(const Step& step, bool applied) {
    ++attempted_;
    if (applied) ++applied_;
    if (step.uses_accumulated) forget_accumulated();
}

void PlanObject::set_nonfinite(const std::string& name) {
    const NonFinite chosen = find_nonfinite(name);
    const Busy busy(*this);
    nonfinite_ = chosen;
}

std::string PlanObject::nonfinite() const {
    for (const NonFiniteName& choice : kNonFiniteNames) {
        if (nonfinite_ == choice.value) return choice.name;
    }
    return "";
}

void PlanObject::set_updates(const std::vector<std::int64_t>& counts) {
    const Busy busy(*this);
    check_counts(counts, paths_.size());
    plan_.updates() = counts;
}

Plan PlanObject::make_plan(const std::string& rule, const py::list& states,
                           const std::vector<int>& groups) {
    const RuleEntry* entry = find_rule(rule);
    if (entry == nullptr) throw py::value_error("no rule '" + rule + "'");
    std::vector<Leaf> leaves(paths_.size());
    std::vector<py::ssize_t> extents;
    for (std::size_t i = 0; i < leaves.size(); ++i) {
        const ArrayView& view = views_[i];
        leaves[i].parameter = view.data;
        leaves[i].size = view.size;
        leaves[i].type = view.type;
        leaves[i].group = groups.at(i);
        const std::string name = parameter(i);
        memory_.add(view.data, view.size * item_size(view.type), name);
        int k = 0;
        for (const py::handle array : py::list(states[i])) {
            const std::string state_name = name + " state '" + entry->state_names[k] + "'";
            const ArrayView state = check_writeable(kind_, state_name, array, extents);
            if (state.type != view.type || state.size != view.size) {
                throw py::value_error(state_name + " must have the parameter's dtype and size");
            }
            leaves[i].state[k++] = state.data;
            memory_.add(state.data, state.size * item_size(state.type), state_name);
        }
    }
    memory_.close();
    const std::size_t columns = static_cast<std::size_t>(entry->columns) + 1;
    return Plan(*entry, std::move(leaves), static_cast<int>(hyper_.size() / columns),
                hyper_.data());
}

// Checks one gradient per parameter, None allowed, and remembers where they are. Returns the
// gradients as a list or tuple.
py::object PlanObject::take(py::handle gradients) {
    py::object items = py::reinterpret_steal<py::object>(
        PySequence_Fast(gradients.ptr(), "gradients must be a sequence"));
    if (!items) throw py::error_already_set();
    const std::size_t count = static_cast<std::size_t>(PySequence_Fast_GET_SIZE(items.ptr()));
    if (count != paths_.size()) {
        throw py::value_error("expected " + std::to_string(paths_.size()) + " gradients, not " +
                              std::to_string(count));
    }
    PyObject** item = PySequence_Fast_ITEMS(items.ptr());
    const bool on_device = static_cast<bool>(kind_.type);
    for (std::size_t i = 0; i < count; ++i) {
        if (i + kAhead < count) prefetch_array(item[i + kAhead]);
        if (i + kAhead / 2 < count) prefetch_extents(item[i + kAhead / 2]);
        const void* gradient = nullptr;
        if (item[i] != Py_None) {
            gradient = on_device ? known_.find(i, item[i]) : nullptr;
            if (gradient == nullptr) {
                gradient = check_gradient(kind_, paths_[i], views_[i], item[i]);
                check_apart(i, gradient);
                if (on_device) known_.remember(i, item[i], gradient);
            }
        }
        plan_.set_gradient(i, gradient);
    }
    return items;
}

void PlanObject::check_apart(std::size_t i, const void* gradient) {
    // memory once found apart from the parameters stays so, since those are kept alive
    if (gradient == checked_[i]) return;
    const ArrayView& view = views_[i];
    const std::string* other = memory_.overlapping(gradient, view.size * item_size(view.type));
    if (other != nullptr) {
        throw py::value_error(parameter(i) + ": gradient shares memory with " + *other +
                              ", which the step writes: pass an array of its own");
    }
    checked_[i] = gradient;
}

void PlanObject::forget_accumulated() {
    accumulated_.samples = accumulated_.weighted_squares = 0.0;
    accumulated_.micro_batches = 0;
    for (Accumulator& sum : plan_.accumulators()) sum.holds = false;
}

}  // namespace fusestep
