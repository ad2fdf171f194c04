#include "arrays.h"

#include <algorithm>

namespace fusestep {
namespace {

using py::detail::array_proxy;
using py::detail::npy_api;

// Cached for the life of the process: NumPy's own dtype objects, compared by identity on the fast
// path.
struct Dtypes {
    PyObject* array_type;
    PyObject* exact[kDataTypes];
};

const Dtypes& dtypes() {
    static const Dtypes cached = {
        py::object(py::module_::import("numpy").attr("ndarray")).release().ptr(),
        {py::dtype::of<float>().release().ptr(), py::dtype::of<double>().release().ptr()}};
    return cached;
}

std::string text(py::handle object) { return py::str(object).cast<std::string>(); }

std::string type_name(py::handle object) {
    const py::handle type = py::type::handle_of(object);
    const std::string module = text(type.attr("__module__"));
    const std::string name = text(type.attr("__qualname__"));
    return module == "builtins" ? name : module + "." + name;
}

bool is_array(py::handle object) {
    if (reinterpret_cast<PyObject*>(Py_TYPE(object.ptr())) == dtypes().array_type) return true;
    if (!py::isinstance<py::array>(object)) return false;
    return !py::isinstance(object, py::module_::import("numpy.ma").attr("MaskedArray"));
}

void require_array(const std::string& what, py::handle object) {
    if (is_array(object)) return;
    throw py::type_error(what + " must be a numpy.ndarray, not " + type_name(object));
}

bool has_flags(py::handle object, int flags) {
    return (array_proxy(object.ptr())->flags & flags) == flags;
}

// The element type, or kDataTypes if it is none of ours.
DataType type_of(py::handle object) {
    PyObject* descr = array_proxy(object.ptr())->descr;
    for (int type = 0; type < kDataTypes; ++type) {
        if (descr == dtypes().exact[type]) return static_cast<DataType>(type);
    }
    const py::dtype dtype = py::reinterpret_borrow<py::dtype>(descr);
    const char order = dtype.byteorder();
    if (order == '=' || order == '|') {
        if (dtype.num() == npy_api::NPY_FLOAT_) return kFloat32;
        if (dtype.num() == npy_api::NPY_DOUBLE_) return kFloat64;
    }
    return kDataTypes;
}

void require_layout(const std::string& what, py::handle object) {
    if (!has_flags(object, npy_api::NPY_ARRAY_C_CONTIGUOUS_)) {
        throw py::value_error(what + " must be C-contiguous, it has shape " +
                              text(object.attr("shape")) + " and strides " +
                              text(object.attr("strides")) + ": pass numpy.ascontiguousarray(...)");
    }
    if (!has_flags(object, npy_api::NPY_ARRAY_ALIGNED_)) {
        throw py::value_error(what + " must be aligned to its element size: pass a copy of it");
    }
}

std::string shape_text(const ArrayView& view) {
    py::tuple shape(view.dimensions);
    for (int i = 0; i < view.dimensions; ++i) shape[i] = view.extents[i];
    return text(shape);
}

const char* dtype_text(DataType type) { return type == kFloat32 ? "float32" : "float64"; }

bool has_shape_of(py::handle object, const ArrayView& view) {
    const auto* proxy = array_proxy(object.ptr());
    return proxy->nd == view.dimensions &&
           std::equal(proxy->dimensions, proxy->dimensions + proxy->nd, view.extents);
}

}  // namespace

std::string parameter_name(const std::string& path) {
    return path.empty() ? "params" : "params['" + path + "']";
}

ArrayView check_writeable(const std::string& name, py::handle object) {
    const std::string what = name + ":";
    require_array(what, object);
    ArrayView view;
    view.type = type_of(object);
    if (view.type == kDataTypes) {
        throw py::type_error(what + " dtype must be float32 or float64 in native byte order, not " +
                             text(object.attr("dtype")));
    }
    require_layout(what, object);
    if (!has_flags(object, npy_api::NPY_ARRAY_WRITEABLE_)) {
        throw py::value_error(
            what + " is read-only, but a step updates it in place: pass a writeable array");
    }
    const auto* proxy = array_proxy(object.ptr());
    view.data = proxy->data;
    view.dimensions = proxy->nd;
    view.extents = proxy->dimensions;
    view.size = 1;
    for (int i = 0; i < view.dimensions; ++i) {
        view.size *= static_cast<std::size_t>(view.extents[i]);
    }
    return view;
}

void prefetch_array(PyObject* object) { FUSESTEP_PREFETCH(object); }

void prefetch_extents(PyObject* object) {
    if (reinterpret_cast<PyObject*>(Py_TYPE(object)) != dtypes().array_type) return;
    FUSESTEP_PREFETCH(array_proxy(object)->dimensions);
}

const void* check_gradient(const std::string& path, const ArrayView& parameter, py::handle object) {
    constexpr int layout = npy_api::NPY_ARRAY_C_CONTIGUOUS_ | npy_api::NPY_ARRAY_ALIGNED_;
    const bool good = is_array(object) && type_of(object) == parameter.type &&
                      has_flags(object, layout) && has_shape_of(object, parameter);
    if (good) return array_proxy(object.ptr())->data;
    const std::string what = parameter_name(path) + ": gradient";
    require_array(what, object);
    if (type_of(object) != parameter.type) {
        throw py::type_error(what + " has dtype " + text(object.attr("dtype")) +
                             ", the parameter has " + dtype_text(parameter.type));
    }
    if (!has_shape_of(object, parameter)) {
        throw py::value_error(what + " has shape " + text(object.attr("shape")) +
                              ", the parameter has " + shape_text(parameter));
    }
    require_layout(what, object);
    throw py::value_error(what + " cannot be read");
}

void MemoryMap::add(const void* data, std::size_t bytes, std::string name) {
    if (bytes == 0) return;
    const auto begin = reinterpret_cast<std::uintptr_t>(data);
    intervals_.push_back({begin, begin + bytes, std::move(name)});
}

void MemoryMap::close() {
    std::sort(intervals_.begin(), intervals_.end(),
              [](const Interval& a, const Interval& b) { return a.begin < b.begin; });
    for (std::size_t i = 1; i < intervals_.size(); ++i) {
        const Interval& before = intervals_[i - 1];
        const Interval& after = intervals_[i];
        if (before.end > after.begin) {
            throw py::value_error(after.name + ": shares memory with " + before.name +
                                  "; every array must have its own, and appear once");
        }
    }
}

const std::string* MemoryMap::overlapping(const void* data, std::size_t bytes) const {
    const auto begin = reinterpret_cast<std::uintptr_t>(data);
    // the first interval that ends behind our begin; they are disjoint and sorted by both ends
    const auto found =
        std::upper_bound(intervals_.begin(), intervals_.end(), begin,
                         [](std::uintptr_t value, const Interval& i) { return value < i.end; });
    if (bytes == 0 || found == intervals_.end() || found->begin >= begin + bytes) return nullptr;
    return &found->name;
}

}  // namespace fusestep
