#include "arrays.h"

#include <algorithm>

namespace fusestep {
namespace {

using py::detail::array_proxy;
using py::detail::npy_api;

// Found when the module is loaded, and kept for the life of the process: NumPy's own objects,
// compared by identity on the fast path.
struct Dtypes {
    PyObject* array_type;
    PyObject* exact[kDataTypes];
};
Dtypes loaded = {};

const Dtypes& dtypes() { return loaded; }

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

// The element type of a dtype, or kDataTypes if it is none of ours.
DataType type_of(PyObject* descr) {
    for (int type = 0; type < kDataTypes; ++type) {
        if (descr == dtypes().exact[type]) return static_cast<DataType>(type);
    }
    const py::dtype dtype = py::reinterpret_borrow<py::dtype>(descr);
    // NumPy says '=', libraries that read files may say '<' or '>' of the same order
    if (dtype.attr("isnative").cast<bool>()) {
        if (dtype.num() == npy_api::NPY_FLOAT_) return kFloat32;
        if (dtype.num() == npy_api::NPY_DOUBLE_) return kFloat64;
    }
    return kDataTypes;
}

constexpr int kReadable = npy_api::NPY_ARRAY_C_CONTIGUOUS_ | npy_api::NPY_ARRAY_ALIGNED_;
constexpr int kWriteable = kReadable | npy_api::NPY_ARRAY_WRITEABLE_;

bool has_flags(int flags, int wanted) { return (flags & wanted) == wanted; }

// What is to be known of an array, of whatever kind.
struct Facts {
    bool is_array = false;
    DataType type = kDataTypes;
    int flags = 0;  // NumPy's
    int device = 0;
    void* data = nullptr;
    int dimensions = 0;
    const py::ssize_t* extents = nullptr;
    py::ssize_t own_extents[64];  // NumPy's limit; where the array has no such list itself

