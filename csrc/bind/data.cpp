// Orders of samples and the gathering of rows, as Python sees them.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <iterator>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "../data/gather.h"
#include "../data/order.h"
#include "../runtime/isa.h"

namespace fusestep {
namespace {

namespace py = pybind11;

template <class T>
py::array_t<T> as_array(const std::vector<T>& values) {
    return py::array_t<T>(static_cast<py::ssize_t>(values.size()), values.data());
}

py::array_t<std::uint64_t> part_of_hashed_order(std::uint64_t n, std::uint64_t seed,
                                                std::uint64_t epoch, std::uint64_t begin,
                                                std::uint64_t end) {
    if (n == 0 || begin > end || end > n) throw py::value_error("no such part of the order");
    py::array_t<std::uint64_t> part(static_cast<py::ssize_t>(end - begin));
    std::uint64_t* const values = part.mutable_data();
    const Feistel feistel = hashed_order(n, seed, epoch);
    const py::gil_scoped_release unlocked;
    for (std::uint64_t i = begin; i < end; ++i) values[i - begin] = permuted(feistel, i);
    return part;
}

// The numbers of a Feistel, for the GPU.
py::array_t<std::uint64_t> hashed_order_numbers(std::uint64_t n, std::uint64_t seed,
                                                std::uint64_t epoch) {
    if (n == 0) throw py::value_error("n must be at least 1");
    const Feistel feistel = hashed_order(n, seed, epoch);
    std::vector<std::uint64_t> numbers{feistel.n, feistel.half_bits};
    numbers.insert(numbers.end(), std::begin(feistel.keys), std::end(feistel.keys));
    return as_array(numbers);
}

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
        if (name.kind == source.dtype().kind() && name.size == source.itemsize()) {
            return name.element;
        }
    }
    throw py::type_error("to_float32 does not know dtype " +
                         py::str(source.dtype()).cast<std::string>());
}

// Rows of a source may stand apart, but the elements of a row stand side by side.
bool has_whole_rows(const py::array& array) {
    py::ssize_t expected = array.itemsize();
    if (array.size() == 0) return array.ndim() > 0;
    for (py::ssize_t axis = array.ndim() - 1; axis > 0; --axis) {
        if (array.shape(axis) != 1 && array.strides(axis) != expected) return false;
        expected *= array.shape(axis);
    }
    return array.ndim() > 0;
}

// A source, what becomes of its rows (None to copy, or scale and shift to float32), and a target.
RowSource column_of(const py::tuple& entry, std::size_t rows) {
    const py::array source = entry[0].cast<py::array>();
    py::array target = entry[2].cast<py::array>();
    if (!has_whole_rows(source) || !(target.flags() & py::array::c_style) || target.ndim() == 0 ||
        !target.writeable() || static_cast<std::size_t>(target.shape(0)) < rows ||
        target.size() / std::max<py::ssize_t>(1, target.shape(0)) !=
            source.size() / std::max<py::ssize_t>(1, source.shape(0))) {
        throw py::value_error("a target must hold the rows of its source, side by side");
    }
    RowSource column{};
    column.source = static_cast<const char*>(source.data());
    column.stride = source.strides(0);
    column.row_elements =
        static_cast<std::size_t>(source.size() / std::max<py::ssize_t>(1, source.shape(0)));
    column.item_size = static_cast<std::size_t>(source.itemsize());
    column.target = static_cast<char*>(target.mutable_data());
    if (!entry[1].is_none()) {
        const py::tuple numbers = entry[1].cast<py::tuple>();
        column.convert = active_kernels().convert[element_of(source)];
        column.scale = numbers[0].cast<float>();
        column.shift = numbers[1].cast<float>();
        if (!py::isinstance<py::array_t<float>>(target)) {
            throw py::type_error("the target of to_float32 must be float32");
        }
    } else if (source.itemsize() != target.itemsize()) {
        throw py::type_error("a target must have the dtype of its source");
    }
    return column;
}

// A gathering and the arrays it works with.
class PyGathering {
 public:
    template <class Index>
    PyGathering(py::list entries, py::array_t<Index> indices)
        : entries_(std::move(entries)),
          indices_(indices),
          n_(static_cast<std::size_t>(indices.size())) {
        const Index* const rows = indices.data();
        std::vector<RowSource> columns;
        Index count = std::numeric_limits<Index>::max();
        for (const py::handle entry : entries_) {
            const py::tuple fields = py::reinterpret_borrow<py::tuple>(entry);
            columns.push_back(column_of(fields, n_));
            const auto length = static_cast<std::uint64_t>(fields[0].cast<py::array>().shape(0));
            count = static_cast<Index>(std::min<std::uint64_t>(count, length));
        }
        for (std::size_t i = 0; i < n_; ++i) {
            if (rows[i] >= count) throw py::index_error("no such row");
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
    py::list entries_;
    py::array indices_;
    std::size_t n_;
    std::unique_ptr<Gathering> gathering_;
};

}  // namespace

void register_data(py::module_& module) {
    module.def(
        "shuffled_order",
        [](std::uint32_t n, std::uint64_t seed, std::uint64_t epoch) {
            return as_array(shuffled_order(n, seed, epoch));
        },
        py::arg("n"), py::arg("seed"), py::arg("epoch"));
    module.def(
        "window_order",
        [](std::uint32_t n, std::uint64_t seed, std::uint64_t epoch, std::uint32_t window) {
            if (window == 0) throw py::value_error("window must be at least 1");
            return as_array(window_order(n, seed, epoch, window));
        },
        py::arg("n"), py::arg("seed"), py::arg("epoch"), py::arg("window"));
    module.def("hashed_order", &part_of_hashed_order, py::arg("n"), py::arg("seed"),
               py::arg("epoch"), py::arg("begin"), py::arg("end"));
    module.def("hashed_order_numbers", &hashed_order_numbers, py::arg("n"), py::arg("seed"),
               py::arg("epoch"));
    py::class_<PyGathering>(module, "Gathering")
        .def(py::init<py::list, py::array_t<std::uint32_t>>(), py::arg("entries"),
             py::arg("indices").noconvert())
        .def(py::init<py::list, py::array_t<std::uint64_t>>(), py::arg("entries"),
             py::arg("indices").noconvert())
        .def("has", &PyGathering::has, py::arg("rows"))
        .def("finish", &PyGathering::finish, py::arg("rows"));
}

}  // namespace fusestep
