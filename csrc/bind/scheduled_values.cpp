#include "scheduled_values.h"

#include <utility>

#include "arrays.h"

namespace fusestep {

ScheduledValues::ScheduledValues(const py::object& program, const py::list& targets,
                                 std::initializer_list<std::vector<double>*> tables)
    : kept_(program), program_(program.is_none() ? nullptr : program.cast<ProgramObject*>()) {
    for (const py::handle entry : targets) {
        const py::tuple fields = entry.cast<py::tuple>();
        std::vector<double>& table = **(tables.begin() + (fields[0].cast<int>() != 0));
        const std::size_t at = fields[1].cast<std::size_t>();
        if (at >= table.size()) throw py::value_error("no such place");
        scheduled_.push_back({table.data() + at, fields[2].cast<std::string>(),
                              fields[3].cast<double>(), fields[4].cast<double>(),
                              fields[5].cast<bool>(), fields[6].cast<double>(),
                              fields[7].cast<std::string>()});
    }
    if ((program_ == nullptr ? 0 : program_->outputs()) != scheduled_.size()) {
        throw py::value_error("expected one target for each output");
    }
    values_.resize(scheduled_.size());
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
    for (std::size_t i = 0; i < scheduled_.size(); ++i) {
        if (scheduled_[i].accepts(values_[i])) continue;
        throw py::value_error(scheduled_[i].name + " must be " + scheduled_[i].expected +
                              ", but its schedule gives " + number_text(values_[i]) + " at step " +
                              std::to_string(static_cast<long long>(clock.input[kStep])) +
                              "; nothing was updated");
    }
    // the values replaced are kept for undo()
    undo();
}

void ScheduledValues::undo() {
    for (std::size_t i = 0; i < scheduled_.size(); ++i) std::swap(*scheduled_[i].place, values_[i]);
}

}  // namespace fusestep
