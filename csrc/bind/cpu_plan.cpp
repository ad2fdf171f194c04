// The plan over NumPy arrays, as Python holds it: lets the machine run.
#include <pybind11/stl.h>

#include <cstring>

#include "../runtime/float_environment.h"
#include "checked_plan.h"
#include "step_info.h"

namespace fusestep {
namespace {

class CpuPlan : public CheckedPlan {
 public:
    CpuPlan(const std::string& rule, std::vector<std::string> paths, const py::list& parameters,
            const py::list& states, const std::vector<int>& groups,
            const py::array_t<double>& settings, const py::list& containers, const py::list& copies)
        : CheckedPlan({}, rule, std::move(paths), parameters, states, groups, settings, containers,
                      copies) {
        held_.reserve(plan().leaves().size());
    }

    // Adds a micro-batch's mean gradients, times its samples; returns the sum of their squares.
    double accumulate(py::handle gradients, double samples) {
        const Busy busy(*this);
        const py::object passed = begin_accumulate(gradients, samples);
        const Held held(held_, plan().is_large() ? passed : py::object());
        const double squares = run(plan().size(), [&] { return plan().accumulate(samples); });
        end_accumulate(samples, squares);
        return squares;
    }

    // The changes are made if the update is, with no Python code in between. `learn` gives further
    // ones: it is called with the norm before anything has changed. `squared_norm` is that of
    // gradients that are not all here, as read_squared_norm() takes it.
    py::object step(py::handle gradients, double grad_scale, py::handle clock, bool take_norm,
                    py::handle changes, const py::object& learn, py::handle squared_norm) {
        const Busy busy(*this);
        Changes attributes(changes);
        const std::optional<Clock> now = read_clock(clock);
        const Step step = begin_step(gradients, grad_scale);
        const std::vector<double> before =
            learn.is_none() ? std::vector<double>() : setting_values();
        follow_schedule(now);
        const StepOptions chosen = options(step, take_norm, read_squared_norm(squared_norm));
        const double lr = plan().lr();
        const Held held(held_, plan().is_large() || !learn.is_none() ? step.passed : py::object());
        StepResult result;
        Changes learnt{py::none()};
        if (learn.is_none()) {
            result = run(plan().size(), [&] { return plan().step(chosen); });
        } else {
            result = run(plan().size(), [&] { return plan().measure(chosen); });
            if (result.applied) {
                try {
                    learnt = Changes(learn(result.grad_norm));
                } catch (...) {
                    restore(before);
                    throw;
                }
                run(plan().size(), [&] { plan().apply(chosen, result); });
            }
        }
        if (!result.finite && chosen.nonfinite == NonFinite::kRaise) raise_nonfinite();
        check_prepared(result.unprepared);
        end_step(step, result.applied);
        if (result.applied) {
            attributes.apply();
            learnt.apply();
        }
        return step_info(lr, result);
    }

    static constexpr bool kTakesForeign = true;  // arrays whose memory NumPy can read
    void prepare_replays(std::size_t, const py::object&, double) const {
        throw py::type_error("prepare_replays is for parameters of CuPy");
    }
    void refuse_capture(const std::string&) const {}
    bool is_captured() const { return false; }

    void put_in_place(const py::object& values) {
        const Hold hold({}, *this);
        flush();
        const py::list given = values();  // which may ask the plan
        const Busy busy(*this);
        const py::list pairs = begin_in_place(given);
        const Copies copies(pairs);
        std::vector<OwnValues> own;
        for (const py::handle pair : pairs) {
            const auto array = py::reinterpret_borrow<py::array>(pair.cast<py::tuple>()[0]);
            const char* const bytes = static_cast<const char*>(array.data());
            own.push_back({array, bytes, {bytes, bytes + array.nbytes()}});
        }
        copies.apply();
        own_values_ = std::move(own);
        set_in_place(true);
    }

