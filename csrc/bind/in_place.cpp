#include "in_place.h"

#include <utility>

namespace fusestep {

namespace py = pybind11;

InPlace::InPlace(py::object owner, std::function<void()> put, std::function<void()> take_back)
    : owner_(std::move(owner)), put_(std::move(put)), take_back_(std::move(take_back)) {}

InPlace::~InPlace() {
    try {
        exit();
    } catch (py::error_already_set& error) {
        error.discard_as_unraisable("averaged_in_place");
    } catch (const std::exception&) {  // a parameter has lost its memory: there is nobody to tell
    }
}

void InPlace::enter() {
    put_();
    is_inside_ = true;
}

void InPlace::exit() {
    if (std::exchange(is_inside_, false)) take_back_();
}

void register_in_place(py::module_& module) {
    py::class_<InPlace>(module, "InPlace")
        .def("__enter__", &InPlace::enter)
        .def("__exit__", [](InPlace& self, const py::args&) { self.exit(); });
}

}  // namespace fusestep
