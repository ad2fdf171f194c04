#include "targets.h"

#include <utility>

#include "arrays.h"

namespace fusestep {

void Targets::set(const py::object& program, const py::list& targets,
                  std::initializer_list<py::array_t<double>*> arrays) {
    std::vector<Target> taken;
    for (const py::handle entry : targets) {
        const py::tuple fields = py::reinterpret_borrow<py::tuple>(entry);
        py::array_t<double>& array = **(arrays.begin() + (fields[0].cast<int>() != 0));
        const py::ssize_t at = fields[1].cast<py::ssize_t>();
        if (at < 0 || at >= array.size()) throw py::value_error("no such place");
        taken.push_back({array.mutable_data() + at, fields[2].cast<std::string>(),
                         fields[3].cast<double>(), fields[4].cast<double>(), fields[5].cast<bool>(),
                         fields[6].cast<std::string>()});
    }
    ProgramObject* const compiled = program.is_none() ? nullptr : program.cast<ProgramObject*>();
    if ((compiled == nullptr ? 0 : compiled->outputs()) != taken.size()) {
        throw py::value_error("expected one target for each output");
    }
    kept_ = program;
    program_ = compiled;
    values_.resize(taken.size());
    targets_ = std::move(taken);
}

void Targets::follow(py::handle given, std::int64_t applied) {
    if (program_ == nullptr && given.is_none()) return;
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
    if (program_ == nullptr) return;
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
    for (std::size_t i = 0; i < targets_.size(); ++i) *targets_[i].place = values_[i];
}

}  // namespace fusestep