    void take_back() {
        bool have_all = true;
        for (OwnValues& own : own_values_) {
            const auto bytes = static_cast<std::size_t>(own.array.nbytes());
            const bool has_memory = own.array.data() == own.data && bytes == own.bytes.size();
            if (has_memory && bytes > 0) {
                std::memcpy(py::detail::array_proxy(own.array.ptr())->data, own.bytes.data(),
                            bytes);
            }
            have_all &= has_memory;
        }
        own_values_.clear();
        set_in_place(false);
        if (!have_all) {
            throw StateError(
                "a parameter was resized or given other memory inside averaged_in_place(): its own "
                "values are lost");
        }
    }

    // Begins a step that is updated in parts: all but the update itself, so the arrays of gradients
    // must be there, but what they hold may come later where nothing asks for it. Other calls are
    // refused until the last part. A step that is left out ends at once.
    py::object begin_parts(py::handle gradients, double grad_scale, py::handle clock,
                           bool take_norm, py::handle changes, py::handle squared_norm) {
        const Busy busy(*this);
        require_parts();
        Changes attributes(changes);
        const std::optional<Clock> now = read_clock(clock);
        Step step = begin_step(gradients, grad_scale, true);
        // the caller may change its list between the parts
        if (step.passed) step.passed = py::tuple(step.passed);
        follow_schedule(now);
        const StepOptions chosen = options(step, take_norm, read_squared_norm(squared_norm));
        const double lr = plan().lr();
        StepResult result = run(plan().size(), [&] { return plan().measure(chosen); });
        if (!result.finite && chosen.nonfinite == NonFinite::kRaise) raise_nonfinite();
        if (result.applied) {
            catch_up();
            {
                const FloatEnvironment environment;
                check_prepared(plan().prepare(chosen, result.factor));
            }
            go_on_in_parts(std::move(step), std::move(attributes));
        } else {
            end_step(step, false);
        }
        return step_info(lr, result);
    }

 private:
    // What a parameter has while it holds other values.
    struct OwnValues {
        py::array array;
        const void* data;
        std::vector<char> bytes;
    };

    void update_elements(std::size_t first, std::size_t last) override {
        run(last - first, [&] { plan().update(first, last); });
    }

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

    // The GIL is released where a step takes long enough for other Python threads to gain from it;
    // taking it back can cost milliseconds, so a small step keeps it.
    template <class Work>
    static auto run(std::size_t elements, Work work) -> decltype(work()) {
        if (!Plan::is_large(elements)) return work();
        const py::gil_scoped_release unlocked;
        return work();
    }

    [[noreturn]] void raise_nonfinite() {
        undo_schedule();
        for (std::size_t i = 0; i < plan().leaves().size(); ++i) {
            const Leaf& leaf = plan().leaves()[i];
            const char* what = leaf.has_rows              ? plan().nonfinite_in_rows(i)
                               : leaf.gradient == nullptr ? nullptr
                                                          : Plan::nonfinite_in(leaf);
            if (what != nullptr) throw py::value_error(nonfinite_message(parameter(i), what));
        }
        // another thread has written the gradient since
        throw py::value_error(nonfinite_message("params", "NaN or infinity"));
    }

    std::vector<PyObject*> held_;
    std::vector<OwnValues> own_values_;
};

}  // namespace

void register_cpu_plan(py::module_& module) {
    register_step_info(module);
    module.def(
        "check_parameters",
        [](const std::vector<std::string>& paths, const py::list& parameters) {
            std::vector<py::ssize_t> extents;
            check_parameters({}, paths, parameters, extents);
        },
        py::arg("paths"), py::arg("parameters"));
    py::class_<CheckedPlan::Hold>(module, "Hold")
        .def("__enter__", [](const CheckedPlan::Hold&) {})
        .def("__exit__", [](CheckedPlan::Hold& self, const py::args&) { self.release(); });
    py::class_<CpuPlan> plan(module, "CpuPlan");
    plan.def(py::init<const std::string&, std::vector<std::string>, const py::list&,
                      const py::list&, const std::vector<int>&, const py::array_t<double>&,
                      const py::list&, const py::list&>(),
             py::arg("rule"), py::arg("paths"), py::arg("parameters"), py::arg("states"),
             py::arg("groups"), py::arg("settings").noconvert(), py::arg("containers") = py::list(),
             py::arg("copies") = py::list());
    define_plan(plan);
    plan.def("set_values", &CpuPlan::set_values, py::arg("values"));
}

}  // namespace fusestep
