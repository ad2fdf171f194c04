#include "exchange.h"

#include <algorithm>
#include <utility>
#include <vector>

namespace fusestep {
namespace {

using Describe = int (*)(void* object, ExchangedTensor* found);

// DLPackExchangeAPI, of DLPack 1.
struct ExchangeApi {
    std::uint32_t major;
    std::uint32_t minor;
    const ExchangeApi* previous;
    void* allocate;
    void* take_ownership;
    void* give_ownership;
    Describe describe;
    void* current_stream;
};

// The types met last, with nullptr for those without the API. They are kept alive: another type in
// the place of one would be taken for it.
struct Met {
    PyTypeObject* type;
    Describe describe;
};
constexpr unsigned kMet = 4;
thread_local Met met[kMet] = {};
thread_local unsigned next_met = 0;

// Whether Python code stands for a tensor's operations: then it need not have the memory it names.
bool is_overridden(PyTypeObject* type) {
    PyObject* const dispatch =
        PyObject_GetAttrString(reinterpret_cast<PyObject*>(type), "__torch_dispatch__");
    PyErr_Clear();
    const bool found = dispatch != nullptr && PyCFunction_Check(dispatch) == 0;
    Py_XDECREF(dispatch);
    return found;
}

Describe look_up(PyTypeObject* type) {
    PyObject* const capsule =
        PyObject_GetAttrString(reinterpret_cast<PyObject*>(type), "__dlpack_c_exchange_api__");
    const void* pointer = nullptr;
    if (capsule != nullptr && PyCapsule_CheckExact(capsule)) {
        pointer = PyCapsule_GetPointer(capsule, "dlpack_exchange_api");
    }
    Py_XDECREF(capsule);
    PyErr_Clear();
    const auto* api = static_cast<const ExchangeApi*>(pointer);
    while (api != nullptr && api->major != 1) api = api->previous;
    return api == nullptr || is_overridden(type) ? nullptr : api->describe;
}

bool ask(Describe describe, PyObject* object, ExchangedTensor& found) {
    if (describe == nullptr) return false;
    if (describe(object, &found) == 0) return true;
    PyErr_Clear();
    return false;
}

}  // namespace

bool has_elements(const ExchangedTensor& tensor) {
    return std::all_of(tensor.shape, tensor.shape + tensor.dimensions,
                       [](std::int64_t extent) { return extent > 0; });
}

// Strides of axes of one element say nothing.
bool is_contiguous(const ExchangedTensor& tensor) {
    std::int64_t run = 1;
    for (int k = tensor.dimensions; k-- > 0; run *= tensor.shape[k]) {
        if (tensor.strides != nullptr && tensor.shape[k] > 1 && tensor.strides[k] != run) {
            return false;
        }
    }
    return true;
}

bool is_dense(const ExchangedTensor& tensor) {
    std::vector<std::pair<std::int64_t, std::int64_t>> axes;  // strides and extents
    for (int k = 0; k < tensor.dimensions; ++k) {
        if (tensor.shape[k] > 1) axes.emplace_back(tensor.strides[k], tensor.shape[k]);
    }
    std::sort(axes.begin(), axes.end());
    std::int64_t run = 1;
    for (const auto& [stride, extent] : axes) {
        if (stride != run) return false;
        run *= extent;
    }
    return true;
}

bool is_negated(PyObject* object) {
    static PyObject* const name = PyUnicode_InternFromString("is_neg");
    PyObject* const answer = PyObject_CallMethodNoArgs(object, name);
    PyErr_Clear();
    const bool negated = answer == Py_True;
    Py_XDECREF(answer);
    return negated;
}

bool describe_known_tensor(PyObject* object, ExchangedTensor& found) {
    for (const Met& one : met) {
        if (one.type == Py_TYPE(object)) return ask(one.describe, object, found);
    }
    return false;
}

bool describe_tensor(PyObject* object, ExchangedTensor& found) {
    PyTypeObject* const type = Py_TYPE(object);
    for (const Met& one : met) {
        if (one.type == type) return ask(one.describe, object, found);
    }
    const Describe describe = look_up(type);
    Met& one = met[next_met++ % kMet];
    Py_INCREF(type);
    PyTypeObject* const before = one.type;
    one = {type, describe};
    Py_XDECREF(before);
    return ask(describe, object, found);
}

}  // namespace fusestep
