// A plan and its arrays, as Python holds them: checks everything, then lets the machine run.
#include "../runtime/plan.h"

#include <pybind11/stl.h>

#include <atomic>
#include <cmath>

#include "arrays.h"
#include "program.h"
#include "step_info.h"

namespace fusestep {
namespace {

struct NonFiniteName {
    const char* name;
    NonFinite value;
};
constexpr NonFiniteName kNonFiniteNames[] = {
    {"propagate", NonFinite::kPropagate}, {"skip", NonFinite::kSkip}, {"raise", NonFinite::kRaise}};

// Parameters and state never overlap: returns their views, in the given order.
std::vector<ArrayView> check_parameters(const std::vector<std::string>& paths,
                                        const py::list& parameters) {
    std::vector<ArrayView> views;
    MemoryMap memory;
    for (std::size_t i = 0; i < paths.size(); ++i) {
        const std::string name = parameter_name(paths[i]);
        views.push_back(check_writeable(name, parameters[i]));
        memory.add(views[i].data, views[i].size * item_size(views[i].type), name);
    }
    memory.close();
    return views;
}

std::string number_text(double x) { return py::repr(py::float_(x)).cast<std::string>(); }

// What the gradients in the accumulators come from.
struct Accumulated {
    double samples = 0.0;
    std::int64_t micro_batches = 0;
    double weighted_squares = 0.0;  // sum of samples times squared norm
};

// Where a value of the schedule goes, and what it may be.
struct Target {
    double* place;
    std::string name;
    double lower;
    double upper;
    bool upper_open;
    std::string expected;

    bool accepts(double value) const {
        return value >= lower && value <= upper && !(upper_open && value == upper);
    }
};

class PlanObject {
 public:
    PlanObject(const std::string& rule, std::vector<std::string> paths, const py::list& parameters,
               const py::list& states, const std::vector<int>& groups, py::array_t<double> hyper,
               py::array_t<double> limits)
        : paths_(std::move(paths)),
          views_(check_parameters(paths_, parameters)),
          kept_(py::make_tuple(parameters, states)),
          hyper_(std::move(hyper)),
          limits_(std::move(limits)),
          plan_(make_plan(rule, states, groups)),
          extents_(own_extents()),
          checked_(paths_.size()) {
        held_.reserve(paths_.size());
    }

