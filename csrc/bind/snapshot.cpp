// Containers as they were: whether they hold the same objects still, without Python code.
#include <pybind11/pybind11.h>

#include <vector>

namespace py = pybind11;

namespace fusestep {
namespace {

// A dict or a list, and the dicts and lists in it, whose entries are compared by identity and in
// their order. Whatever is inside those is not looked at.
class Snapshot {
 public:
    explicit Snapshot(const py::object& container) {
        add(container);
        const std::size_t outer = entries_.size();
        for (std::size_t i = 0; i < outer; ++i) {
            const py::object value = entries_[i].value;
            if (is_container(value.ptr())) add(value);
        }
    }

    bool is_current() const {
        const Entry* expected = entries_.data();
        for (const Container& container : containers_) {
            if (!holds(container, expected)) return false;
            expected += container.size;
        }
        return true;
    }

 private:
    struct Container {
        py::object object;
        bool is_dict;
        std::size_t size;
    };
    struct Entry {
        py::object key;  // nothing in a list
        py::object value;
    };

    static bool is_container(PyObject* object) {
        return PyDict_Check(object) || PyList_Check(object);
    }

    void add(const py::object& container) {
        const std::size_t before = entries_.size();
        const bool is_dict = PyDict_Check(container.ptr());
        if (is_dict) {
            for (const auto& [key, value] : py::reinterpret_borrow<py::dict>(container)) {
                entries_.push_back({py::reinterpret_borrow<py::object>(key),
                                    py::reinterpret_borrow<py::object>(value)});
            }
        } else {
            for (const py::handle value : py::reinterpret_borrow<py::list>(container)) {
                entries_.push_back({py::object(), py::reinterpret_borrow<py::object>(value)});
            }
        }
        containers_.push_back({container, is_dict, entries_.size() - before});
    }

    // Python code of another thread may change the container meanwhile: only where there is a GIL
    // does nothing run in between.
    static bool holds(const Container& container, const Entry* expected) {
        PyObject* const object = container.object.ptr();
        bool is_same = true;
#ifdef Py_GIL_DISABLED
        Py_BEGIN_CRITICAL_SECTION(object);
#endif
        is_same = container.is_dict ? holds_in_dict(object, container.size, expected)
                                    : holds_in_list(object, container.size, expected);
#ifdef Py_GIL_DISABLED
        Py_END_CRITICAL_SECTION();
#endif
        return is_same;
    }

    static bool holds_in_dict(PyObject* dict, std::size_t size, const Entry* expected) {
        if (static_cast<std::size_t>(PyDict_Size(dict)) != size) return false;
        Py_ssize_t at = 0;
        PyObject* key = nullptr;
        PyObject* value = nullptr;
        for (; PyDict_Next(dict, &at, &key, &value); ++expected) {
            if (key != expected->key.ptr() || value != expected->value.ptr()) return false;
        }
        return true;
    }

    static bool holds_in_list(PyObject* list, std::size_t size, const Entry* expected) {
        if (static_cast<std::size_t>(PyList_GET_SIZE(list)) != size) return false;
        for (std::size_t i = 0; i < size; ++i) {
            PyObject* const value = PyList_GET_ITEM(list, static_cast<Py_ssize_t>(i));
            if (value != expected[i].value.ptr()) return false;
        }
        return true;
    }

    std::vector<Container> containers_;  // the outer one first
    std::vector<Entry> entries_;         // of each in turn
};

}  // namespace

void register_snapshot(py::module_& module) {
    py::class_<Snapshot>(module, "Snapshot")
        .def(py::init<const py::object&>(), py::arg("container"))
        .def("is_current", &Snapshot::is_current);
}

}  // namespace fusestep
