#include "arrays.h"

#include <algorithm>

#include "exchange.h"

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
    py::ssize_t own_extents[64];        // NumPy's limit; where the array has no such list itself
    std::vector<std::int64_t> strides;  // of a tensor with permuted axes, as in ArrayView

    bool has(int wanted) const { return has_flags(flags, wanted); }
};

// Where an array without elements is, if it is nowhere.
alignas(64) char no_memory[64];

DataType type_of(const ExchangedTensor& tensor) {
    if (tensor.type_code != kExchangedFloat || tensor.lanes != 1) return kDataTypes;
    return tensor.bits == 32 ? kFloat32 : tensor.bits == 64 ? kFloat64 : kDataTypes;
}

bool is_aligned(const ExchangedTensor& tensor, DataType type) {
    return type == kDataTypes ||
           reinterpret_cast<std::uintptr_t>(tensor.first()) % item_size(type) == 0;
}

void* data_of(const ExchangedTensor& tensor) {
    return tensor.data == nullptr ? no_memory : tensor.first();
}

// Tensors of other libraries, in the memory of the CPU.
void read_exchanged(py::handle object, Facts& facts) {
    ExchangedTensor tensor;
    if (!describe_tensor(object.ptr(), tensor) || tensor.device_type != kExchangedCpu) return;
    if (tensor.dimensions > 64) return;
    const bool is_empty = !has_elements(tensor);
    if (tensor.data == nullptr && !is_empty) return;  // it stands for memory that is nowhere
    if (is_negated(object.ptr())) return;
    facts.is_array = true;
    facts.type = type_of(tensor);
    facts.flags = npy_api::NPY_ARRAY_WRITEABLE_;
    if (is_empty || is_contiguous(tensor)) {
        facts.flags |= npy_api::NPY_ARRAY_C_CONTIGUOUS_;
    } else if (is_dense(tensor)) {
        facts.strides.assign(tensor.strides, tensor.strides + tensor.dimensions);
    }
    if (is_aligned(tensor, facts.type)) facts.flags |= npy_api::NPY_ARRAY_ALIGNED_;
    facts.data = data_of(tensor);
    facts.dimensions = tensor.dimensions;
    std::copy_n(tensor.shape, tensor.dimensions, facts.own_extents);
    facts.extents = facts.own_extents;
}

inline void read_numpy(py::handle object, Facts& facts) {
    facts.is_array = is_array(object);
    if (!facts.is_array) return read_exchanged(object, facts);
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

// Whether two arrays of one shape lie in the same order; `strides` as in ArrayView.
bool lies_as(const Facts& facts, const std::vector<std::int64_t>& strides) {
    if (strides.empty()) return facts.has(npy_api::NPY_ARRAY_C_CONTIGUOUS_);
    if (facts.strides.empty()) return false;
    for (std::size_t k = 0; k < strides.size(); ++k) {
        if (facts.extents[k] > 1 && facts.strides[k] != strides[k]) return false;
    }
    return true;
}

std::string strides_text(const std::vector<std::int64_t>& strides) {
    py::tuple listed(strides.size());
    for (std::size_t k = 0; k < strides.size(); ++k) listed[k] = strides[k];
    return text(listed);
}

void require_aligned(const std::string& what, const Facts& facts) {
    if (facts.has(npy_api::NPY_ARRAY_ALIGNED_)) return;
    throw py::value_error(what + " must be aligned to its element size: pass a copy of it");
}

void require_layout(const ArrayKind& kind, const std::string& what, py::handle object,
                    const Facts& facts) {
    if (facts.strides.empty() && !facts.has(npy_api::NPY_ARRAY_C_CONTIGUOUS_)) {
        if (!kind.type && !is_array(object)) {
            throw py::value_error(what + " must be C-contiguous, or have its axes permuted and " +
                                  "no gaps: pass a contiguous copy");
        }
        const char* const library = kind.type ? "cupy" : "numpy";
        throw py::value_error(what + " must be C-contiguous, it has shape " +
                              text(object.attr("shape")) + " and strides " +
                              text(object.attr("strides")) + ": pass " + library +
                              ".ascontiguousarray(...)");
    }
    require_aligned(what, facts);
}

std::string shape_text(const py::ssize_t* extents, int dimensions) {
    py::tuple shape(dimensions);
    for (int i = 0; i < dimensions; ++i) shape[i] = extents[i];
    return text(shape);
}

// Whether an array of NumPy's own class is what nearly all gradients are.
inline bool is_good(py::handle object, const ArrayView& view) {
    const auto* proxy = array_proxy(object.ptr());
    return view.strides.empty() && proxy->descr == dtypes().exact[view.type] &&
           (proxy->flags & kReadable) == kReadable && proxy->nd == view.dimensions &&
           std::equal(proxy->dimensions, proxy->dimensions + proxy->nd, view.extents);
}

// The same for tensors of other libraries.
bool is_good(const ExchangedTensor& tensor, const ArrayView& view) {
    if (tensor.device_type != kExchangedCpu || tensor.dimensions != view.dimensions ||
        type_of(tensor) != view.type || !is_aligned(tensor, view.type) ||
        (tensor.data == nullptr && view.size > 0)) {
        return false;
    }
    std::int64_t run = 1;  // from the last axis, which is what C's order has
    for (int k = tensor.dimensions; k-- > 0; run *= tensor.shape[k]) {
        if (tensor.shape[k] != view.extents[k]) return false;
        if (tensor.shape[k] <= 1 || view.size == 0 || tensor.strides == nullptr) continue;
        const std::int64_t expected =
            view.strides.empty() ? run : view.strides[static_cast<std::size_t>(k)];
        if (tensor.strides[k] != expected) return false;
    }
    return tensor.strides != nullptr || view.strides.empty();
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
    view.strides = facts.strides;
    return view;
}

bool has_shape_of(const Facts& facts, const ArrayView& view) {
    return facts.dimensions == view.dimensions &&
           std::equal(facts.extents, facts.extents + facts.dimensions, view.extents);
}

}  // namespace

