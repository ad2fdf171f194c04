// What every plan does with what Python passes, wherever its arrays are: checks everything, and
// keeps count of what is bound, accumulated and done.
#pragma once
#include <atomic>
#include <memory>
#include <optional>

#include "../runtime/plan.h"
#include "arrays.h"
#include "commit.h"
#include "containers.h"
#include "in_place.h"
#include "rows.h"
#include "scheduled_values.h"

namespace fusestep {

class CheckedPlan {
 public:
    CheckedPlan(ArrayKind kind, const std::string& rule, std::vector<std::string> paths,
                const py::list& parameters, const py::list& states, const std::vector<int>& groups,
                const py::array_t<double>& settings, const py::list& containers,
                const py::list& copies);
    virtual ~CheckedPlan() = default;

    // Keeps the calls of other threads out while it lives: for what takes several calls. As the
    // object of a with statement it goes even where an interrupt keeps __exit__ from being called.
    class Hold {
     public:
        Hold(py::object owner, CheckedPlan& plan);
        ~Hold() { release(); }
        Hold(const Hold&) = delete;
        Hold& operator=(const Hold&) = delete;
        void release();

     private:
        py::object owner_;
        CheckedPlan* plan_;
    };

    // Goes on with other arrays of the same shapes and dtypes, in other containers.
    void rebind(const py::list& parameters, const py::list& containers, const py::object& changes);
    // Throws StateError naming a parameter that is another object.
    void check_same(const py::list& parameters) const;

    // Gradients to use at every later step() without arguments; None lets go of them.
    void bind(py::handle gradients);
    bool is_bound() const { return !bound_.is_none(); }

    // The numbers that a step reads: a row for each group, with the columns of the rule and the
    // common ones.
    py::array_t<double> settings() const;

    // What a user sets, checked when it is built, and then written in one go.
    class Settings {
     public:
        // A program's values go to their targets in the table at every step.
        Settings(CheckedPlan& plan, const py::array_t<double>& table, const py::object& program,
                 std::vector<Target> targets);
        void write();

     private:
        CheckedPlan& plan_;
        std::vector<double> table_;
        ScheduledValues scheduled_;
    };
    void set_settings(const py::array_t<double>& settings, const py::object& program,
                      std::vector<Target> targets, const py::object& changes);
    // Puts a number in each place, or, where one is not accepted or asks for a state that is not
    // there, throws and puts none. A place that a schedule has is written by each step.
    void set_numbers(const Targets& targets, const py::tuple& numbers);

    // What each parameter's last update has left for the next one: the rule's values.
    using Values = std::vector<std::vector<double>>;

    // A saved state, taken over in whole or not at all: counts, what is accumulated, settings as in
    // set_settings, arrays, as (destination, source) pairs with None for zeros, and values that
    // updates hand on, or none for the initial ones. Then the changes are made. Ends a step that is
    // updated in parts.
    void load(const std::vector<std::int64_t>& updates, std::int64_t attempted,
              std::int64_t applied, const py::tuple& accumulated,
              const py::array_t<double>& settings, const py::object& program,
              std::vector<Target> targets, const std::string& nonfinite, const py::list& arrays,
              const py::object& changes, const Values& values);

    // Arrays of the parameters' dtypes and sizes, in which gradients are summed from now on. Those
    // that take rows are zeros, and nobody else's.
    void set_accumulators(const py::list& arrays, bool takes_rows);

    // Samples, micro-batches, sum of samples times squared norm, and who holds a sum.
    py::tuple accumulated() const;
    double accumulated_samples() const { return accumulated_.samples; }
    void discard_accumulated();

    // Elements of the index space.
    std::size_t size() const { return plan_.size(); }
    // Updates those from where the last part of a step has ended. Returns whether that was the last
    // part. A plan's begin_parts() does all of a step but this; other calls are refused until then.
    bool update_part(std::size_t end);
    // Forgets a step of which no part was updated.
    void cancel_parts();

