#include "commit.h"

namespace py = pybind11;

namespace fusestep {

Changes::Changes(py::handle changes) {
    if (changes.is_none()) return;
    for (const py::handle entry : py::reinterpret_borrow<py::iterable>(changes)) {
        const py::tuple fields = entry.cast<py::tuple>();
        changes_.push_back({fields[0], fields[1], fields[2]});
        // the generic lookup finds slots and plain attributes, and runs no Python code
        old_.push_back(py::reinterpret_steal<py::object>(
            PyObject_GenericGetAttr(changes_.back().object.ptr(), changes_.back().name.ptr())));
        if (!old_.back()) throw py::error_already_set();
    }
}

void Changes::apply() {
    for (const Change& change : changes_) {
        if (PyObject_GenericSetAttr(change.object.ptr(), change.name.ptr(), change.value.ptr()) !=
            0) {
            throw py::error_already_set();
        }
    }
}

void register_commit(py::module_& module) {
    module.def(
        "commit",
        [](const py::iterable& changes, py::object result) {
            Changes(changes).apply();
            return result;
        },
        py::arg("changes"), py::arg("result") = py::none());
}

}  // namespace fusestep
