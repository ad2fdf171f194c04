// What several processes add, as Python sees it.
#include "../runtime/tree.h"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>
#include <vector>

#include "../runtime/walks.h"

namespace fusestep {
namespace {

namespace py = pybind11;

struct Terms {
    DataType type;
    std::size_t count;
    const void* data;
};

// Elements side by side, in any dimensions.
Terms terms_of(py::handle object) {
    if (!py::isinstance<py::array>(object)) throw py::type_error("terms must be arrays of NumPy");
    const auto array = py::reinterpret_borrow<py::array>(object);
    const bool is_float32 = py::isinstance<py::array_t<float>>(array);
    constexpr int needed = py::array::c_style | py::detail::npy_api::NPY_ARRAY_ALIGNED_;
    if ((array.flags() & needed) != needed ||
        (!is_float32 && !py::isinstance<py::array_t<double>>(array))) {
        throw py::type_error("terms must be contiguous and aligned, float32 or float64");
    }
    return {is_float32 ? kFloat32 : kFloat64, static_cast<std::size_t>(array.size()), array.data()};
}

void check_additions(const std::vector<int>& additions, std::size_t arrays) {
    std::size_t height = 0;
    for (const int step : additions) {
        if (step == kAdd ? height < 2 : step < 0 || static_cast<std::size_t>(step) >= arrays) {
            throw py::value_error("additions must be a sum of the arrays in postfix form");
        }
        step == kAdd ? --height : ++height;
        if (height > kDeepest) throw py::value_error("additions are nested too deeply");
    }
    if (height != 1) throw py::value_error("additions must leave one sum");
}

void add_arrays(const std::vector<py::object>& arrays, const std::vector<int>& additions,
                py::array target) {
    const Terms sum = terms_of(target);
    std::vector<const void*> data;
    for (const py::object& array : arrays) {
        const Terms terms = terms_of(array);
        if (terms.type != sum.type || terms.count != sum.count) {
            throw py::value_error("arrays and target must be of one size and dtype");
        }
        data.push_back(terms.data);
    }
    check_additions(additions, arrays.size());
    void* const written = target.mutable_data();
    const py::gil_scoped_release release;
    add_along(sum.type, sum.count, data, additions, written);
}

py::array_t<double> block_sums(const py::object& array, double scale) {
    const Terms terms = terms_of(array);
    py::array_t<double> sums(static_cast<py::ssize_t>(divide_up(terms.count, kBlock)));
    double* const written = sums.mutable_data();
    {
        const py::gil_scoped_release release;
        sum_blocks(terms.type, terms.count, terms.data, scale, written);
    }
    return sums;
}

double add_block_sums(const py::array_t<double, py::array::c_style>& sums) {
    std::vector<double> left(sums.data(), sums.data() + sums.size());
    return add_sums(left.data(), left.size());
}

}  // namespace

void register_tree(py::module_& module) {
    module.attr("BLOCK") = static_cast<int>(kBlock);
    module.def("add_arrays", &add_arrays, py::arg("arrays"), py::arg("additions"),
               py::arg("target"));
    module.def("block_sums", &block_sums, py::arg("array"), py::arg("scale") = 1.0);
    module.def("add_block_sums", &add_block_sums, py::arg("sums"));
    module.def("scale_for", &scale_for, py::arg("sum"));
}

}  // namespace fusestep
