// The seam between programs and the evaluator of an instruction set.
#pragma once
#include <stddef.h>

namespace fusestep {

// What an instruction computes from its operands a, b, c.
//   divide_by   a / b, for b and c = 1 / b that are doubles
//   table       the value at floor(a), the first or last one beyond the ends
//   count       how many values of a rising table are at most a
//   random      uniform in [0, 1), a function of floor(a) and the seed b + 2^32 c
#define FUSESTEP_OPERATIONS(X) \
    X(add)                     \
    X(subtract)                \
    X(multiply)                \
    X(divide)                  \
    X(power)                   \
    X(minimum)                 \
    X(maximum)                 \
    X(less)                    \
    X(less_equal)              \
    X(where)                   \
    X(floor)                   \
    X(sqrt)                    \
    X(exp)                     \
    X(log)                     \
    X(cospi)                   \
    X(tanh)                    \
    X(divide_by)               \
    X(table)                   \
    X(count)                   \
    X(random)

#define FUSESTEP_OPERATION_NAME(name) op_##name,
enum Operation : int { FUSESTEP_OPERATIONS(FUSESTEP_OPERATION_NAME) kOperations };
#undef FUSESTEP_OPERATION_NAME

constexpr int kMaxOperands = 3;

// Which operands are known to be doubles: none, the second, or the first two.
enum Form : int { kGeneral, kWithDouble, kOfDoubles };

struct Instruction {
    Operation operation;
    Form form;
    size_t result;  // registers
    size_t operand[kMaxOperands];
    const double* table;
    size_t table_size;
};

// Runs a program for n clocks at once. Register r is the pair of columns that begin at
// hi + r * stride and lo + r * stride.
using Evaluate = void (*)(const Instruction* code, size_t instructions, double* hi, double* lo,
                          size_t stride, size_t n);

}  // namespace fusestep
