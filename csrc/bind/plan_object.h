// What every plan does with what Python passes, wherever its arrays are: checks everything, and
// keeps count of what is bound, accumulated and done.
#pragma once
#include <atomic>

#include "../runtime/plan.h"
#include "arrays.h"
#include "targets.h"

namespace fusestep {

class PlanObject {
 public:
    PlanObject(ArrayKind kind, const std::string& rule, std::vector<std::string> paths,
               const py::list& parameters, const py::list& states, const std::vector<int>& groups,
               py::array_t<double> hyper, py::array_t<double> limits);

    // Keeps the calls of other threads out until as many releases: for what takes several calls.
    void hold();
    void release();

    // Gradients to use at every later step() without arguments; None lets go of them.
    void bind(py::handle gradients);
    bool is_bound() const { return !bound_.is_none(); }

    // A program whose values every step writes to its targets: in the table of hyper-parameters
    // (0) or the limits (1).
    void set_schedule(const py::object& program, const py::list& targets);

    // Arrays of the parameters' dtypes and sizes, in which gradients are summed from now on.
    void set_accumulators(const py::list& arrays);

    // Samples, micro-batches, sum of samples times squared norm, and who holds a sum.
    py::tuple accumulated() const;
    void set_accumulated(const py::tuple& values);
    double accumulated_samples() const { return accumulated_.samples; }
    void discard_accumulated();

    void set_nonfinite(const std::string& name);
    std::string nonfinite() const;

    const std::vector<std::int64_t>& updates() const { return plan_.updates(); }
    void set_updates(const std::vector<std::int64_t>& counts);

    std::int64_t attempted_ = 0;
    std::int64_t applied_ = 0;

 protected:
    // One call at a time: a second one is refused, not queued, because its order would be chance.
    class Busy {
     public:
        explicit Busy(PlanObject& owner);
        ~Busy() { owner_.busy_.store(false); }
        Busy(const Busy&) = delete;
        Busy& operator=(const Busy&) = delete;

     private:
        PlanObject& owner_;
    };

    // The gradients of a step, once all has been checked.
    struct Step {
        py::object passed;  // a list or tuple, or nothing
        double grad_scale = 1.0;
        bool uses_accumulated = false;
    };
    Step begin_step(py::handle gradients, double grad_scale);
    void follow_schedule(py::handle clock, std::int64_t ahead = 0) {
        targets_.follow(clock, applied_ + ahead);
    }
    StepOptions options(const Step& step, bool take_norm) const;
    void end_step(const Step& step, bool applied);

    // The gradients of a micro-batch, likewise.
    py::object begin_accumulate(py::handle gradients, double samples);
    void end_accumulate(double samples, double squares);
    void forget_accumulated();

    // All numbers that a schedule may write.
    std::vector<double> settings() const;
    void restore(const std::vector<double>& settings);

    std::string parameter(std::size_t i) const { return parameter_name(paths_[i]); }

    Plan& plan() { return plan_; }
    const Plan& plan() const { return plan_; }

 private:
    // What the gradients in the accumulators come from.
    struct Accumulated {
        double samples = 0.0;
        std::int64_t micro_batches = 0;
        double weighted_squares = 0.0;  // sum of samples times squared norm
    };

    Plan make_plan(const std::string& rule, const py::list& states, const std::vector<int>& groups);
    py::object take(py::handle gradients);
    void check_apart(std::size_t i, const void* gradient);

    static constexpr std::size_t kAhead = 16;  // arrays

    ArrayKind kind_;
    std::vector<std::string> paths_;
    std::vector<py::ssize_t> extents_;  // of all parameters: a copy that no reshaping changes
    std::vector<ArrayView> views_;
    py::object kept_;  // the arrays whose memory the plan writes
    py::array_t<double> hyper_;
    py::array_t<double> limits_;
    Targets targets_;
    MemoryMap memory_;
    Plan plan_;
    std::vector<const void*> checked_;
    KnownArrays known_;
    py::object bound_ = py::none();
    py::object kept_accumulators_ = py::none();
    Accumulated accumulated_;
    NonFinite nonfinite_ = NonFinite::kPropagate;
    std::atomic<bool> busy_{false};         // inside a call
    std::atomic<unsigned long> holder_{0};  // the thread that holds the plan, or 0
    int holds_ = 0;                         // by that thread
};

// Parameters that never overlap: their views, in the given order. Extents are appended.
std::vector<ArrayView> check_parameters(const ArrayKind& kind,
                                        const std::vector<std::string>& paths,
                                        const py::list& parameters,
                                        std::vector<py::ssize_t>& extents);

// Why a step with a non-finite gradient is refused, if it is to raise.
std::string nonfinite_message(const std::string& parameter);

// What both kinds of plan have in Python.
template <class Class>
void define_plan(Class& plan) {
    using Object = typename Class::type;
    plan.def("__enter__", &Object::hold)
        .def("__exit__", [](Object& self, const py::args&) { self.release(); })
        .def("bind", &Object::bind, py::arg("gradients"))
        .def_property_readonly("is_bound", &Object::is_bound)
        .def("set_schedule", &Object::set_schedule, py::arg("program"), py::arg("targets"))
        .def("set_accumulators", &Object::set_accumulators, py::arg("arrays"))
        .def("discard_accumulated", &Object::discard_accumulated)
        .def_property("accumulated", &Object::accumulated, &Object::set_accumulated)
        .def_property_readonly("accumulated_samples", &Object::accumulated_samples)
        .def_property("nonfinite", &Object::nonfinite, &Object::set_nonfinite)
        .def_property("updates", &Object::updates, &Object::set_updates)
        .def_readwrite("attempted", &Object::attempted_)
        .def_readwrite("applied", &Object::applied_);
}

}  // namespace fusestep
