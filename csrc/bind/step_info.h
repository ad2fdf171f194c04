// What a step reports: a named tuple made in C, since a step of a small model takes a microsecond.
#pragma once
#include <pybind11/pybind11.h>

#include "../runtime/plan.h"

namespace fusestep {

void register_step_info(pybind11::module_& module);
pybind11::object step_info(double lr, const StepResult& result);

}  // namespace fusestep
