// Checks arrays without converting them: what a step writes must be the user's own memory.
#pragma once
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <string>
#include <vector>

#include "../kernels/table.h"

namespace fusestep {

namespace py = pybind11;

// Raised where an object is in the wrong state for a call: fusestep.StateError.
class StateError : public std::runtime_error {
    using std::runtime_error::runtime_error;
};

// A checked array: memory that may be read or written as `size` elements of `type`.
struct ArrayView {
    void* data = nullptr;
    std::size_t size = 0;
    DataType type = kFloat32;
    int dimensions = 0;
    const py::ssize_t* extents = nullptr;  // kept by whoever asked for the view
    // In elements, where they are not those of C's order: the axes are permuted, without gaps.
    std::vector<std::int64_t> strides;
};

// Which arrays a plan takes: NumPy's, or those of one GPU.
struct ArrayKind {
    py::object type;  // nothing for numpy.ndarray, else the class of CuPy's arrays
    int device = 0;
};

// How an error shows a number.
std::string number_text(double x);

// How an error shows a shape and a dtype.
std::string shape_text(const ArrayView& view);
const char* dtype_text(DataType type);

// How an error names a parameter: params['dense1/w'], or params for a lone array.
std::string parameter_name(const std::string& path);

// A parameter or state array: float32 or float64, C-contiguous, aligned, writeable, native byte
// order. A tensor of another library (see exchange.h) may have its axes permuted. Its extents are
// appended; those of the view are left to the caller.
ArrayView check_writeable(const ArrayKind& kind, const std::string& name, py::handle object,
                          std::vector<py::ssize_t>& extents);

// Memory of one of those types that may be read, likewise.
ArrayView check_readable(const std::string& name, py::handle object);

// Whether a parameter still has the memory, size and dtype of its view, and is writeable.
bool is_unchanged(py::handle object, const ArrayView& view);

// Whether two of one shape lie in the same order.
bool has_layout_of(const ArrayView& array, const ArrayView& other);

// Throws unless both have the same shape and dtype, and lie in the same order.
void require_alike(const std::string& name, const ArrayView& given, const ArrayView& present);

// What such a parameter has become; throws that, naming it.
[[noreturn]] void raise_changed(const std::string& name, py::handle object);

// Asks for the memory that check_gradient will read of an array: one after the other in two calls,
// a few arrays ahead. Where a model has thousands of small arrays, each of them is a cache miss.
void prefetch_array(PyObject* object);
void prefetch_extents(PyObject* object);

// The data of what nearly all gradients are, found in some nanoseconds and without running any
// Python code; nullptr for any other object.
const void* find_gradient(py::handle object, const ArrayView& parameter);

// The data of a gradient for that parameter: same dtype, shape and strides, aligned. Throws what is
// wrong.
const void* check_gradient(const ArrayKind& kind, const std::string& path,
                           const ArrayView& parameter, py::handle object);

// Arrays of a GPU that were found good: asking CuPy about one takes longer than updating it. They
// are not kept alive.
class KnownArrays {
 public:
    // The data of an array that was remembered at this place, or nullptr if it is another one.
    const void* find(std::size_t place, py::handle object) const;
    void remember(std::size_t place, py::handle object, const void* data);

 private:
    struct Known {
        py::object reference;  // a weak one
        const void* data;
    };
    std::vector<Known> known_;
};

// Memory in use, to find arrays that overlap.
class MemoryMap {
 public:
    void add(const void* data, std::size_t bytes, std::string name);
    // Sorts; throws ValueError naming both arrays if two overlap.
    void close();
    // The name of an array that overlaps the given memory, or nullptr.
    const std::string* overlapping(const void* data, std::size_t bytes) const;

 private:
    struct Interval {
        std::uintptr_t begin;
        std::uintptr_t end;
        std::string name;
    };
    std::vector<Interval> intervals_;
};

}  // namespace fusestep
