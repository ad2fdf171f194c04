// A compiled expression: instructions over registers, run for one clock or for many.
#pragma once
#include <cstddef>
#include <vector>

#include "../portable/double_double.h"
#include "instruction.h"

namespace fusestep {

// What an expression may read of the clock.
enum ClockInput : int { kStep, kSamples, kEpoch, kBatchSize, kClockInputs };

// The values of one clock input: whole or real numbers, one for each clock or one for all.
struct ClockColumn {
    const long long* whole = nullptr;
    const double* real = nullptr;
    bool same_for_all = false;
};

// Whether a clock input may have this value: not negative, and below 2^53, where every whole number
// is a double.
inline bool is_time(double value) { return value >= 0.0 && value < 9007199254740992.0; }
inline bool is_time(long long value) { return value >= 0 && value < 9007199254740992LL; }

class Program {
 public:
    // Each returns its register. A cell is a double that its owner may change between evaluations.
    std::size_t add_constant(double value);
    std::size_t add_input(ClockInput input);
    std::size_t add_cell(const double* cell);
    // An operation whose operands are all constant is carried out here and now, by `evaluate`.
    // Operands may be reordered where that saves work and changes no bit.
    std::size_t add(Instruction instruction, int operands, Evaluate evaluate);
    void add_output(std::size_t reg) { outputs_.push_back(reg); }

    std::size_t registers() const { return hi_.size(); }
    std::size_t outputs() const { return outputs_.size(); }
    std::size_t cells() const { return cells_.size(); }
    bool reads(ClockInput input) const;

    // The outputs for one clock. Not for two threads at once.
    void run(Evaluate evaluate, const double* clock, double* values);

    // What the cells hold now, for the next function.
    std::vector<double> cell_values() const;

    // The first output for clocks [begin, end). Several threads may do this at once. Returns false
    // where an input may not have its value; the results are then meaningless.
    bool run(Evaluate evaluate, const ClockColumn* clock, const std::vector<double>& cells,
             std::size_t begin, std::size_t end, double* values) const;

 private:
    struct Input {
        std::size_t reg;
        ClockInput input;
    };
    struct Cell {
        std::size_t reg;
        const double* value;
    };

    std::size_t add_register(double value, bool constant, bool is_double);

    std::vector<Instruction> code_;
    std::vector<Input> inputs_;
    std::vector<Cell> cells_;
    std::vector<std::size_t> outputs_;
    // the registers for one clock; those of constants are filled once
    std::vector<double> hi_;
    std::vector<double> lo_;
    std::vector<bool> constant_;
    std::vector<bool> is_double_;  // lo is always 0
};

}  // namespace fusestep
