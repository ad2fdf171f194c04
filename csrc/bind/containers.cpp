#include "containers.h"

#include <algorithm>
#include <unordered_map>

#include "arrays.h"

namespace fusestep {
namespace {

// Whether it looks up as the class itself does, which takes no Python code.
bool looks_up_as(py::handle container, PyTypeObject& type) {
    const auto lookup = [](py::handle owner) { return py::getattr(owner, "__getitem__"); };
    const py::handle own(reinterpret_cast<PyObject*>(Py_TYPE(container.ptr())));
    const py::handle plain(reinterpret_cast<PyObject*>(&type));
    return PyType_IsSubtype(Py_TYPE(container.ptr()), &type) && lookup(own).is(lookup(plain));
}

bool is_plain(PyObject* key) { return PyUnicode_CheckExact(key) || PyLong_CheckExact(key); }

// What stands there now, or nothing.
py::object present(PyObject* container, PyObject* key, py::ssize_t index) {
#if PY_VERSION_HEX >= 0x030D0000
    PyObject* found = nullptr;
    if (index < 0) {
        if (PyDict_GetItemRef(container, key, &found) < 0) PyErr_Clear();
    } else {
        found = PyList_GetItemRef(container, index);
        if (found == nullptr) PyErr_Clear();
    }
    return py::reinterpret_steal<py::object>(found);
#else
    if (index < 0) {
        PyObject* const found = PyDict_GetItemWithError(container, key);
        if (found == nullptr) PyErr_Clear();
        return py::reinterpret_borrow<py::object>(found);
    }
    return index < PyList_GET_SIZE(container)
               ? py::reinterpret_borrow<py::object>(PyList_GET_ITEM(container, index))
               : py::object();
#endif
}

}  // namespace

std::string replaced_message(const std::string& parameter) {
    return parameter + " is not the array that this optimizer updates: assign in place (" +
           parameter +
           "[...] = value), or opt.rebind(params) to go on with other arrays. Nothing "
           "was updated";
}

Containers::Containers(const py::list& entries, const py::tuple& parameters,
                       const std::vector<std::string>& paths) {
    std::unordered_map<PyObject*, std::string> prefixes, names;
    for (std::size_t i = 0; i < paths.size(); ++i)
        names[py::object(parameters[i]).ptr()] = paths[i];
    for (const py::handle given : entries) {
        const py::tuple fields = given.cast<py::tuple>();
        const py::object container = fields[0], key = fields[1], object = fields[2];
        const auto known = names.find(object.ptr());
        const std::string path = known != names.end()
                                     ? known->second
                                     : prefixes[container.ptr()] + py::str(key).cast<std::string>();
        prefixes[object.ptr()] = path + "/";
        if (looks_up_as(container, PyDict_Type) && is_plain(key.ptr())) {
            entries_.push_back({container, key, -1, object, path});
        } else if (looks_up_as(container, PyList_Type)) {
            entries_.push_back({container, key, key.cast<py::ssize_t>(), object, path});
        }
    }
}

void Containers::look(std::size_t count) {
    for (count = std::min(count, entries_.size()); count > 0; --count) {
        if (next_ >= entries_.size()) next_ = 0;
        check(entries_[next_]);
        ++next_;
    }
}

void Containers::check(const Entry& entry) const {
    const py::object found = present(entry.container.ptr(), entry.key.ptr(), entry.index);
    if (found.is(entry.object)) return;
    throw StateError(replaced_message(parameter_name(entry.path)));
}

}  // namespace fusestep
