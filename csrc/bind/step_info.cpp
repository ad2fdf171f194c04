#include "step_info.h"

namespace fusestep {

namespace py = pybind11;

namespace {

PyTypeObject* step_info_type = nullptr;

}  // namespace

void register_step_info(py::module_& module) {
    static PyStructSequence_Field fields[] = {
        {"lr", "learning rate of the first group in this step"},
        {"grad_norm", "norm of all gradients before clipping, or None where nothing asked for it"},
        {"applied", "False if the step was skipped for a non-finite gradient"},
        {nullptr, nullptr}};
    static PyStructSequence_Desc description = {"fusestep.StepInfo", "What one step did.", fields,
                                                3};
    step_info_type = PyStructSequence_NewType(&description);
    if (step_info_type == nullptr) throw py::error_already_set();
    module.attr("StepInfo") =
        py::reinterpret_borrow<py::object>(reinterpret_cast<PyObject*>(step_info_type));
}

py::object step_info(double lr, const StepResult& result) {
    PyObject* info = PyStructSequence_New(step_info_type);
    if (info == nullptr) throw py::error_already_set();
    PyStructSequence_SetItem(info, 0, PyFloat_FromDouble(lr));
    PyStructSequence_SetItem(
        info, 1,
        result.has_norm ? PyFloat_FromDouble(result.grad_norm) : py::none().release().ptr());
    PyStructSequence_SetItem(info, 2, py::bool_(result.applied).release().ptr());
    return py::reinterpret_steal<py::object>(info);
}

}  // namespace fusestep
