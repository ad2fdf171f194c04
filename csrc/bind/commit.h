// Changes that are made together or not at all.
#pragma once
#include <pybind11/pybind11.h>

#include <vector>

namespace fusestep {

// Attributes to set: (object, name, value) each. Everything is looked up when it is built; apply()
// then runs no Python code, so that no signal handler, exception or other thread comes between two
// of the changes. Old values are kept until the end, since letting go of one may run code.
class Changes {
 public:
    explicit Changes(pybind11::handle changes);
    void apply();
    // Whether every attribute held this very object when it was looked up.
    bool are_made() const;

 private:
    struct Change {
        pybind11::object object;
        pybind11::object name;
        pybind11::object value;
    };
    std::vector<Change> changes_;
    std::vector<pybind11::object> old_;
};

// Arrays of NumPy to write: (destination, source) each, of one dtype and size, in memory of their
// own; None as the source stands for zeros. Everything is checked when it is built; the list, which
// must not change, is kept.
class Copies {
 public:
    explicit Copies(pybind11::list arrays);
    void apply() const;

 private:
    // So much as one thread copies at once.
    struct Copy {
        void* destination;
        const void* source;  // or nullptr
        std::size_t bytes;
    };
    pybind11::list arrays_;
    std::vector<Copy> copies_;
    std::size_t bytes_ = 0;
};

}  // namespace fusestep
