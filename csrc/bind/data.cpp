// The gathering of rows, as Python sees it.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "../data/gather.h"
#include "../runtime/isa.h"

namespace fusestep {
namespace {

namespace py = pybind11;

struct ElementName {
    char kind;
    py::ssize_t size;
    Element element;
};
constexpr ElementName kElementNames[] = {
    {'u', 1, kUint8}, {'i', 1, kInt8},           {'u', 2, kUint16},
    {'i', 2, kInt16}, {'u', 4, kUint32},         {'i', 4, kInt32},
    {'i', 8, kInt64}, {'f', 4, kFloat32Element}, {'f', 8, kFloat64Element},
};

Element element_of(const py::array& source) {
    for (const ElementName& name : kElementNames) {
        if (name.kind == source.dtype().kind() && name.size == source.itemsize() &&
            source.dtype().attr("isnative").cast<bool>()) {
            return name.element;
        }
    }
    throw py::type_error("to_float32 does not know dtype " +
                         py::str(source.dtype()).cast<std::string>());
}

std::size_t row_elements(const py::array& array) {
    return static_cast<std::size_t>(array.size() / std::max<py::ssize_t>(1, array.shape(0)));
}

// Rows of a source may stand apart, but the elements of a row stand side by side.
bool has_whole_rows(const py::array& array) {
    py::ssize_t expected = array.itemsize();
    if (array.size() == 0) return true;
    for (py::ssize_t axis = array.ndim() - 1; axis > 0; --axis) {
        if (array.shape(axis) != 1 && array.strides(axis) != expected) return false;
        expected *= array.shape(axis);
    }
    return true;
}

bool is_aligned(const py::array& array) {
    return (array.flags() & py::detail::npy_api::NPY_ARRAY_ALIGNED_) != 0;
}

py::array array_with_rows(const char* name, py::handle object) {
    if (!py::isinstance<py::array>(object)) {
        throw py::type_error(std::string("a ") + name + " must be an array");
    }
    const auto array = py::reinterpret_borrow<py::array>(object);
    if (array.ndim() == 0) throw py::value_error(std::string("a ") + name + " must have rows");
    return array;
}

// A source, what becomes of its rows (None to copy, or scale and shift to float32), and a target.
RowSource column_of(py::handle object, std::size_t rows, std::uint64_t& count) {
    if (!py::isinstance<py::tuple>(object) || py::len(object) != 3) {
        throw py::type_error("an entry must be (source, None or (scale, shift), target)");
    }
    const py::tuple entry = py::reinterpret_borrow<py::tuple>(object);
    const py::array source = array_with_rows("source", entry[0]);
    py::array target = array_with_rows("target", entry[2]);
    if (source.dtype().attr("hasobject").cast<bool>()) {
        throw py::type_error("rows of Python objects can't be copied as bytes");
    }
    if (!has_whole_rows(source) || !(target.flags() & py::array::c_style) || !target.writeable() ||
        static_cast<std::size_t>(target.shape(0)) < rows ||
        row_elements(target) != row_elements(source)) {
        throw py::value_error("a target must hold the rows of its source, side by side");
    }
    count = static_cast<std::uint64_t>(source.shape(0));
    RowSource column{};
    column.source = static_cast<const char*>(source.data());
    column.stride = source.strides(0);
    column.row_elements = row_elements(source);
    column.item_size = static_cast<std::size_t>(source.itemsize());
    column.target = static_cast<char*>(target.mutable_data());
    if (entry[1].is_none()) {
        if (!source.dtype().equal(target.dtype())) {
            throw py::type_error("a target must have the dtype of its source");
        }
        return column;
    }
    if (!py::isinstance<py::tuple>(entry[1]) || py::len(entry[1]) != 2) {
        throw py::type_error("to_float32 takes (scale, shift)");
    }
    const py::tuple numbers = py::reinterpret_borrow<py::tuple>(entry[1]);
    column.convert = active_kernels().convert[element_of(source)];
    column.scale = numbers[0].cast<float>();
    column.shift = numbers[1].cast<float>();
    if (!py::isinstance<py::array_t<float>>(target)) {
        throw py::type_error("the target of to_float32 must be float32");
    }
    if (!is_aligned(source) || !is_aligned(target)) {
        throw py::value_error("to_float32 needs aligned arrays: copy the source first");
    }
    return column;
}

// A gathering and the arrays it works with.
class PyGathering {
 public:
    template <class Index>
    PyGathering(const py::list& entries, py::array_t<Index> indices)
        : entries_(entries), indices_(indices), n_(static_cast<std::size_t>(indices.size())) {
        if (indices.ndim() != 1 || !(indices.flags() & py::array::c_style) ||
            !is_aligned(indices)) {
            throw py::type_error("indices must be a contiguous array");
        }
        const Index* const rows = indices.data();
        std::vector<RowSource> columns;
        std::uint64_t fewest = std::numeric_limits<std::uint64_t>::max();
        for (const py::handle entry : entries_) {
            std::uint64_t count;
            columns.push_back(column_of(entry, n_, count));
            fewest = std::min(fewest, count);
        }
        for (std::size_t i = 0; i < n_; ++i) {
            if (rows[i] >= fewest) throw py::index_error("no such row");
        }
        gathering_ = std::make_unique<Gathering>(std::move(columns), rows, n_);
    }
    ~PyGathering() {
        const py::gil_scoped_release unlocked;
        gathering_.reset();
    }

    bool has(std::size_t rows) { return rows <= n_ && gathering_->has(rows); }
    void finish(std::size_t rows) {
        if (rows > n_) throw py::index_error("there are fewer rows");
        if (gathering_->has(rows)) return;
        const py::gil_scoped_release unlocked;
        gathering_->finish(rows);
    }

 private:
    py::tuple entries_;
    py::array indices_;
    std::size_t n_;
    std::unique_ptr<Gathering> gathering_;
};

}  // namespace

void register_data(py::module_& module) {
    py::class_<PyGathering>(module, "Gathering")
        .def(py::init<py::list, py::array_t<std::uint32_t>>(), py::arg("entries"),
             py::arg("indices").noconvert())
        .def(py::init<py::list, py::array_t<std::uint64_t>>(), py::arg("entries"),
             py::arg("indices").noconvert())
        .def("has", &PyGathering::has, py::arg("rows"))
        .def("finish", &PyGathering::finish, py::arg("rows"));
}

}  // namespace fusestep
