#include "units.h"

#include <algorithm>

#include "isa.h"

namespace fusestep {
namespace {

struct Array {
    const void* data;
    Treatment treatment;
};

const void* element(DataType type, const void* data, std::size_t i) {
    return static_cast<const char*>(data) + i * item_size(type);
}

void write_factor(const Measured& measured, double parameter_squares, double gradient_squares,
                  void* factors, std::size_t unit) {
    const double factor =
        unit_factor(measured.agc, measured.eps, parameter_squares, gradient_squares);
    if (measured.type == kFloat32) {
        static_cast<float*>(factors)[unit] = static_cast<float>(factor);
    } else {
        static_cast<double*>(factors)[unit] = factor;
    }
}

// Of units first to last, at most kColumns of them, that are columns.
void sum_columns(const Measured& measured, const Array& array, const Units& units,
                 std::size_t first, std::size_t last, double* totals) {
    const SumColumns kernel = active_kernels().sum_columns[measured.type][array.treatment];
    const auto rows = static_cast<std::size_t>(units.outer);
    const auto count = static_cast<std::size_t>(units.count);
    SumOfBlocks sums[kColumns];
    for (std::size_t j = 0; j < last - first; ++j) clear(sums[j]);
    for (std::size_t row = 0; row < rows; row += kBlock) {
        double blocks[kColumns], lanes[kLanes * kColumns] = {};
        kernel(measured.gradient_scalars, std::min<std::size_t>(kBlock, rows - row), last - first,
               count, element(measured.type, array.data, row * count + first), lanes, blocks);
        for (std::size_t j = 0; j < last - first; ++j) add_block(sums[j], blocks[j]);
    }
    for (std::size_t j = 0; j < last - first; ++j) totals[j] = total(sums[j]);
}

// Of one unit, whose elements are gathered from runs, and treated, one block after the other.
double sum_runs(const Measured& measured, const Array& array, const Units& units,
                std::size_t unit) {
    const KernelTable& kernels = active_kernels();
    const ClipUnits copy = kernels.clip_units[measured.type][array.treatment];
    const auto size = static_cast<std::size_t>(unit_size(units));
    const auto inner = static_cast<std::size_t>(units.inner);
    constexpr Units whole = {1, 1, ~0ull};
    const float one32 = 1.0f;
    const double one64 = 1.0;
    const void* const one = measured.type == kFloat32 ? static_cast<const void*>(&one32) : &one64;
    const bool is_plain = array.treatment == kAsIs && units.outer == 1;
    alignas(64) double block[kBlock];
    SumOfBlocks sum;
    clear(sum);
    for (std::size_t k = 0; k < size; k += kBlock) {
        const std::size_t end = std::min<std::size_t>(size, k + kBlock);
        const void* terms = block;
        if (is_plain) terms = element(measured.type, array.data, unit * inner + k);
        for (std::size_t i = k; i < end && !is_plain;) {
            const std::size_t run = std::min(end - i, inner - i % inner);
            const auto place = static_cast<std::size_t>(place_in(units, unit, i));
            copy(measured.gradient_scalars, whole, 0, run,
                 element(measured.type, array.data, place), one,
                 reinterpret_cast<char*>(block) + (i - k) * item_size(measured.type));
            i += run;
        }
        double lanes[kLanes] = {};
        kernels.sum_squares[measured.type][kPlain](end - k, terms, 1.0, 0, lanes);
        add_block(sum, add_lanes(lanes));
    }
    return total(sum);
}

}  // namespace

void measure_units(const Measured& measured, const Units& units, std::size_t first,
                   std::size_t last, void* factors) {
    const Array parameter = {measured.parameter, kAsIs};
    const Array gradient = {measured.gradient, measured.treatment};
    if (units.inner > 1 || units.count == 1) {
        for (std::size_t unit = first; unit < last; ++unit) {
            const double of_parameter = sum_runs(measured, parameter, units, unit);
            write_factor(measured, of_parameter, sum_runs(measured, gradient, units, unit), factors,
                         unit);
        }
        return;
    }
    double of_parameter[kColumns], of_gradient[kColumns];
    for (std::size_t begin = first; begin < last; begin += kColumns) {
        const std::size_t end = std::min(last, begin + kColumns);
        sum_columns(measured, parameter, units, begin, end, of_parameter);
        sum_columns(measured, gradient, units, begin, end, of_gradient);
        for (std::size_t unit = begin; unit < end; ++unit) {
            write_factor(measured, of_parameter[unit - begin], of_gradient[unit - begin], factors,
                         unit);
        }
    }
}

}  // namespace fusestep
