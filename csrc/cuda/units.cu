// Adaptive gradient clipping: the factors of units, before an update that multiplies by them.
//
// A thread block has kUnitSlots slots of kLanes threads, a lane each. Slots are units, or, of one
// long unit, blocks that follow each other; the sums of blocks are added in the order of
// portable/sums.h.
#include "entries.h"
#include "lanes.h"

namespace fusestep {
namespace device {
namespace {

constexpr unsigned kInFlight = 4;  // elements of each array, for each thread

static_assert(kThreads == kUnitSlots * kLanes);

struct Squares {
    double parameter = 0.0;
    double gradient = 0.0;
};

// Of this lane's elements of a block of a unit.
template <class T>
__device__ __forceinline__ Squares add_lane(const GradientScalars<T>& scalars, const Leaf& leaf,
                                            const T* gradient, Index unit, Index block,
                                            unsigned lane) {
    const T* const parameter = static_cast<const T*>(leaf.parameter);
    const Index size = unit_size(leaf.units), next = (block + 1) * kBlock;
    const Index end = next < size ? next : size;
    Squares sum;
    for (Index start = block * kBlock + lane; start < end; start += kInFlight * kLanes) {
        T p[kInFlight], g[kInFlight];
#pragma unroll
        for (unsigned j = 0; j < kInFlight; ++j) {
            const Index k = start + j * kLanes;
            if (k >= end) continue;
            const Index place = place_in(leaf.units, unit, k);
            p[j] = parameter[place];
            g[j] = gradient[place];
        }
#pragma unroll
        for (unsigned j = 0; j < kInFlight; ++j) {
            if (start + j * kLanes >= end) continue;
            const double of_parameter = static_cast<double>(p[j]);
            const double of_gradient = static_cast<double>(treat<kDivided>(scalars, g[j]));
            sum.parameter += of_parameter * of_parameter;
            sum.gradient += of_gradient * of_gradient;
        }
    }
    return sum;
}

// What has no divisor, factor or limit keeps its bits under treat<kDivided>, too.
template <class T>
__device__ __forceinline__ void measure(const UpdateLaunch& a, const Chunk& chunk, const Leaf& leaf,
                                        const Entry& entry, const void* gradient) {
    __shared__ double parameter_lanes[kUnitSlots][kLanes];
    __shared__ double gradient_lanes[kUnitSlots][kLanes];
    const auto scalars = gradient_scalars_of<T>(a, entry);
    const Units& units = leaf.units;
    const bool has_many = leaf.units_together > 1;  // slots are units
    // neighbours read neighbours
    const bool are_columns = units.inner == 1 && has_many;
    const unsigned slot = are_columns ? threadIdx.x % kUnitSlots : threadIdx.x / kLanes;
    const unsigned lane = are_columns ? threadIdx.x / kUnitSlots : threadIdx.x % kLanes;
    const Index unit = Index{chunk.index} * leaf.units_together + (has_many ? slot : 0);
    const Index blocks = divide_up(unit_size(units), kBlock);
    const bool concludes = lane == 0 && unit < units.count && (has_many || slot == 0);
    SumOfBlocks of_parameter, of_gradient;
    clear(of_parameter);
    clear(of_gradient);
    for (Index first = 0; first < blocks; first += has_many ? 1 : kUnitSlots) {
        const Index block = first + (has_many ? 0 : slot);
        Squares sum;
        if (unit < units.count && block < blocks) {
            sum = add_lane(scalars, leaf, static_cast<const T*>(gradient), unit, block, lane);
        }
        parameter_lanes[slot][lane] = sum.parameter;
        gradient_lanes[slot][lane] = sum.gradient;
        __syncthreads();
        if (lane == 0) {
            fusestep::add_lanes(parameter_lanes[slot]);
            fusestep::add_lanes(gradient_lanes[slot]);
        }
        __syncthreads();
        const unsigned count = has_many ? 1 : kUnitSlots;
        for (unsigned i = 0; concludes && i < count && first + i < blocks; ++i) {
            add_block(of_parameter, parameter_lanes[slot + i][0]);
            add_block(of_gradient, gradient_lanes[slot + i][0]);
        }
        __syncthreads();
    }
    if (!concludes) return;
    static_cast<T*>(leaf.unit_factors)[unit] = static_cast<T>(
        unit_factor(entry.agc, entry.agc_eps, total(of_parameter), total(of_gradient)));
}

}  // namespace
}  // namespace device
}  // namespace fusestep

extern "C" __global__ void __launch_bounds__(fusestep::device::kThreads)
    fusestep_units(const __grid_constant__ fusestep::device::UpdateLaunch a) {
    using namespace fusestep::device;
    if (!applies(a)) return;
    const Chunk chunk = a.unit_chunks[blockIdx.x];
    const void* gradient = a.gradients[chunk.leaf];
    if (gradient == nullptr) return;
    const Leaf& leaf = a.leaves[chunk.leaf];
    const Entry& entry = entry_for(a, chunk.leaf);
    if (entry.agc == 0.0) return;
    if (leaf.type == 0) {
        measure<float>(a, chunk, leaf, entry, gradient);
    } else {
        measure<double>(a, chunk, leaf, entry, gradient);
    }
}