    bool has(int wanted) const { return has_flags(flags, wanted); }
};
inline void read_numpy(py::handle object, Facts& facts) {
    facts.is_array = is_array(object);
    if (!facts.is_array) return;
    const auto* proxy = array_proxy(object.ptr());
    facts.type = type_of(proxy->descr);
    facts.flags = proxy->flags;
    facts.data = proxy->data;
    facts.dimensions = proxy->nd;
    facts.extents = proxy->dimensions;
}

void read_device(const ArrayKind& kind, py::handle object, Facts& facts) {
    facts.is_array = py::isinstance(object, kind.type);
    if (!facts.is_array) return;
    const py::object memory = object.attr("data");
    const auto address = memory.attr("ptr").cast<std::uintptr_t>();
    facts.device = memory.attr("device_id").cast<int>();
    const py::object dtype = object.attr("dtype");
    facts.type = type_of(dtype.ptr());
    const std::size_t size = facts.type == kDataTypes ? 1 : item_size(facts.type);
    facts.flags = npy_api::NPY_ARRAY_WRITEABLE_;
    if (object.attr("flags").attr("c_contiguous").cast<bool>()) {
        facts.flags |= npy_api::NPY_ARRAY_C_CONTIGUOUS_;
    }
    if (address % size == 0) facts.flags |= npy_api::NPY_ARRAY_ALIGNED_;
    // an array without elements has no memory, but it is there
    facts.data = reinterpret_cast<void*>(address == 0 ? size : address);
    const py::tuple shape = object.attr("shape");
    for (const py::handle extent : shape) {
        facts.own_extents[facts.dimensions++] = extent.cast<py::ssize_t>();
    }
    facts.extents = facts.own_extents;
}

inline void read(const ArrayKind& kind, py::handle object, Facts& facts) {
    if (kind.type) {
        read_device(kind, object, facts);
    } else {
        read_numpy(object, facts);
    }
}

void require_array(const ArrayKind& kind, const std::string& what, py::handle object,
                   const Facts& facts) {
    if (!facts.is_array) {
        const char* const expected = kind.type ? "cupy.ndarray" : "numpy.ndarray";
        throw py::type_error(what + " must be a " + expected + ", not " + type_name(object));
    }
    if (facts.device != kind.device) {
        throw py::value_error(what + " is on device " + std::to_string(facts.device) +
                              ", must be on device " + std::to_string(kind.device) +
                              ", where the optimizer is");
    }
}

void require_layout(const ArrayKind& kind, const std::string& what, py::handle object,
                    const Facts& facts) {
    if (!facts.has(npy_api::NPY_ARRAY_C_CONTIGUOUS_)) {
        const char* const library = kind.type ? "cupy" : "numpy";
        throw py::value_error(what + " must be C-contiguous, it has shape " +
                              text(object.attr("shape")) + " and strides " +
                              text(object.attr("strides")) + ": pass " + library +
                              ".ascontiguousarray(...)");
    }
    if (!facts.has(npy_api::NPY_ARRAY_ALIGNED_)) {
        throw py::value_error(what + " must be aligned to its element size: pass a copy of it");
    }
}

inline bool is_good(py::handle object, const ArrayView& view) {
    if (reinterpret_cast<PyObject*>(Py_TYPE(object.ptr())) != dtypes().array_type) return false;
    const auto* proxy = array_proxy(object.ptr());
    return proxy->descr == dtypes().exact[view.type] && (proxy->flags & kReadable) == kReadable &&
           proxy->nd == view.dimensions &&
           std::equal(proxy->dimensions, proxy->dimensions + proxy->nd, view.extents);
}

std::size_t size_of(const py::ssize_t* extents, int dimensions) {
    std::size_t size = 1;
    for (int i = 0; i < dimensions; ++i) size *= static_cast<std::size_t>(extents[i]);
    return size;
}

// An array of a type that steps work on, however it may be used.
ArrayView check_array(const ArrayKind& kind, const std::string& what, py::handle object,
                      Facts& facts) {
    read(kind, object, facts);
    require_array(kind, what, object, facts);
    if (facts.type == kDataTypes) {
        throw py::type_error(what + " dtype must be float32 or float64 in native byte order, not " +
                             text(object.attr("dtype")));
    }
    require_layout(kind, what, object, facts);
    ArrayView view;
    view.type = facts.type;
    view.data = facts.data;
    view.dimensions = facts.dimensions;
    view.size = size_of(facts.extents, facts.dimensions);
    return view;
}

bool has_shape_of(const Facts& facts, const ArrayView& view) {
    return facts.dimensions == view.dimensions &&
           std::equal(facts.extents, facts.extents + facts.dimensions, view.extents);
}

}  // namespace

std::string shape_text(const ArrayView& view) {
    py::tuple shape(view.dimensions);
    for (int i = 0; i < view.dimensions; ++i) shape[i] = view.extents[i];
    return text(shape);
}

const char* dtype_text(DataType type) { return type == kFloat32 ? "float32" : "float64"; }

void register_arrays(py::module_&) {
    loaded = {py::object(py::module_::import("numpy").attr("ndarray")).release().ptr(),
              {py::dtype::of<float>().release().ptr(), py::dtype::of<double>().release().ptr()}};
}

std::string number_text(double x) { return py::repr(py::float_(x)).cast<std::string>(); }

std::string parameter_name(const std::string& path) {
    return path.empty() ? "params" : "params['" + path + "']";
}

ArrayView check_writeable(const ArrayKind& kind, const std::string& name, py::handle object,
                          std::vector<py::ssize_t>& extents) {
    Facts facts;
    const ArrayView view = check_array(kind, name + ":", object, facts);
    if (!facts.has(npy_api::NPY_ARRAY_WRITEABLE_)) {
        throw py::value_error(
            name + ": is read-only, but a step updates it in place: pass a writeable array");
    }
    extents.insert(extents.end(), facts.extents, facts.extents + facts.dimensions);
    return view;
}

ArrayView check_readable(const std::string& name, py::handle object) {
    Facts facts;
    return check_array({}, name + ":", object, facts);
}

bool is_unchanged(py::handle object, const ArrayView& view) {
    const auto* proxy = array_proxy(object.ptr());
    if (proxy->data != view.data || !has_flags(proxy->flags, kWriteable) ||
        (proxy->descr != dtypes().exact[view.type] && type_of(proxy->descr) != view.type)) {
        return false;
    }
    return (proxy->nd == view.dimensions &&
            std::equal(proxy->dimensions, proxy->dimensions + proxy->nd, view.extents)) ||
           size_of(proxy->dimensions, proxy->nd) == view.size;
}

void require_alike(const std::string& name, const ArrayView& given, const ArrayView& present) {
    if (given.type != present.type) {
        throw py::type_error(name + ": has dtype " + dtype_text(given.type) +
                             ", this optimizer's parameter has " + dtype_text(present.type));
    }
    if (given.dimensions != present.dimensions ||
        !std::equal(given.extents, given.extents + given.dimensions, present.extents)) {
        throw py::value_error(name + ": has shape " + shape_text(given) +
                              ", this optimizer's parameter has " + shape_text(present));
    }
}

void raise_changed(const std::string& name, py::handle object) {
    std::vector<py::ssize_t> extents;
    check_writeable({}, name, object, extents);
    throw StateError(name +
                     ": has been resized or given other memory or another dtype since the "
                     "optimizer was built: build a new one. Nothing was updated");
}

void prefetch_array(PyObject* object) { FUSESTEP_PREFETCH(object); }

void prefetch_extents(PyObject* object) {
    if (reinterpret_cast<PyObject*>(Py_TYPE(object)) != dtypes().array_type) return;
    FUSESTEP_PREFETCH(array_proxy(object)->dimensions);
}

const void* find_gradient(py::handle object, const ArrayView& parameter) {
    return is_good(object, parameter) ? array_proxy(object.ptr())->data : nullptr;
}

const void* check_gradient(const ArrayKind& kind, const std::string& path,
                           const ArrayView& parameter, py::handle object) {
    Facts facts;
    read(kind, object, facts);
    const bool good = facts.is_array && facts.device == kind.device &&
                      facts.type == parameter.type && facts.has(kReadable) &&
                      has_shape_of(facts, parameter);
    if (good) return facts.data;
    const std::string what = parameter_name(path) + ": gradient";
    require_array(kind, what, object, facts);
    if (facts.type != parameter.type) {
        throw py::type_error(what + " has dtype " + text(object.attr("dtype")) +
                             ", the parameter has " + dtype_text(parameter.type));
    }
    if (!has_shape_of(facts, parameter)) {
        throw py::value_error(what + " has shape " + text(object.attr("shape")) +
                              ", the parameter has " + shape_text(parameter));
    }
    require_layout(kind, what, object, facts);
    throw py::value_error(what + " cannot be read");
}

const void* KnownArrays::find(std::size_t place, py::handle object) const {
    if (place >= known_.size() || !known_[place].reference) return nullptr;
    PyObject* const reference = known_[place].reference.ptr();
#if PY_VERSION_HEX >= 0x030D0000
    PyObject* present = nullptr;
    const bool same = PyWeakref_GetRef(reference, &present) == 1 && present == object.ptr();
    Py_XDECREF(present);
#else
    const bool same = PyWeakref_GetObject(reference) == object.ptr();
#endif
    return same ? known_[place].data : nullptr;
}

void KnownArrays::remember(std::size_t place, py::handle object, const void* data) {
    if (place >= known_.size()) known_.resize(place + 1);
    known_[place] = {py::weakref(object), data};
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
