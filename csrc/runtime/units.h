// The norms of the units of a parameter and its gradient, and the factors that they make.
#pragma once
#include <cstddef>

#include "../kernels/table.h"

namespace fusestep {

// A parameter with units, and its gradient, of which treat() makes what is measured.
struct Measured {
    DataType type;
    Treatment treatment;
    const void* gradient_scalars;
    const void* parameter;
    const void* gradient;
    double agc;
    double eps;
};

// Writes the factors of units first to last, of the type of the parameter, to factors[first] and so
// on.
void measure_units(const Measured& measured, const Units& units, std::size_t first,
                   std::size_t last, void* factors);

}  // namespace fusestep
