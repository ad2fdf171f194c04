// Settings that follow a schedule: a program, and where its values go.
#pragma once
#include <cmath>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "program.h"

namespace fusestep {

// The clock that Python gives, or nothing for None. May run Python code, of numbers that are none
// of Python's own.
std::optional<Clock> read_clock(py::handle given);

// Where in the table of settings a value goes, and what it may be.
struct Target {
    std::size_t group;
    std::size_t column;
    std::string name;  // in errors
    double lower;
    double upper;
    bool below_upper;  // the upper bound is excluded
    double smallest;   // what is nearer to 0, but not 0, the parameters' type does not hold
    std::string expected;

    bool accepts(double value) const {
        return value >= lower && value <= upper && !(below_upper && value == upper) &&
               (value == 0.0 || std::fabs(value) >= smallest);
    }
};

// Where numbers go that are set again and again, kept so that no call converts them.
struct Targets {
    std::vector<Target> all;
};

class ScheduledValues {
 public:
    ScheduledValues() = default;
    // The values of the program's outputs go to the targets, in their order; None for no program.
    // The table, of which a row has `columns` numbers, must stay where it is.
    ScheduledValues(const py::object& program, std::vector<Target> targets,
                    std::vector<double>& table, std::size_t columns);

    // Evaluates for a clock, if one was given, and writes all values or, where one is not accepted,
    // throws. The step is `applied` unless the clock tells it.
    void follow(const std::optional<Clock>& given, std::int64_t applied);
    // Puts back what the last follow() has replaced.
    void undo();

 private:
    py::object kept_ = py::none();
    ProgramObject* program_ = nullptr;
    std::vector<Target> targets_;
    std::vector<double*> places_;
    std::vector<double> values_;
};

}  // namespace fusestep
