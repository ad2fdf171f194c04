#include <pybind11/pybind11.h>

#include "arrays.h"

namespace fusestep {
void register_commit(pybind11::module_& module);
void register_data(pybind11::module_& module);
void register_runtime(pybind11::module_& module);
void register_plan(pybind11::module_& module);
void register_device_plan(pybind11::module_& module);
void register_program(pybind11::module_& module);
}  // namespace fusestep

PYBIND11_MODULE(_core, module) {
    module.doc() = "The native part of fusestep. Its names are private; use those of the package.";
    pybind11::register_exception<fusestep::StateError>(module, "StateError", PyExc_RuntimeError)
        .attr("__doc__") =
        "An object is in the wrong state for a call: nothing bound, or a state of another "
        "optimizer.";
    fusestep::register_runtime(module);
    fusestep::register_commit(module);
    fusestep::register_data(module);
    fusestep::register_program(module);
    fusestep::register_plan(module);
    fusestep::register_device_plan(module);
}
