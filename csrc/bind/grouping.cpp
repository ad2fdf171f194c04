// Equal numbers brought together, as Python sees it.
#include "../runtime/grouping.h"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <limits>
#include <vector>

namespace fusestep {
namespace {

namespace py = pybind11;

template <class Id>
py::tuple unique_of(const py::array& ids) {
    const auto n = static_cast<std::size_t>(ids.size());
    const Id* const data = static_cast<const Id*>(ids.data());
    py::array_t<std::ptrdiff_t> inverse(
        std::vector<py::ssize_t>(ids.shape(), ids.shape() + ids.ndim()));
    std::ptrdiff_t* const written = inverse.mutable_data();
    Grouping grouping;
    {
        const py::gil_scoped_release unlocked;
        grouping.group(data, n);
        grouping.write_inverse(written);
    }
    py::array_t<Id> unique(static_cast<py::ssize_t>(grouping.count()));
    std::transform(grouping.ids(), grouping.ids() + grouping.count(), unique.mutable_data(),
                   [](std::int64_t id) { return static_cast<Id>(id); });
    return py::make_tuple(unique, inverse);
}

py::tuple unique_rows(const py::array& ids) {
    constexpr int needed = py::array::c_style | py::detail::npy_api::NPY_ARRAY_ALIGNED_;
    const bool is_int32 = py::isinstance<py::array_t<std::int32_t>>(ids);
    if ((ids.flags() & needed) != needed ||
        (!is_int32 && !py::isinstance<py::array_t<std::int64_t>>(ids))) {
        throw py::type_error("ids must be contiguous and aligned, int32 or int64");
    }
    if (static_cast<std::uint64_t>(ids.size()) > std::numeric_limits<std::uint32_t>::max()) {
        throw py::value_error("ids must hold fewer than 2^32 numbers");
    }
    return is_int32 ? unique_of<std::int32_t>(ids) : unique_of<std::int64_t>(ids);
}

}  // namespace

void register_grouping(py::module_& module) {
    module.def("unique_rows", &unique_rows, py::arg("ids"));
}

}  // namespace fusestep
