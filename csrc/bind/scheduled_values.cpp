#include "scheduled_values.h"

#include <pybind11/stl.h>

#include <utility>

#include "arrays.h"

namespace fusestep {

ScheduledValues::ScheduledValues(const py::object& program, std::vector<Target> targets,
                                 std::vector<double>& table, std::size_t columns)
    : kept_(program),
      program_(program.is_none() ? nullptr : program.cast<ProgramObject*>()),
      targets_(std::move(targets)),
      values_(targets_.size()) {
    for (const Target& target : targets_) {
        const std::size_t at = target.group * columns + target.column;
        if (target.column >= columns || target.group >= table.size() / columns) {
            throw py::value_error("no such place");
        }
        places_.push_back(table.data() + at);
    }
    if ((program_ == nullptr ? 0 : program_->outputs()) != targets_.size()) {
        throw py::value_error("expected one target for each output");
    }
}

std::optional<Clock> read_clock(py::handle given) {
    if (given.is_none()) return std::nullopt;
    if (!PyTuple_Check(given.ptr()) || PyTuple_GET_SIZE(given.ptr()) != kClockInputs) {
        throw py::type_error("clock must be a fusestep.Clock, not " +
                             py::repr(given).cast<std::string>());
    }
    Clock clock;
    for (int i = 0; i < kClockInputs; ++i) {
        clock.input[i] = clock_number(i, PyTuple_GET_ITEM(given.ptr(), i));
    }
    return clock;
}

void ScheduledValues::follow(const std::optional<Clock>& given, std::int64_t applied) {
    if (program_ == nullptr) return;
    Clock clock = given.value_or(Clock{{-1.0, -1.0, -1.0, -1.0}});
    if (clock.input[kStep] < 0.0) clock.input[kStep] = static_cast<double>(applied);
    program_->check(clock, "a schedule of this optimizer", "clock=fusestep.Clock(");
    program_->run(clock, values_.data());
    for (std::size_t i = 0; i < targets_.size(); ++i) {
        if (targets_[i].accepts(values_[i])) continue;
        throw py::value_error(targets_[i].name + " must be " + targets_[i].expected +
                              ", but its schedule gives " + number_text(values_[i]) + " at step " +
                              std::to_string(static_cast<long long>(clock.input[kStep])) +
                              "; nothing was updated");
    }
    // the values replaced are kept for undo()
    undo();
}

void ScheduledValues::undo() {
    for (std::size_t i = 0; i < targets_.size(); ++i) std::swap(*places_[i], values_[i]);
}

void register_target(py::module_& module) {
    py::class_<Target>(module, "Target")
        .def(py::init([](std::size_t group, std::size_t column, std::string name, double lower,
                         double upper, bool below_upper, double smallest, std::string expected) {
                 return Target{group, column,      std::move(name), lower,
                               upper, below_upper, smallest,        std::move(expected)};
             }),
             py::kw_only(), py::arg("group"), py::arg("column"), py::arg("name"), py::arg("lower"),
             py::arg("upper"), py::arg("below_upper"), py::arg("smallest"), py::arg("expected"));
    py::class_<Targets>(module, "Targets")
        .def(py::init([](std::vector<Target> all) { return Targets{std::move(all)}; }),
             py::arg("targets"));
}

}  // namespace fusestep