    // Has rows of a parameter catch up with the updates that they have missed, or all rows.
    void fetch(const std::string& path, py::handle rows);
    void flush();
    std::size_t history() const { return plan_.history(); }
    void set_history(std::size_t updates);

    void set_nonfinite(const std::string& name);
    std::string nonfinite() const;

    const std::vector<std::int64_t>& updates() const;
    Values values() const;
    void set_values(const Values& values);
    // Whether parameters hold other values than their own for a while.
    bool is_in_place() const { return in_place_; }
    std::int64_t attempted() const { return attempted_; }
    std::int64_t applied() const { return applied_; }

 protected:
    // One call at a time: a second one is refused, not queued, because its order would be chance.
    class Busy {
     public:
        // While a step is updated in parts, only calls that go on with it or end it are taken.
        explicit Busy(CheckedPlan& owner, bool ends_parts = false);
        ~Busy() { owner_.busy_.store(false); }
        Busy(const Busy&) = delete;
        Busy& operator=(const Busy&) = delete;

     private:
        CheckedPlan& owner_;
    };

    // The gradients of a step, once all has been checked.
    struct Step {
        py::object passed;  // a list or tuple, or nothing
        double grad_scale = 1.0;
        bool uses_accumulated = false;
    };
    Step begin_step(py::handle gradients, double grad_scale, bool in_parts = false);
    void follow_schedule(const std::optional<Clock>& clock, std::int64_t ahead = 0) {
        scheduled_.follow(clock, applied_ + ahead);
    }
    void undo_schedule() { scheduled_.undo(); }
    StepOptions options(const Step& step, bool take_norm,
                        const std::optional<SquaredNorm>& squared_norm = {}) const;
    // None, the sum of squares, or a pair: that of multiplied gradients, and the factor.
    static std::optional<SquaredNorm> read_squared_norm(py::handle given);
    // Throws StateError where a step can't be updated in parts.
    void require_parts() const;
    // A step that is prepared and will be updated in parts, with changes to make after the last.
    void go_on_in_parts(Step step, Changes changes);
    // Updates elements of a step that is prepared, as Plan::update does.
    virtual void update_elements(std::size_t first, std::size_t last) = 0;
    // The gradients of a step: those passed, accumulated or bound.
    py::sequence gradients(const Step& step) const;
    void end_step(const Step& step, bool applied);

    // The gradients of a micro-batch, likewise.
    py::object begin_accumulate(py::handle gradients, double samples);
    void end_accumulate(double samples, double squares);
    void forget_accumulated();

    // Pairs of a parameter and the array whose values it is to hold for a while, of those that are
    // not to keep their own. One is given for each parameter.
    py::list begin_in_place(const py::list& values) const;
    void set_in_place(bool begun) { in_place_ = begun; }
    void require_own_values() const;

    // The table of settings, which a schedule may write.
    const std::vector<double>& setting_values() const { return table_; }
    void restore(const std::vector<double>& values);

    std::int64_t attempted_ = 0;
    std::int64_t applied_ = 0;

    // Raises if prepare() has found a scalar too large; takes back what a schedule has written.
    void check_prepared(std::ptrdiff_t unprepared);
    void look_at_arrays();
    void catch_up();
    void require_unchanged(std::size_t i) const;

    std::string parameter(std::size_t i) const { return parameter_name(paths_[i]); }

    Plan& plan() { return plan_; }
    const Plan& plan() const { return plan_; }

 private:
    // What the gradients in the accumulators come from.
    struct Accumulated {
        double samples = 0.0;
        std::int64_t micro_batches = 0;
        double weighted_squares = 0.0;  // sum of samples times squared norm
        std::vector<bool> holds;        // for each accumulator, on its way to it
    };
    Accumulated read_accumulated(const py::tuple& values) const;
    void write(const Accumulated& accumulated);

    struct Parts {
        Step step;
        Changes changes;
        std::size_t done = 0;  // elements of the index space
    };
    Parts& begun();