    // Gradients to use at every later step() without arguments; None lets go of them.
    void bind(py::handle gradients) {
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

    // The program whose outputs every step writes to the targets, in their order; None for none. A
    // target is (0 for the table of hyper-parameters, 1 for the limits; the place in it; name;
    // lower bound; upper bound; whether the upper is excluded; what is expected, in words).
    void set_schedule(const py::object& program, const py::list& targets) {
        const Busy busy(*this);
        py::array_t<double>* const arrays[] = {&hyper_, &limits_};
        std::vector<Target> taken;
        for (const py::handle entry : targets) {
            const py::tuple fields = py::reinterpret_borrow<py::tuple>(entry);
            py::array_t<double>& array = *arrays[fields[0].cast<int>() != 0];
            const py::ssize_t at = fields[1].cast<py::ssize_t>();
            if (at < 0 || at >= array.size()) throw py::value_error("no such place");
            taken.push_back({array.mutable_data() + at, fields[2].cast<std::string>(),
                             fields[3].cast<double>(), fields[4].cast<double>(),
                             fields[5].cast<bool>(), fields[6].cast<std::string>()});
        }
        ProgramObject* const compiled =
            program.is_none() ? nullptr : program.cast<ProgramObject*>();
        if ((compiled == nullptr ? 0 : compiled->outputs()) != taken.size()) {
            throw py::value_error("expected one target for each output");
        }
        schedule_object_ = program;
        schedule_ = compiled;
        values_.resize(taken.size());
        targets_ = std::move(taken);
    }

    bool is_bound() const { return !bound_.is_none(); }

    // Arrays of the parameters' dtypes and sizes, in which gradients are summed from now on.
    void set_accumulators(const py::list& arrays) {
        const Busy busy(*this);
        if (!plan_.accumulators().empty()) {
            throw StateError("this optimizer has its accumulators already");
        }
        if (py::len(arrays) != paths_.size()) {
            throw py::value_error("expected one accumulator for each parameter");
        }
        std::vector<Accumulator> taken;
        for (std::size_t i = 0; i < paths_.size(); ++i) {
            const std::string name = parameter_name(paths_[i]) + " accumulator";
            const ArrayView view = check_writeable(name, arrays[i]);
            if (view.type != views_[i].type || view.size != views_[i].size) {
                throw py::value_error(name + " must have the parameter's dtype and size");
            }
            taken.push_back({view.data, false});
        }
        plan_.accumulators() = std::move(taken);
        kept_accumulators_ = arrays;
    }

    // Adds a micro-batch's mean gradients, times its samples; returns the sum of their squares.
    double accumulate(py::handle gradients, double samples) {
        const Busy busy(*this);
        if (!bound_.is_none()) {
            throw StateError(
                "gradients are bound: bind(None) first, then accumulate(grads, samples)");
        }
        if (!(samples > 0.0) || !std::isfinite(samples)) {
            throw py::value_error("samples must be finite and greater than 0, not " +
                                  number_text(samples));
        }
        if (plan_.accumulators().empty()) throw StateError("there are no accumulators");
        const py::object passed = take(gradients);
        const Held held(held_, plan_.is_large() ? passed : py::object());
        const double squares = run([&] { return plan_.accumulate(samples); });
        accumulated_.samples += samples;
        ++accumulated_.micro_batches;
        accumulated_.weighted_squares += samples * squares;
        return squares;
    }

    // Samples, micro-batches, sum of samples times squared norm, and who holds a sum.
    py::tuple accumulated() const {
        py::list holds;
        for (const Accumulator& sum : plan_.accumulators()) holds.append(sum.holds);
        return py::make_tuple(accumulated_.samples, accumulated_.micro_batches,
                              accumulated_.weighted_squares, holds);
    }
    void set_accumulated(const py::tuple& values) {
        const Busy busy(*this);
        const Accumulated taken = {values[0].cast<double>(), values[1].cast<std::int64_t>(),
                                   values[2].cast<double>()};
        const auto holds = values[3].cast<std::vector<bool>>();
        std::vector<Accumulator>& sums = plan_.accumulators();
        if (holds.size() != sums.size())
            throw py::value_error("expected one flag for each accumulator");
        if (taken.samples > 0.0 && !bound_.is_none()) throw StateError("gradients are bound");
        for (std::size_t i = 0; i < sums.size(); ++i) sums[i].holds = holds[i];
        accumulated_ = taken;
    }
    double accumulated_samples() const { return accumulated_.samples; }

    void discard_accumulated() {
        const Busy busy(*this);
        forget_accumulated();
    }

    py::object step(py::handle gradients, double grad_scale, py::handle clock, bool take_norm) {
        const Busy busy(*this);
        if (!(grad_scale > 0.0) || !std::isfinite(grad_scale)) {
            throw py::value_error("grad_scale must be finite and greater than 0, not " +
                                  number_text(grad_scale));
        }
        const bool uses_accumulated = gradients.is_none() && accumulated_.samples > 0.0;
        py::object passed;
        if (uses_accumulated) {
            grad_scale *= accumulated_.samples;
            if (!(grad_scale > 0.0) || !std::isfinite(grad_scale)) {
                throw py::value_error("grad_scale times the accumulated samples is " +
                                      number_text(grad_scale));
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
                throw StateError(
                    "gradients are bound: call step() without them, or bind(None) first");
            }
            passed = take(gradients);
        }
        if (schedule_ != nullptr || !clock.is_none()) follow_schedule(clock);
        StepOptions options;
        options.grad_scale = grad_scale;
        options.clip_by_norm = !std::isnan(limits_.data()[0]);
        options.clip_norm = limits_.data()[0];
        options.clip_value = limits_.data()[1];
        options.nonfinite = nonfinite_;
        options.take_norm = take_norm;
        const double lr = plan_.hyper(0)[0];
        const Held held(held_, plan_.is_large() ? passed : py::object());
        const StepResult result = run([&] { return plan_.step(options); });
        if (!result.finite && nonfinite_ == NonFinite::kRaise) raise_nonfinite();
        ++attempted_;
        if (result.applied) ++applied_;
        if (uses_accumulated) forget_accumulated();
        return step_info(lr, result);
    }

    void set_nonfinite(const std::string& name) {
        for (const NonFiniteName& choice : kNonFiniteNames) {
            if (name == choice.name) {
                nonfinite_ = choice.value;
                return;
            }
        }
        throw py::value_error("nonfinite must be 'propagate', 'skip' or 'raise', not '" + name +
                              "'");
    }
    std::string nonfinite() const {
        for (const NonFiniteName& choice : kNonFiniteNames) {
            if (nonfinite_ == choice.value) return choice.name;
        }
        return "";
    }

    const std::vector<std::int64_t>& updates() const { return plan_.updates(); }
    void set_updates(const std::vector<std::int64_t>& counts) {
        const Busy busy(*this);
        if (counts.size() != paths_.size())
            throw py::value_error("expected one count for each parameter");
        plan_.updates() = counts;
    }

    std::int64_t attempted_ = 0;
    std::int64_t applied_ = 0;

 private:
    // One step at a time: a second thread is refused, not queued, because its order would be
    // chance.
    class Busy {
     public:
        explicit Busy(PlanObject& owner) : owner_(owner) {
            if (owner_.busy_.exchange(true)) {
                throw StateError("this optimizer is already inside a call of another thread");
            }
        }
        ~Busy() { owner_.busy_.store(false); }
        Busy(const Busy&) = delete;
        Busy& operator=(const Busy&) = delete;

     private:
        PlanObject& owner_;
    };

    // Keeps the gradients passed alive while other threads may drop them from the caller's list.
    class Held {
     public:
        Held(std::vector<PyObject*>& kept, const py::object& gradients) : kept_(kept) {
            if (!gradients) return;
            for (py::ssize_t i = 0; i < PySequence_Fast_GET_SIZE(gradients.ptr()); ++i) {
                kept_.push_back(PySequence_Fast_ITEMS(gradients.ptr())[i]);
                Py_INCREF(kept_.back());
            }
        }
        ~Held() {
            for (PyObject* gradient : kept_) Py_DECREF(gradient);
            kept_.clear();
        }
        Held(const Held&) = delete;
        Held& operator=(const Held&) = delete;

     private:
        std::vector<PyObject*>& kept_;
    };

    Plan make_plan(const std::string& rule, const py::list& states,
                   const std::vector<int>& groups) {
        const RuleEntry* entry = find_rule(rule);
        if (entry == nullptr) throw py::value_error("no rule '" + rule + "'");
        std::vector<Leaf> leaves(paths_.size());
        for (std::size_t i = 0; i < leaves.size(); ++i) {
            const ArrayView& view = views_[i];
            leaves[i].parameter = view.data;
            leaves[i].size = view.size;
            leaves[i].type = view.type;
            leaves[i].group = groups.at(i);
            const std::string name = parameter_name(paths_[i]);
            memory_.add(view.data, view.size * item_size(view.type), name);
            int k = 0;
            for (const py::handle array : py::list(states[i])) {
                const std::string state_name = name + " state '" + entry->state_names[k] + "'";
                const ArrayView state = check_writeable(state_name, array);
                if (state.type != view.type || state.size != view.size) {
                    throw py::value_error(state_name + " must have the parameter's dtype and size");
                }
                leaves[i].state[k++] = state.data;
                memory_.add(state.data, state.size * item_size(state.type), state_name);
            }
        }
        memory_.close();
        return Plan(*entry, std::move(leaves), static_cast<int>(hyper_.shape(0)), hyper_.data());
    }

    // A copy of all extents side by side, which a reshaped parameter does not change.
    std::vector<py::ssize_t> own_extents() {
        std::vector<py::ssize_t> extents;
        for (const ArrayView& view : views_) {
            extents.insert(extents.end(), view.extents, view.extents + view.dimensions);
        }
        const py::ssize_t* next = extents.data();
        for (ArrayView& view : views_) {
            view.extents = next;
            next += view.dimensions;
        }
        return extents;
    }

    // Checks one gradient per parameter, None allowed, and remembers where they are. Returns the
    // gradients as a list or tuple.
    py::object take(py::handle gradients) {
        py::object items = py::reinterpret_steal<py::object>(
            PySequence_Fast(gradients.ptr(), "gradients must be a sequence"));
        if (!items) throw py::error_already_set();
        const std::size_t count = static_cast<std::size_t>(PySequence_Fast_GET_SIZE(items.ptr()));
        if (count != paths_.size()) {
            throw py::value_error("expected " + std::to_string(paths_.size()) + " gradients, not " +
                                  std::to_string(count));
        }
        PyObject** item = PySequence_Fast_ITEMS(items.ptr());
        for (std::size_t i = 0; i < count; ++i) {
            if (i + kAhead < count) prefetch_array(item[i + kAhead]);
            if (i + kAhead / 2 < count) prefetch_extents(item[i + kAhead / 2]);
            const void* gradient = nullptr;
            if (item[i] != Py_None) {
                gradient = check_gradient(paths_[i], views_[i], item[i]);
                check_apart(i, gradient);
            }
            plan_.set_gradient(i, gradient);
        }
        return items;
    }

    // Evaluates the schedule, checks all values, then writes them where the step reads them.
    void follow_schedule(py::handle given) {
        Clock clock = {{-1.0, -1.0, -1.0, -1.0}};
        if (!given.is_none()) {
            if (!PyTuple_Check(given.ptr()) || PyTuple_GET_SIZE(given.ptr()) != kClockInputs) {
                throw py::type_error("clock must be a fusestep.Clock, not " +
                                     py::repr(given).cast<std::string>());
            }
            for (int i = 0; i < kClockInputs; ++i) {
                clock.input[i] = clock_number(i, PyTuple_GET_ITEM(given.ptr(), i));
            }
        }
        if (schedule_ == nullptr) return;
        if (clock.input[kStep] < 0.0) clock.input[kStep] = static_cast<double>(applied_);
        schedule_->check(clock, "a schedule of this optimizer", "clock=fusestep.Clock(");
        schedule_->run(clock, values_.data());
        for (std::size_t i = 0; i < targets_.size(); ++i) {
            if (targets_[i].accepts(values_[i])) continue;
            throw py::value_error(targets_[i].name + " must be " + targets_[i].expected +
                                  ", but its schedule gives " + number_text(values_[i]) +
                                  " at step " +
                                  std::to_string(static_cast<long long>(clock.input[kStep])) +
                                  "; nothing was updated");
        }
        for (std::size_t i = 0; i < targets_.size(); ++i) *targets_[i].place = values_[i];
    }

    void check_apart(std::size_t i, const void* gradient) {
        // memory once found apart from the parameters stays so, since those are kept alive
        if (gradient == checked_[i]) return;
        const ArrayView& view = views_[i];
        const std::string* other = memory_.overlapping(gradient, view.size * item_size(view.type));
        if (other != nullptr) {
            throw py::value_error(parameter_name(paths_[i]) + ": gradient shares memory with " +
                                  *other + ", which the step writes: pass an array of its own");
        }
        checked_[i] = gradient;
    }

    // The GIL is released where a step takes long enough for other Python threads to gain from it;
    // taking it back can cost milliseconds, so a small step keeps it.
    template <class Work>
    auto run(Work work) -> decltype(work()) {
        if (!plan_.is_large()) return work();
        const py::gil_scoped_release unlocked;
        return work();
    }

    void forget_accumulated() {
        accumulated_ = {};
        for (Accumulator& sum : plan_.accumulators()) sum.holds = false;
    }

    [[noreturn]] void raise_nonfinite() const {
        std::string name = "params";
        for (std::size_t i = 0; i < paths_.size(); ++i) {
            const Leaf& leaf = plan_.leaves()[i];
            if (leaf.gradient != nullptr && !Plan::is_finite(leaf)) {
                name = parameter_name(paths_[i]);
                break;
            }
        }
        throw py::value_error(name +
                              ": gradient holds NaN or infinity; nothing was updated "
                              "(nonfinite=\"skip\" skips such steps)");
    }

    static constexpr std::size_t kAhead = 16;  // arrays

    std::vector<std::string> paths_;
    std::vector<ArrayView> views_;
    py::object kept_;  // the arrays whose memory the plan writes
    py::array_t<double> hyper_;
    py::array_t<double> limits_;
    py::object schedule_object_ = py::none();
    ProgramObject* schedule_ = nullptr;
    std::vector<Target> targets_;
    std::vector<double> values_;
    MemoryMap memory_;
    Plan plan_;
    std::vector<py::ssize_t> extents_;
    std::vector<const void*> checked_;
    std::vector<PyObject*> held_;
    py::object bound_ = py::none();
    py::object kept_accumulators_ = py::none();
    Accumulated accumulated_;
    NonFinite nonfinite_ = NonFinite::kPropagate;
    std::atomic<bool> busy_{false};
};

}  // namespace

void register_plan(py::module_& module) {
    register_step_info(module);
    module.def(
        "check_parameters",
        [](const std::vector<std::string>& paths, const py::list& parameters) {
            check_parameters(paths, parameters);
        },
        py::arg("paths"), py::arg("parameters"));
    py::class_<PlanObject>(module, "Plan")
        .def(
            py::init<const std::string&, std::vector<std::string>, const py::list&, const py::list&,
                     const std::vector<int>&, py::array_t<double>, py::array_t<double>>(),
            py::arg("rule"), py::arg("paths"), py::arg("parameters"), py::arg("states"),
            py::arg("groups"), py::arg("hyper").noconvert(), py::arg("limits").noconvert())
        .def("bind", &PlanObject::bind, py::arg("gradients"))
        .def_property_readonly("is_bound", &PlanObject::is_bound)
        .def("set_schedule", &PlanObject::set_schedule, py::arg("program"), py::arg("targets"))
        .def("step", &PlanObject::step, py::arg("gradients"), py::arg("grad_scale"),
             py::arg("clock"), py::arg("take_norm") = false)
        .def("set_accumulators", &PlanObject::set_accumulators, py::arg("arrays"))
        .def("accumulate", &PlanObject::accumulate, py::arg("gradients"), py::arg("samples"))
        .def("discard_accumulated", &PlanObject::discard_accumulated)
        .def_property("accumulated", &PlanObject::accumulated, &PlanObject::set_accumulated)
        .def_property_readonly("accumulated_samples", &PlanObject::accumulated_samples)
        .def_property("nonfinite", &PlanObject::nonfinite, &PlanObject::set_nonfinite)
        .def_property("updates", &PlanObject::updates, &PlanObject::set_updates)
        .def_readwrite("attempted", &PlanObject::attempted_)
        .def_readwrite("applied", &PlanObject::applied_);
}

}  // namespace fusestep
