#include "program.h"

#include <atomic>

#include "../runtime/float_environment.h"
#include "../runtime/isa.h"
#include "../runtime/pool.h"

namespace fusestep {

const char* const kClockInputNames[kClockInputs] = {"step", "samples", "epoch", "batch_size"};

namespace {

constexpr double kNotGiven = -1.0;

// Clocks that one thread takes at a time, and how many are worth waking threads for.
constexpr std::size_t kChunk = 4096;
constexpr std::size_t kWorthWaking = 16 * 1024;

#define FUSESTEP_OPERATION_TEXT(name) #name,
const char* const kOperationNames[kOperations] = {FUSESTEP_OPERATIONS(FUSESTEP_OPERATION_TEXT)};
#undef FUSESTEP_OPERATION_TEXT

int find_name(const char* const* names, int count, const std::string& name) {
    for (int i = 0; i < count; ++i) {
        if (name == names[i]) return i;
    }
    throw py::value_error("no operation or clock input '" + name + "'");
}

[[noreturn]] void raise_not_a_time(int input, py::handle value) {
    throw py::value_error(
        std::string(kClockInputNames[input]) +
        " must be at least 0 and below 2^53, where whole numbers are exact, not " +
        py::repr(value).cast<std::string>());
}

bool is_plain(py::handle value) {
    return value.is_none() || PyFloat_CheckExact(value.ptr()) || PyLong_CheckExact(value.ptr());
}

}  // namespace

double clock_number(int input, py::handle value) {
    if (value.is_none()) return kNotGiven;
    if (PyFloat_Check(value.ptr())) {
        const double number = PyFloat_AS_DOUBLE(value.ptr());
        if (!is_time(number)) raise_not_a_time(input, value);
        return number;
    }
    if (PyBool_Check(value.ptr()) || !PyIndex_Check(value.ptr())) {
        throw py::type_error(std::string(kClockInputNames[input]) +
                             " must be an int, a float or None, not " +
                             py::repr(value).cast<std::string>());
    }
    const py::object whole = py::reinterpret_steal<py::object>(PyNumber_Index(value.ptr()));
    if (!whole) throw py::error_already_set();
    int overflow = 0;
    const long long number = PyLong_AsLongLongAndOverflow(whole.ptr(), &overflow);
    if (overflow != 0 || !is_time(number)) raise_not_a_time(input, value);
    return static_cast<double>(number);
}

ProgramObject::ProgramObject(const py::list& nodes, const py::list& outputs) {
    const FloatEnvironment environment;
    std::vector<std::size_t> registers;  // of the nodes
    const auto register_of = [&registers](py::handle node) {
        const std::size_t i = node.cast<std::size_t>();
        if (i >= registers.size()) throw py::value_error("a node must stand before its use");
        return registers[i];
    };
    for (const py::handle node : nodes) {
        const py::tuple fields = py::reinterpret_borrow<py::tuple>(node);
        const std::string name = fields[0].cast<std::string>();
        const py::tuple operands = fields[1].cast<py::tuple>();
        const py::object payload = fields[2];
        if (name == "constant") {
            registers.push_back(program_.add_constant(payload.cast<double>()));
        } else if (name == "input") {
            registers.push_back(program_.add_input(static_cast<ClockInput>(
                find_name(kClockInputNames, kClockInputs, payload.cast<std::string>()))));
        } else if (name == "cell" || name == "function") {
            if (name == "function") functions_.push_back(program_.cells());
            kept_.push_back(payload.cast<py::array_t<double>>());
            registers.push_back(program_.add_cell(kept_.back().data()));
        } else {
            Instruction instruction{};
            instruction.operation =
                static_cast<Operation>(find_name(kOperationNames, kOperations, name));
            if (operands.size() > kMaxOperands) throw py::value_error("too many operands");
            for (std::size_t k = 0; k < operands.size(); ++k) {
                instruction.operand[k] = register_of(operands[k]);
            }
            if (!payload.is_none()) {
                kept_.push_back(payload.cast<py::array_t<double>>());
                instruction.table = kept_.back().data();
                instruction.table_size = static_cast<std::size_t>(kept_.back().size());
            }
            registers.push_back(
                program_.add(instruction, static_cast<int>(operands.size()), active_evaluate()));
        }
    }
    for (const py::handle output : outputs) program_.add_output(register_of(output));
    for (int i = 0; i < kClockInputs; ++i) {
        reads_[i] = program_.reads(static_cast<ClockInput>(i));
    }
}

void ProgramObject::check(const Clock& clock, const std::string& what,
                          const std::string& how) const {
    for (int i = 0; i < kClockInputs; ++i) {
        if (!reads_[i] || clock.input[i] >= 0.0) continue;
        const std::string name = kClockInputNames[i];
        throw py::value_error(what + " reads " + name + ": pass " + how + name + "=..." +
                              (how.empty() ? "" : ")"));
    }
}

void ProgramObject::run(const Clock& clock, double* values) {
#ifdef Py_GIL_DISABLED
    const std::lock_guard<std::mutex> alone(registers_);
#endif
    const FloatEnvironment environment;
    program_.run(active_evaluate(), clock.input, values);
}

// None where an argument is not an int or a float: the caller then takes the way of arrays.
py::object ProgramObject::value(py::handle step, py::handle samples, py::handle epoch,
                                py::handle batch_size) {
    if (!is_plain(step) || !is_plain(samples) || !is_plain(epoch) || !is_plain(batch_size)) {
        return py::none();
    }
    const Clock clock = {{clock_number(kStep, step), clock_number(kSamples, samples),
                          clock_number(kEpoch, epoch), clock_number(kBatchSize, batch_size)}};
    check(clock, "this expression", "");
    double result = 0.0;
    run(clock, &result);
    return py::float_(result);
}

// The inputs are None, or arrays of int64 or float64, of `count` elements or of one; `functions`
// what the Python functions gave, in place of what their cells hold.
py::array_t<double> ProgramObject::values(const py::list& inputs, py::ssize_t count,
                                          const py::list& functions) const {
    ClockColumn columns[kClockInputs];
    Clock given;
    for (int i = 0; i < kClockInputs; ++i) {
        const py::object input = inputs[static_cast<std::size_t>(i)];
        given.input[i] = input.is_none() ? kNotGiven : 0.0;
        if (input.is_none()) continue;
        const py::array array = input.cast<py::array>();
        const bool whole = py::isinstance<py::array_t<long long>>(array);
        if ((!whole && !py::isinstance<py::array_t<double>>(array)) ||
            !(array.flags() & py::array::c_style) || (array.size() != count && array.size() != 1)) {
            throw py::type_error("clock inputs must be int64 or float64 arrays of one length");
        }
        columns[i].same_for_all = array.size() == 1;
        if (whole) {
            columns[i].whole = static_cast<const long long*>(array.data());
        } else {
            columns[i].real = static_cast<const double*>(array.data());
        }
    }
    check(given, "this expression", "");
    py::array_t<double> result(count);
    double* const values = result.mutable_data();
    const std::size_t n = static_cast<std::size_t>(count);
    if (functions.size() != functions_.size()) {
        throw py::value_error("a number must be given for each Python function");
    }
    std::vector<double> cells = program_.cell_values();
    for (std::size_t k = 0; k < functions_.size(); ++k) {
        cells[functions_[k]] = functions[k].cast<double>();
    }
    std::atomic<bool> good{true};
    {
        const py::gil_scoped_release unlocked;  // nothing of Python's is touched until the end
        const Evaluate evaluate = active_evaluate();
        auto task = [&](std::size_t i) {
            const FloatEnvironment environment;
            const std::size_t begin = i * kChunk, end = begin + kChunk < n ? begin + kChunk : n;
            if (!program_.run(evaluate, columns, cells, begin, end, values)) good = false;
        };
        run_parallel((n + kChunk - 1) / kChunk, n >= kWorthWaking, task);
    }
    // the program has looked at what it reads; what is passed besides must be right, too
    for (int i = 0; i < kClockInputs; ++i) {
        const bool look = given.input[i] >= 0.0 && !(good && reads_[i]);
        for (std::size_t k = 0; look && k < (columns[i].same_for_all ? 1 : n); ++k) {
            if (columns[i].whole != nullptr) {
                const long long value = columns[i].whole[k];
                if (!is_time(value)) raise_not_a_time(i, py::int_(value));
            } else {
                const double value = columns[i].real[k];
                if (!is_time(value)) raise_not_a_time(i, py::float_(value));
            }
        }
    }
    return result;
}

void register_program(py::module_& module) {
    py::class_<ProgramObject>(module, "Program")
        .def(py::init<const py::list&, const py::list&>(), py::arg("nodes"), py::arg("outputs"))
        .def("value", &ProgramObject::value, py::arg("step"), py::arg("samples"), py::arg("epoch"),
             py::arg("batch_size"))
        .def("values", &ProgramObject::values, py::arg("inputs"), py::arg("count"),
             py::arg("functions"));
}

}  // namespace fusestep
