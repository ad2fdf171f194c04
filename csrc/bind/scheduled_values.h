// Settings that follow a schedule: a program, and where its values go.
#pragma once
#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <vector>

#include "program.h"

namespace fusestep {

// The clock that Python gives, or nothing for None. May run Python code, of numbers that are none
// of Python's own.
std::optional<Clock> read_clock(py::handle given);

class ScheduledValues {
 public:
    ScheduledValues() = default;
    // The values of the program's outputs go to the targets, in their order; None for no program. A
    // target is (which of the tables; the place in it; name; lower bound; upper bound; whether the
    // upper is excluded; the smallest size but 0; what is expected, in words). The tables must stay
    // where they are.
    ScheduledValues(const py::object& program, const py::list& targets,
                    std::initializer_list<std::vector<double>*> tables);

    // Evaluates for a clock, if one was given, and writes all values or, where one is not accepted,
    // throws. The step is `applied` unless the clock tells it.
    void follow(const std::optional<Clock>& given, std::int64_t applied);
    // Puts back what the last follow() has replaced.
    void undo();

 private:
    struct Target {
        double* place;
        std::string name;
        double lower;
        double upper;
        bool upper_open;
        double smallest;  // what is nearer to 0, but not 0, the parameters' type does not hold
        std::string expected;

        bool accepts(double value) const {
            return value >= lower && value <= upper && !(upper_open && value == upper) &&
                   (value == 0.0 || std::fabs(value) >= smallest);
        }
    };

    py::object kept_ = py::none();
    ProgramObject* program_ = nullptr;
    std::vector<Target> scheduled_;
    std::vector<double> values_;
};

}  // namespace fusestep
