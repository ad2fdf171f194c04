// Tensors of a library that keeps each gradient beside its parameter and the state of an optimizer
// in tensors too: whether they are where a plan has them, and where the gradients are.
#include <pybind11/stl.h>

#include <algorithm>
#include <cstdint>

#include "arrays.h"
#include "exchange.h"

namespace fusestep {
namespace {

class Tensors {
 public:
    // Parameters, the state tensors of each, a tensor of one element for each that counts its
    // updates, or None, and the counts; tensors that have no gradient; and what keeps the memory of
    // states and counts where their tensors are given other memory.
    Tensors(const py::list& parameters, const py::list& states, const py::list& counters,
            std::vector<std::int64_t> updates, const py::list& idle, const py::list& kept)
        : updates_(std::move(updates)), idle_(idle), kept_(kept) {
        std::size_t elements = 0;
        const std::size_t count = py::len(parameters);
        if (py::len(states) != count || py::len(counters) != count || updates_.size() != count) {
            throw py::value_error("expected one entry for each parameter");
        }
        for (std::size_t i = 0; i < count; ++i) {
            const std::string name = parameter_name(std::to_string(i));
            parameters_.push_back(held(name, parameters[i]));
            elements += parameters_.back().view.size;
            for (const py::handle state : py::list(states[i])) {
                states_.push_back(held(name + " state", state));
            }
            counters_.emplace_back();
            const py::object counter = counters[i];
            if (counter.is_none()) continue;
            counters_.back() = held(name + " count", counter);
            if (counters_.back().view.size != 1) {
                throw py::value_error(name + " count must have one element");
            }
            states_.push_back(counters_.back());
        }
        looks_ = std::min(states_.size(), std::max(kLooks, elements / kElementsPerLook));
    }

    // The gradient of each parameter, None where there is none; or None if anything is elsewhere, a
    // count was changed, or an idle tensor has a gradient. Looks at everything, but where a model
    // has many small tensors at the memory of states in turn.
    py::object gradients() {
        py::list found(parameters_.size());
        for (std::size_t i = 0; i < parameters_.size(); ++i) {
            if (!is_there(parameters_[i])) return py::none();
            if (counters_[i].tensor && !has_count(i)) return py::none();
            PyList_SET_ITEM(found.ptr(), static_cast<Py_ssize_t>(i),
                            gradient_of(parameters_[i].tensor).release().ptr());
        }
        for (std::size_t count = looks_; count > 0; --count) {
            if (next_ >= states_.size()) next_ = 0;
            if (!is_there(states_[next_++])) return py::none();
        }
        for (const py::handle tensor : idle_) {
            if (!gradient_of(tensor).is_none()) return py::none();
        }
        return found;
    }

    // Which of these gradients a step can't read as they are.
    std::vector<std::size_t> unfit(const py::list& gradients) const {
        require_count(gradients);
        std::vector<std::size_t> found;
        for (std::size_t i = 0; i < parameters_.size(); ++i) {
            const py::object gradient = gradients[i];
            if (gradient.is_none() || find_gradient(gradient, parameters_[i].view)) continue;
            found.push_back(i);
        }
        return found;
    }

    // Counts an update of each parameter for which there is a gradient in the list; returns how
    // many.
    std::size_t count(const py::list& gradients) {
        require_count(gradients);
        std::size_t counted = 0;
        for (std::size_t i = 0; i < parameters_.size(); ++i) {
            if (py::handle(PyList_GET_ITEM(gradients.ptr(), static_cast<Py_ssize_t>(i))).is_none())
                continue;
            ++updates_[i];
            ++counted;
            if (!counters_[i].tensor) continue;
            const ArrayView& view = counters_[i].view;
            const auto count = static_cast<double>(updates_[i]);
            if (view.type == kFloat32) {
                *static_cast<float*>(view.data) = static_cast<float>(count);
            } else {
                *static_cast<double*>(view.data) = count;
            }
        }
        return counted;
    }

 private:
    struct Held {
        py::object tensor;
        ArrayView view;
        std::vector<py::ssize_t> extents;
    };

    static Held held(const std::string& name, py::handle tensor) {
        Held held;
        held.tensor = py::reinterpret_borrow<py::object>(tensor);
        held.view = check_writeable({}, name, tensor, held.extents);
        held.view.extents = held.extents.data();  // moves with the vector
        return held;
    }

    static bool is_there(const Held& held) { return is_unchanged(held.tensor, held.view); }

    void require_count(const py::list& gradients) const {
        if (gradients.size() == parameters_.size()) return;
        throw py::value_error("expected one gradient for each parameter");
    }

    static py::object gradient_of(py::handle tensor) {
        static PyObject* const name = PyUnicode_InternFromString("grad");
        PyObject* const gradient = PyObject_GetAttr(tensor.ptr(), name);
        if (gradient == nullptr) throw py::error_already_set();
        return py::reinterpret_steal<py::object>(gradient);
    }

    // Counts beyond 2^24 do not change in float32.
    bool has_count(std::size_t i) const {
        const Held& counter = counters_[i];
        const auto count = static_cast<double>(updates_[i]);
        return counter.view.type == kFloat32
                   ? *static_cast<const float*>(counter.view.data) == static_cast<float>(count)
                   : *static_cast<const double*>(counter.view.data) == count;
    }

    // How much of a step's work is worth a look at one more state.
    static constexpr std::size_t kElementsPerLook = 512;
    static constexpr std::size_t kLooks = 16;  // that every step takes

    std::vector<Held> parameters_;
    std::vector<Held> counters_;  // without a tensor where nothing counts
    std::vector<Held> states_;    // of all parameters, the counters among them
    std::size_t looks_ = 0;       // at states in a step
    std::size_t next_ = 0;        // the one to look at
    std::vector<std::int64_t> updates_;
    py::list idle_;
    py::list kept_;
};

}  // namespace

void register_tensors(py::module_& module) {
    py::class_<Tensors>(module, "Tensors")
        .def(py::init<const py::list&, const py::list&, const py::list&, std::vector<std::int64_t>,
                      const py::list&, const py::list&>(),
             py::kw_only(), py::arg("parameters"), py::arg("states"), py::arg("counters"),
             py::arg("updates"), py::arg("idle"), py::arg("kept"))
        .def("gradients", &Tensors::gradients)
        .def("unfit", &Tensors::unfit, py::arg("gradients"))
        .def("count", &Tensors::count, py::arg("gradients"));
}

}  // namespace fusestep
