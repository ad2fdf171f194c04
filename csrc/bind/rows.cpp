#include "rows.h"

#include <pybind11/stl.h>

#include <algorithm>

namespace fusestep {

RowNumbers row_numbers(const std::string& name, py::handle object) {
    if (!py::isinstance<py::array>(object)) {
        throw py::type_error(
            name + " must be a numpy.ndarray of int32 or int64, not " +
            py::str(py::type::handle_of(object).attr("__name__")).cast<std::string>());
    }
    const auto array = py::reinterpret_borrow<py::array>(object);
    const bool is_wide = array.dtype().equal(py::dtype::of<std::int64_t>());
    if (!is_wide && !array.dtype().equal(py::dtype::of<std::int32_t>())) {
        throw py::type_error(name + " must be of int32 or int64 in native byte order, not " +
                             py::str(array.dtype()).cast<std::string>());
    }
    if (array.ndim() != 1) {
        throw py::value_error(name + " must have one dimension, not " +
                              std::to_string(array.ndim()));
    }
    constexpr int kWanted =
        py::detail::npy_api::NPY_ARRAY_C_CONTIGUOUS_ | py::detail::npy_api::NPY_ARRAY_ALIGNED_;
    if ((array.flags() & kWanted) != kWanted) {
        throw py::value_error(name + " must be C-contiguous and aligned: pass " +
                              "numpy.ascontiguousarray(...)");
    }
    const auto count = static_cast<std::size_t>(array.size());
    if (count > TouchedRows::kMost) {
        throw py::value_error(name + " must be at most 2^32 - 1, not " + std::to_string(count));
    }
    return {array.data(), is_wide, count};
}

void require_inside(const std::string& name, const RowNumbers& numbers, std::size_t inside,
                    std::size_t rows, const std::string& parameter) {
    if (inside == numbers.count) return;
    throw py::index_error(name + "[" + std::to_string(inside) + "] is " +
                          std::to_string(numbers[inside]) + ", " + parameter + " has " +
                          std::to_string(rows) + " rows: must be at least 0 and less than that");
}

Rows::Rows(const py::object& indices, const py::object& values, const py::object& shape)
    : indices_(indices),
      values_(values),
      numbers_(row_numbers("Rows: indices", indices)),
      view_(check_readable("Rows: values", values)) {
    for (const py::handle extent : shape) shape_.push_back(extent.cast<py::ssize_t>());
    const bool is_good =
        std::all_of(shape_.begin(), shape_.end(), [](py::ssize_t extent) { return extent >= 0; });
    if (shape_.empty() || !is_good) {
        throw py::value_error("Rows: shape must be that of the parameter, (rows, ...), not " +
                              py::repr(shape).cast<std::string>());
    }
    std::vector<py::ssize_t> expected = shape_;
    expected[0] = static_cast<py::ssize_t>(numbers_.count);
    const auto array = py::reinterpret_borrow<py::array>(values);
    if (std::vector<py::ssize_t>(array.shape(), array.shape() + array.ndim()) != expected) {
        throw py::value_error("Rows: values must have shape " +
                              py::str(py::tuple(py::cast(expected))).cast<std::string>() +
                              ", a row of shape[1:] for each index, not " +
                              py::str(values.attr("shape")).cast<std::string>());
    }
}

RowNumbers Rows::numbers() const {
    const auto indices = py::reinterpret_borrow<py::array>(indices_);
    const auto values = py::reinterpret_borrow<py::array>(values_);
    const bool is_same = indices.data() == numbers_.data && values.data() == view_.data &&
                         static_cast<std::size_t>(indices.size()) == numbers_.count &&
                         static_cast<std::size_t>(values.size()) == view_.size;
    if (!is_same) throw py::value_error("Rows: an array has been resized since: build it again");
    return numbers_;
}

py::tuple Rows::shape() const { return py::tuple(py::cast(shape_)); }

bool Rows::has_shape_of(const ArrayView& parameter) const {
    return static_cast<std::size_t>(parameter.dimensions) == shape_.size() &&
           std::equal(shape_.begin(), shape_.end(), parameter.extents);
}

const Rows* as_rows(py::handle object) {
    return py::isinstance<Rows>(object) ? object.cast<const Rows*>() : nullptr;
}

void register_rows(py::module_& module) {
    py::class_<Rows>(module, "Rows")
        .def(py::init<const py::object&, const py::object&, const py::object&>(),
             py::arg("indices"), py::arg("values"), py::arg("shape"))
        .def_property_readonly("indices", &Rows::indices)
        .def_property_readonly("values", &Rows::values)
        .def_property_readonly("shape", &Rows::shape);
}

}  // namespace fusestep