    Plan make_plan(const std::string& rule, const py::list& states, const std::vector<int>& groups);
    std::vector<void*> check_states(std::size_t i, const RuleEntry& rule, const py::dict& states,
                                    unsigned used) const;
    static std::size_t state_bytes(const State& state, const ArrayView& parameter);
    std::vector<double> read_values(const Values& values) const;
    void require_whole() const;
    Units units_of(std::size_t i, double axis) const;
    void require_units(const std::vector<double>& table) const;
    MemoryMap written(const std::vector<ArrayView>& views) const;
    std::string state_name(std::size_t i, int k) const;
    std::string copy_name(std::size_t i) const { return "copies['" + paths_[i] + "']"; }
    std::vector<Output> check_copies() const;
    void require_count(const char* what, std::size_t count) const;
    void count_looks();
    std::vector<py::object> fixed(const py::tuple& arrays) const;
    void look_at_bound(std::size_t i);
    // What is to be done with gradients that are taken: rows alone do for a step only.
    enum class Taking { kStep, kAccumulation, kParts, kBinding };
    py::object take(py::handle gradients, Taking taking);
    void take_rows(std::size_t i, const Rows& rows, Taking taking);

    bool take_plain(py::handle items);
    void check_held(double grad_scale) const;
    void check_apart(std::size_t i, const void* gradient) {
        // memory once found apart from the parameters stays so, since those are kept alive
        if (gradient == checked_[i]) return;
        require_apart(memory_, i, gradient);
        checked_[i] = gradient;
    }
    void require_apart(const MemoryMap& memory, std::size_t i, const void* gradient) const;

    static constexpr std::size_t kAhead = 16;  // arrays