std::string shape_text(const ArrayView& view) { return shape_text(view.extents, view.dimensions); }

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
    if (reinterpret_cast<PyObject*>(Py_TYPE(object.ptr())) != dtypes().array_type) {
        ExchangedTensor tensor;
        if (describe_known_tensor(object.ptr(), tensor)) {
            return data_of(tensor) == view.data && is_good(tensor, view);
        }
        if (!is_array(object)) {
            return describe_tensor(object.ptr(), tensor) && data_of(tensor) == view.data &&
                   is_good(tensor, view);
        }
    }
    const auto* proxy = array_proxy(object.ptr());
    if (proxy->data != view.data || !has_flags(proxy->flags, kWriteable) ||
        (proxy->descr != dtypes().exact[view.type] && type_of(proxy->descr) != view.type)) {
        return false;
    }
    return (proxy->nd == view.dimensions &&
            std::equal(proxy->dimensions, proxy->dimensions + proxy->nd, view.extents)) ||
           size_of(proxy->dimensions, proxy->nd) == view.size;
}

// Axes of one element have whatever strides, so the permuted ones are compared where they count.
bool has_layout_of(const ArrayView& array, const ArrayView& other) {
    if (array.strides.empty() || other.strides.empty()) {
        return array.strides.empty() == other.strides.empty();
    }
    for (std::size_t k = 0; k < array.strides.size(); ++k) {
        if (other.extents[k] > 1 && array.strides[k] != other.strides[k]) return false;
    }
    return true;
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
    if (!has_layout_of(given, present)) {
        throw py::value_error(name + ": has other strides than this optimizer's parameter");
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
    if (reinterpret_cast<PyObject*>(Py_TYPE(object.ptr())) == dtypes().array_type) {
        return is_good(object, parameter) ? array_proxy(object.ptr())->data : nullptr;
    }
    ExchangedTensor tensor;
    const bool is_known = describe_known_tensor(object.ptr(), tensor);
    if (!is_known || !is_good(tensor, parameter)) return nullptr;
    if (parameter.size == 1 && is_negated(object.ptr())) return nullptr;
    return data_of(tensor);
}

const void* check_gradient(const ArrayKind& kind, const std::string& path,
                           const ArrayView& parameter, py::handle object) {
    Facts facts;
    read(kind, object, facts);
    const bool good = facts.is_array && facts.device == kind.device &&
                      facts.type == parameter.type && facts.has(npy_api::NPY_ARRAY_ALIGNED_) &&
                      has_shape_of(facts, parameter) && lies_as(facts, parameter.strides);
    if (good) return facts.data;
    const std::string what = parameter_name(path) + ": gradient";
    require_array(kind, what, object, facts);
    if (facts.type != parameter.type) {
        throw py::type_error(what + " has dtype " + text(object.attr("dtype")) +
                             ", the parameter has " + dtype_text(parameter.type));
    }
    if (!has_shape_of(facts, parameter)) {
        throw py::value_error(what + " has shape " + shape_text(facts.extents, facts.dimensions) +
                              ", the parameter has " + shape_text(parameter));
    }
    if (parameter.strides.empty() && facts.strides.empty()) {
        require_layout(kind, what, object, facts);
    }
    require_aligned(what, facts);
    const std::string order =
        parameter.strides.empty()
            ? "be C-contiguous, as the parameter is"
            : "have the parameter's strides, " + strides_text(parameter.strides) + " in elements";
    throw py::value_error(what + " must " + order + ": pass a copy of that order");
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
