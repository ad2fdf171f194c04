#include "program.h"

#include <algorithm>
#include <utility>

namespace fusestep {
namespace {

// Clocks at once: enough to carry the call of a loop, few enough for the registers to stay in the
// caches. Measured: 64 and 256 take a tenth longer.
constexpr std::size_t kBlock = 128;

// Copy n values of the clock; return whether all are times. `stride` is 1, or 0 for one value for
// all.
bool fill(const double* from, std::size_t stride, std::size_t n, double* to) {
    bool good = true;
    for (std::size_t i = 0; i < n; ++i) {
        to[i] = from[i * stride];
        good &= is_time(to[i]);
    }
    return good;
}

// With the bits of 2^52 above them, 26 bits of an integer are a double: vectors of any instruction
// set can do that, but few can convert 64-bit integers.
double from_bits_of(unsigned long long part) {
    return from_bits(part | 0x4330000000000000ULL) - 4503599627370496.0;
}

bool fill(const long long* from, std::size_t stride, std::size_t n, double* to) {
    unsigned long long beyond = 0;
    for (std::size_t i = 0; i < n; ++i) {
        const unsigned long long value = static_cast<unsigned long long>(from[i * stride]);
        beyond |= value >> 53;
        to[i] =
            from_bits_of((value >> 26) & 0x7ffffff) * 67108864.0 + from_bits_of(value & 0x3ffffff);
    }
    return beyond == 0;
}

}  // namespace

std::size_t Program::add_register(double value, bool constant, bool is_double) {
    hi_.push_back(value);
    lo_.push_back(0.0);
    constant_.push_back(constant);
    is_double_.push_back(is_double);
    return hi_.size() - 1;
}

std::size_t Program::add_constant(double value) { return add_register(value, true, true); }

std::size_t Program::add_input(ClockInput input) {
    inputs_.push_back({add_register(0.0, false, true), input});
    return inputs_.back().reg;
}

std::size_t Program::add_cell(const double* cell) {
    cells_.push_back({add_register(0.0, false, true), cell});
    return cells_.back().reg;
}

std::size_t Program::add(Instruction instruction, int operands, Evaluate evaluate) {
    std::size_t* const operand = instruction.operand;
    const auto is_constant = [this](std::size_t reg) { return constant_[reg]; };
    const bool constant = std::all_of(operand, operand + operands, is_constant);
    const bool commutes = instruction.operation == op_add || instruction.operation == op_multiply;
    if (commutes && is_double_[operand[0]]) std::swap(operand[0], operand[1]);
    if (!constant && instruction.operation == op_divide && constant_[operand[1]] &&
        is_double_[operand[1]]) {
        instruction.operation = op_divide_by;
        operand[2] = add_constant(1.0 / hi_[operand[1]]);
    }
    instruction.form = !is_double_[operand[1]]  ? kGeneral
                       : is_double_[operand[0]] ? kOfDoubles
                                                : kWithDouble;
    instruction.result = add_register(0.0, constant, false);
    if (constant) {
        evaluate(&instruction, 1, hi_.data(), lo_.data(), 1, 1);
        is_double_[instruction.result] = lo_[instruction.result] == 0.0;
    } else {
        code_.push_back(instruction);
    }
    return instruction.result;
}

bool Program::reads(ClockInput input) const {
    return std::any_of(inputs_.begin(), inputs_.end(),
                       [input](const Input& in) { return in.input == input; });
}

void Program::run(Evaluate evaluate, const double* clock, double* values) {
    for (const Input& in : inputs_) hi_[in.reg] = clock[in.input];
    for (const Cell& cell : cells_) hi_[cell.reg] = *cell.value;
    evaluate(code_.data(), code_.size(), hi_.data(), lo_.data(), 1, 1);
    for (std::size_t k = 0; k < outputs_.size(); ++k) values[k] = hi_[outputs_[k]];
}

std::vector<double> Program::cell_values() const {
    std::vector<double> values;
    for (const Cell& cell : cells_) values.push_back(*cell.value);
    return values;
}

bool Program::run(Evaluate evaluate, const ClockColumn* clock, const std::vector<double>& cells,
                  std::size_t begin, std::size_t end, double* values) const {
    std::vector<double> columns(2 * kBlock * registers());
    double* const hi = columns.data();
    double* const lo = hi + kBlock * registers();
    for (std::size_t r = 0; r < registers(); ++r) {
        if (!constant_[r]) continue;
        std::fill_n(hi + r * kBlock, kBlock, hi_[r]);
        std::fill_n(lo + r * kBlock, kBlock, lo_[r]);
    }
    for (std::size_t k = 0; k < cells_.size(); ++k) {
        std::fill_n(hi + cells_[k].reg * kBlock, kBlock, cells[k]);
    }
    bool good = true;
    for (; begin < end; begin += kBlock) {
        const std::size_t n = std::min(kBlock, end - begin);
        for (const Input& in : inputs_) {
            const ClockColumn& column = clock[in.input];
            double* const to = hi + in.reg * kBlock;
            const std::size_t stride = column.same_for_all ? 0 : 1;
            good &= column.whole != nullptr ? fill(column.whole + begin * stride, stride, n, to)
                                            : fill(column.real + begin * stride, stride, n, to);
        }
        evaluate(code_.data(), code_.size(), hi, lo, kBlock, n);
        std::copy_n(hi + outputs_[0] * kBlock, n, values + begin);
    }
    return good;
}

}  // namespace fusestep
