// A compiled expression, as Python holds it, and the clock it is asked for.
#pragma once
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <mutex>
#include <string>

#include "../expression/program.h"

namespace fusestep {

namespace py = pybind11;

extern const char* const kClockInputNames[kClockInputs];

// One clock; what was not given is negative.
struct Clock {
    double input[kClockInputs];
};

class ProgramObject {
 public:
    ProgramObject(const py::list& nodes, const py::list& outputs);

    std::size_t outputs() const { return program_.outputs(); }

    // Throws ValueError saying what to pass where the program reads an input that is not given.
    // `how` is the way to pass one: "epoch=..." for the input called epoch.
    void check(const Clock& clock, const std::string& what, const std::string& how) const;
    void run(const Clock& clock, double* values);

    py::object value(py::handle step, py::handle samples, py::handle epoch, py::handle batch_size);
    py::array_t<double> values(const py::list& inputs, py::ssize_t count,
                               const py::list& functions) const;

 private:
    Program program_;
#ifdef Py_GIL_DISABLED
    std::mutex registers_;  // of the program, which a run writes
#endif
    std::vector<py::array_t<double>> kept_;  // the memory of cells and tables
    std::vector<std::size_t> functions_;     // which cells are of Python functions
    bool reads_[kClockInputs];
};

// A number of the clock: None stands for "not given". Throws TypeError or ValueError.
double clock_number(int input, py::handle value);

}  // namespace fusestep
