// DLPack's C exchange API: asks another library where a tensor's memory is, in some nanoseconds and
// without Python code. https://dmlc.github.io/dlpack/latest/c_api.html
#pragma once
#include <Python.h>

#include <cstdint>

namespace fusestep {

// DLTensor, as DLPack 1 lays it out.
struct ExchangedTensor {
    void* data;
    std::int32_t device_type;
    std::int32_t device_id;
    std::int32_t dimensions;
    std::uint8_t type_code;
    std::uint8_t bits;
    std::uint16_t lanes;
    std::int64_t* shape;
    std::int64_t* strides;  // in elements; nullptr: C-contiguous
    std::uint64_t byte_offset;

    void* first() const { return static_cast<char*>(data) + byte_offset; }
};

constexpr std::int32_t kExchangedCpu = 1;
constexpr std::uint8_t kExchangedFloat = 2;

bool has_elements(const ExchangedTensor& tensor);
// Whether the elements lie side by side in C's order.
bool is_contiguous(const ExchangedTensor& tensor);
// Whether they do in some order of the axes.
bool is_dense(const ExchangedTensor& tensor);

// Fills in what an object's library tells of it; false where it has no such way, or refuses. It is
// good while the object is, and nothing of it changes.
bool describe_tensor(PyObject* object, ExchangedTensor& found);

// The same for objects of a type that describe_tensor() has met in this thread, and no others: runs
// no Python code.
bool describe_known_tensor(PyObject* object, ExchangedTensor& found);

// Whether the elements are those in memory with the other sign, of which DLPack says nothing. They
// are the imaginary parts of conjugates, so only a tensor of one element can be dense besides.
bool is_negated(PyObject* object);

}  // namespace fusestep
