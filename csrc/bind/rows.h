// A gradient that holds some rows of its parameter alone, as Python holds it: fusestep.Rows.
#pragma once
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <string>
#include <vector>

#include "../runtime/touched_rows.h"
#include "arrays.h"

namespace fusestep {

// Arrays of NumPy, which nobody can exchange: checked when it is built, but for what they hold.
class Rows {
 public:
    Rows(const py::object& indices, const py::object& values, const py::object& shape);

    const py::object& indices() const { return indices_; }
    const py::object& values() const { return values_; }
    py::tuple shape() const;

    // Throws where an array has been resized since.
    RowNumbers numbers() const;
    const void* data() const { return view_.data; }
    DataType type() const { return view_.type; }
    std::size_t bytes() const { return view_.size * item_size(view_.type); }
    bool has_shape_of(const ArrayView& parameter) const;

 private:
    py::object indices_;
    py::object values_;
    RowNumbers numbers_;
    ArrayView view_;
    std::vector<py::ssize_t> shape_;
};

// What an object is if it is one of these, else nullptr.
const Rows* as_rows(py::handle object);

// Numbers of rows in an array of int32 or int64; throws what is wrong, naming it.
RowNumbers row_numbers(const std::string& name, py::handle array);

// Throws IndexError unless all of them are inside: so many from the first on are among the rows.
void require_inside(const std::string& name, const RowNumbers& numbers, std::size_t inside,
                    std::size_t rows, const std::string& parameter);

}  // namespace fusestep