    ArrayKind kind_;
    std::vector<std::string> paths_;
    std::vector<py::ssize_t> extents_;  // of all parameters: a copy that no reshaping changes
    std::vector<ArrayView> views_;
    py::tuple parameters_;  // the arrays whose memory the plan writes
    py::tuple states_;
    py::tuple copies_;  // one for each parameter, or none
    Containers containers_;
    std::size_t looks_ = 0;    // at parameters in a step, which for a GPU's there are none
    std::size_t lookups_ = 0;  // at entries of containers
    std::size_t next_ = 0;     // the parameter to look at in the next step
    // weak references to parameters and bound gradients, which NumPy then does not resize
    std::vector<py::object> fixed_parameters_;
    std::vector<py::object> fixed_gradients_;
    std::vector<py::object> fixed_copies_;
    std::vector<double> table_;  // of settings, where the plan reads: never resized
    ScheduledValues scheduled_;
    MemoryMap memory_;
    Plan plan_;
    std::vector<const void*> checked_;
    KnownArrays known_;
    py::object bound_ = py::none();
    py::object kept_accumulators_ = py::none();
    Accumulated accumulated_;
    NonFinite nonfinite_ = NonFinite::kPropagate;
    bool in_place_ = false;
    std::optional<Parts> parts_;            // between the calls of a step that is updated in parts
    std::atomic<bool> busy_{false};         // inside a call
    std::atomic<unsigned long> holder_{0};  // the thread that holds the plan, or 0
    int holds_ = 0;                         // by that thread
};

// Parameters that never overlap: their views, in the given order. Extents are appended.
std::vector<ArrayView> check_parameters(const ArrayKind& kind,
                                        const std::vector<std::string>& paths,
                                        const py::sequence& parameters,
                                        std::vector<py::ssize_t>& extents);

std::vector<double> numbers_of(const py::array_t<double>& table);

// Why a step with a non-finite gradient is refused, if it is to raise.
std::string nonfinite_message(const std::string& parameter, const char* what);

// What both kinds of plan have in Python; fusestep.engines.protocol.Plan says what it does.
template <class Class>
void define_plan(Class& plan) {
    using Object = typename Class::type;
    plan.def("held",
             [](const py::object& self) {
                 return std::make_unique<CheckedPlan::Hold>(self, self.cast<Object&>());
             })
        .def("rebind", &Object::rebind, py::arg("parameters"), py::arg("containers") = py::list(),
             py::arg("changes") = py::none())
        .def("check_same", &Object::check_same, py::arg("parameters"))
        .def("bind", &Object::bind, py::arg("gradients"))
        .def_property_readonly("is_bound", &Object::is_bound)
        .def_property_readonly("settings", &Object::settings)
        .def("set_settings", &Object::set_settings, py::arg("settings").noconvert(),
             py::arg("program"), py::arg("targets"), py::arg("changes") = py::none())
        .def("set_numbers", &Object::set_numbers, py::arg("targets"), py::arg("numbers"))
        .def("load", &Object::load, py::kw_only(), py::arg("updates"), py::arg("attempted"),
             py::arg("applied"), py::arg("accumulated"), py::arg("settings").noconvert(),
             py::arg("program"), py::arg("targets"), py::arg("nonfinite"),
             py::arg("arrays") = py::list(), py::arg("changes") = py::none(),
             py::arg("values") = CheckedPlan::Values())
        .def("set_accumulators", &Object::set_accumulators, py::arg("arrays"),
             py::arg("takes_rows") = false)
        .def("fetch", &Object::fetch, py::arg("path"), py::arg("rows"))
        .def("flush", &Object::flush)
        .def_property("history", &Object::history, &Object::set_history)
        .def("discard_accumulated", &Object::discard_accumulated)
        .def_property_readonly("accumulated", &Object::accumulated)
        .def_property_readonly("accumulated_samples", &Object::accumulated_samples)
        .def_property("nonfinite", &Object::nonfinite, &Object::set_nonfinite)
        .def_property_readonly("updates", &Object::updates)
        .def_property_readonly("values", &Object::values)
        .def_property_readonly("attempted", &Object::attempted)
        .def_property_readonly("applied", &Object::applied)
        // most steps: pybind11 takes up to five arguments without allocating
        .def(
            "step",
            [](Object& plan, py::handle gradients, double grad_scale, py::handle clock) {
                return plan.step(gradients, grad_scale, clock, false, py::none(), py::none(),
                                 py::none());
            },
            py::arg("gradients"), py::arg("grad_scale"), py::arg("clock"))
        .def("step", &Object::step, py::arg("gradients"), py::arg("grad_scale"), py::arg("clock"),
             py::arg("take_norm") = false, py::arg("changes") = py::none(),
             py::arg("learn") = py::none(), py::arg("squared_norm") = py::none())
        .def("begin_parts", &Object::begin_parts, py::arg("gradients"), py::arg("grad_scale"),
             py::arg("clock"), py::arg("take_norm") = false, py::arg("changes") = py::none(),
             py::arg("squared_norm") = py::none())
        .def("update_part", &Object::update_part, py::arg("end"))
        .def("cancel_parts", &Object::cancel_parts)
        .def_property_readonly("size", &Object::size)
        .def("in_place",
             [](const py::object& self, const py::object& values) {
                 Object& plan = self.cast<Object&>();
                 return std::make_unique<InPlace>(
                     self, [&plan, values] { plan.put_in_place(values); },
                     [&plan] { plan.take_back(); });
             })
        .def_property_readonly("is_in_place", &Object::is_in_place)
        .def("accumulate", &Object::accumulate, py::arg("gradients"), py::arg("samples"))
        .def("prepare_replays", &Object::prepare_replays, py::arg("steps"), py::arg("clocks"),
             py::arg("grad_scale"))
        .def("refuse_capture", &Object::refuse_capture, py::arg("call"))
        .def_property_readonly("is_captured", &Object::is_captured)
        .def_property_readonly("takes_foreign",
                               [](const Object&) { return Object::kTakesForeign; });
}

}  // namespace fusestep
