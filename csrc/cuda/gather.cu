// Copies chosen rows of many arrays side by side: the kernels of data/gather.py.
#include "../portable/convert.h"
#include "launch.h"

namespace fusestep {
namespace device {
namespace {

using Size = unsigned long long;

// Memory that one access moves.
template <class T, int n>
struct alignas(n * sizeof(T)) Pack {
    T items[n];
};

__device__ Size thread() { return Size{blockIdx.x} * blockDim.x + threadIdx.x; }
__device__ Size threads() { return Size{gridDim.x} * blockDim.x; }

template <class From, class To, class Function>
__device__ void for_each_unit(const GatherLaunch& a, const GatherColumn& column,
                              Function function) {
    // a division takes as long as a hundred additions
    const Size row_step = threads() / column.units, unit_step = threads() % column.units;
    Size row = thread() / column.units, unit = thread() % column.units;
    To* const target = reinterpret_cast<To*>(column.target);
    while (row < a.rows) {
        const Size place = a.places == nullptr ? a.begin + row : a.places[row];
        const char* const source = column.source + static_cast<long long>(place) * column.stride;
        const From from = reinterpret_cast<const From*>(source)[unit];
        target[row * column.units + unit] = function(from);
        row += row_step;
        unit += unit_step;
        if (unit >= column.units) {
            unit -= column.units;
            ++row;
        }
    }
}

template <class Unit>
__device__ void copy(const GatherLaunch& a, const GatherColumn& column) {
    for_each_unit<Unit, Unit>(a, column, [](const Unit& unit) { return unit; });
}

template <class T, int n>
__device__ void convert(const GatherLaunch& a, const GatherColumn& column) {
    for_each_unit<Pack<T, n>, Pack<float, n>>(a, column, [&column](const Pack<T, n>& unit) {
        Pack<float, n> result;
        for (int i = 0; i < n; ++i) {
            result.items[i] = converted(unit.items[i], column.scale, column.shift);
        }
        return result;
    });
}

template <class T>
__device__ void convert(const GatherLaunch& a, const GatherColumn& column) {
    if (column.width == 4) {
        convert<T, 4>(a, column);
    } else {
        convert<T, 1>(a, column);
    }
}

__device__ void copy(const GatherLaunch& a, const GatherColumn& column) {
    switch (column.width) {
        case 1:
            return copy<unsigned char>(a, column);
        case 2:
            return copy<unsigned short>(a, column);
        case 4:
            return copy<unsigned int>(a, column);
        case 8:
            return copy<unsigned long long>(a, column);
        default:
            return copy<Pack<unsigned long long, 2>>(a, column);
    }
}

}  // namespace
}  // namespace device
}  // namespace fusestep

extern "C" __global__ void gather_rows(const fusestep::device::GatherLaunch a) {
    using namespace fusestep;
    using namespace fusestep::device;
    const GatherColumn& column = a.columns[blockIdx.y];
    switch (column.element) {
        case kUint8:
            return convert<unsigned char>(a, column);
        case kInt8:
            return convert<signed char>(a, column);
        case kUint16:
            return convert<unsigned short>(a, column);
        case kInt16:
            return convert<short>(a, column);
        case kUint32:
            return convert<unsigned int>(a, column);
        case kInt32:
            return convert<int>(a, column);
        case kInt64:
            return convert<long long>(a, column);
        case kFloat32Element:
            return convert<float>(a, column);
        case kFloat64Element:
            return convert<double>(a, column);
        default:
            return copy(a, column);
    }
}

extern "C" __global__ void hashed_places(const fusestep::device::PlacesLaunch a) {
    using namespace fusestep::device;
    for (Size i = thread(); i < a.rows; i += threads()) {
        a.places[i] = permuted(a.feistel, a.begin + i);
    }
}
