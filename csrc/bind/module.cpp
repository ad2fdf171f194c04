#include <pybind11/pybind11.h>

#include "arrays.h"

namespace fusestep {
void register_arrays(pybind11::module_& module);
void register_commit(pybind11::module_& module);
void register_data(pybind11::module_& module);
void register_grouping(pybind11::module_& module);
void register_in_place(pybind11::module_& module);
void register_launch(pybind11::module_& module);
void register_orders(pybind11::module_& module);
void register_rows(pybind11::module_& module);
void register_runtime(pybind11::module_& module);
void register_cpu_plan(pybind11::module_& module);
void register_cuda_plan(pybind11::module_& module);
void register_program(pybind11::module_& module);
void register_snapshot(pybind11::module_& module);
void register_target(pybind11::module_& module);
void register_tensors(pybind11::module_& module);
void register_tree(pybind11::module_& module);
}  // namespace fusestep

// NumPy supports the main interpreter alone, and pybind11 would wait for ever for its GIL in
// another. From Python 3.13 on the first function is called in the main interpreter in any case, so
// the second asks, too.
static constexpr const char* kMainOnly =
    "fusestep can be imported in the main interpreter only: start a process in place of a child "
    "interpreter";

static bool is_child_interpreter() { return PyInterpreterState_Get() != PyInterpreterState_Main(); }

// The function that pybind11 defines: Python calls ours first.
#define PyInit__core init_core
PYBIND11_MODULE(_core, module, pybind11::mod_gil_not_used()) {
    if (is_child_interpreter()) throw pybind11::import_error(kMainOnly);
    module.doc() = "The native part of fusestep. Its names are private; use those of the package.";
    pybind11::register_exception<fusestep::StateError>(module, "StateError", PyExc_RuntimeError)
        .attr("__doc__") =
        "An object is in the wrong state for a call: nothing bound, or a state of another "
        "optimizer.";
    fusestep::register_arrays(module);
    fusestep::register_rows(module);
    fusestep::register_runtime(module);
    fusestep::register_commit(module);
    fusestep::register_data(module);
    fusestep::register_grouping(module);
    fusestep::register_orders(module);
    fusestep::register_program(module);
    fusestep::register_snapshot(module);
    fusestep::register_target(module);
    fusestep::register_tensors(module);
    fusestep::register_in_place(module);
    fusestep::register_cpu_plan(module);
    fusestep::register_cuda_plan(module);
    fusestep::register_launch(module);
    fusestep::register_tree(module);
}
#undef PyInit__core

extern "C" PYBIND11_EXPORT PyObject* PyInit__core() {
    if (is_child_interpreter()) {
        PyErr_SetString(PyExc_ImportError, kMainOnly);
        return nullptr;
    }
    return init_core();
}
