// The layout of the structs of cuda/launch.h, as dtypes of NumPy: Python fills and reads them by
// these.
#include <pybind11/numpy.h>

#include <cstddef>
#include <type_traits>

#include "../cuda/launch.h"
#include "../portable/sums.h"

namespace fusestep {
namespace {

namespace py = pybind11;

// Names, formats and offsets of fields, as numpy.dtype takes them.
struct Fields {
    py::list names;
    py::list formats;
    py::list offsets;
};

template <class Struct>
Fields fields_of();

template <class T>
py::object format_of() {
    if constexpr (std::is_array_v<T>) {
        return py::make_tuple(format_of<std::remove_extent_t<T>>(), std::extent_v<T>);
    } else if constexpr (std::is_pointer_v<T>) {
        return py::dtype("P");
    } else if constexpr (std::is_arithmetic_v<T>) {
        return py::dtype::of<T>();
    } else {
        const Fields fields = fields_of<T>();
        return py::dtype(fields.names, fields.formats, fields.offsets, sizeof(T));
    }
}

template <class Field>
void add_field(Fields& fields, const char* name, std::size_t offset) {
    fields.names.append(name);
    fields.formats.append(format_of<Field>());
    fields.offsets.append(offset);
}

#define FUSESTEP_BEGIN(Name)           \
    template <>                        \
    Fields fields_of<device::Name>() { \
        using Struct = device::Name;   \
        Fields fields;
#define FUSESTEP_FIELD(name) \
    add_field<decltype(Struct::name)>(fields, #name, offsetof(Struct, name));
#define FUSESTEP_END \
    return fields;   \
    }

// clang-format off
template <>
Fields fields_of<Feistel>() {
    using Struct = Feistel;
    Fields fields;
    FUSESTEP_FIELD(n) FUSESTEP_FIELD(half_bits) FUSESTEP_FIELD(keys)
FUSESTEP_END

template <>
Fields fields_of<Units>() {
    using Struct = Units;
    Fields fields;
    FUSESTEP_FIELD(outer) FUSESTEP_FIELD(count) FUSESTEP_FIELD(inner)
FUSESTEP_END

FUSESTEP_BEGIN(Leaf)
    FUSESTEP_FIELD(parameter) FUSESTEP_FIELD(state) FUSESTEP_FIELD(accumulator)
    FUSESTEP_FIELD(average) FUSESTEP_FIELD(copy) FUSESTEP_FIELD(copy_type)
    FUSESTEP_FIELD(begin) FUSESTEP_FIELD(size) FUSESTEP_FIELD(type) FUSESTEP_FIELD(sums)
    FUSESTEP_FIELD(unit_factors) FUSESTEP_FIELD(units) FUSESTEP_FIELD(units_together)
FUSESTEP_END

FUSESTEP_BEGIN(Chunk)
    FUSESTEP_FIELD(leaf) FUSESTEP_FIELD(index)
FUSESTEP_END

FUSESTEP_BEGIN(Entry)
    FUSESTEP_FIELD(scalars) FUSESTEP_FIELD(divisor) FUSESTEP_FIELD(limit) FUSESTEP_FIELD(sign)
    FUSESTEP_FIELD(average_rate) FUSESTEP_FIELD(agc) FUSESTEP_FIELD(agc_eps)
    FUSESTEP_FIELD(kernel_case) FUSESTEP_FIELD(reserved)
FUSESTEP_END

FUSESTEP_BEGIN(Progress)
    FUSESTEP_FIELD(attempted) FUSESTEP_FIELD(applied) FUSESTEP_FIELD(base) FUSESTEP_FIELD(rows)
FUSESTEP_END

FUSESTEP_BEGIN(Outcome)
    FUSESTEP_FIELD(factor) FUSESTEP_FIELD(row) FUSESTEP_FIELD(applies)
FUSESTEP_END

FUSESTEP_BEGIN(Report)
    FUSESTEP_FIELD(sum) FUSESTEP_FIELD(grad_norm) FUSESTEP_FIELD(attempted)
    FUSESTEP_FIELD(applied) FUSESTEP_FIELD(applies) FUSESTEP_FIELD(exhausted)
    FUSESTEP_FIELD(number)
FUSESTEP_END

FUSESTEP_BEGIN(UpdateLaunch)
    FUSESTEP_FIELD(leaves) FUSESTEP_FIELD(chunks) FUSESTEP_FIELD(unit_chunks)
    FUSESTEP_FIELD(gradients) FUSESTEP_FIELD(entry_of) FUSESTEP_FIELD(table) FUSESTEP_FIELD(outcome)
    FUSESTEP_FIELD(entries) FUSESTEP_FIELD(sums) FUSESTEP_FIELD(factors)
    FUSESTEP_FIELD(first) FUSESTEP_FIELD(last) FUSESTEP_FIELD(first_leaf) FUSESTEP_FIELD(entry)
FUSESTEP_END

FUSESTEP_BEGIN(Conclusion)
    FUSESTEP_FIELD(sum) FUSESTEP_FIELD(scale)
    FUSESTEP_FIELD(grad_scale) FUSESTEP_FIELD(clip_norm) FUSESTEP_FIELD(clip_norms)
    FUSESTEP_FIELD(has_sum) FUSESTEP_FIELD(skips) FUSESTEP_FIELD(number)
    FUSESTEP_FIELD(progress) FUSESTEP_FIELD(outcome) FUSESTEP_FIELD(report)
FUSESTEP_END

FUSESTEP_BEGIN(SumLaunch)
    FUSESTEP_FIELD(leaves) FUSESTEP_FIELD(gradients) FUSESTEP_FIELD(holds)
    FUSESTEP_FIELD(leaf_count) FUSESTEP_FIELD(total) FUSESTEP_FIELD(weight)
    FUSESTEP_FIELD(partial) FUSESTEP_FIELD(arrived) FUSESTEP_FIELD(plain_sum)
    FUSESTEP_FIELD(sum) FUSESTEP_FIELD(weighted_sum) FUSESTEP_FIELD(concludes)
    FUSESTEP_FIELD(is_followed) FUSESTEP_FIELD(conclusion)
FUSESTEP_END

FUSESTEP_BEGIN(GatherColumn)
    FUSESTEP_FIELD(source) FUSESTEP_FIELD(stride) FUSESTEP_FIELD(target) FUSESTEP_FIELD(units)
    FUSESTEP_FIELD(width) FUSESTEP_FIELD(element) FUSESTEP_FIELD(scale) FUSESTEP_FIELD(shift)
FUSESTEP_END

FUSESTEP_BEGIN(GatherLaunch)
    FUSESTEP_FIELD(places) FUSESTEP_FIELD(begin) FUSESTEP_FIELD(rows) FUSESTEP_FIELD(columns)
FUSESTEP_END

FUSESTEP_BEGIN(PlacesLaunch)
    FUSESTEP_FIELD(feistel) FUSESTEP_FIELD(begin) FUSESTEP_FIELD(rows) FUSESTEP_FIELD(places)
FUSESTEP_END
        // clang-format on

    }  // namespace

    void register_launch(py::module_ & module) {
        // looked at by those who launch or test kernels alone, so made when it is asked for
        module.def("launch_structs", [] {
            py::dict structs;
#define FUSESTEP_STRUCT(Name) structs[#Name] = format_of<device::Name>();
            FUSESTEP_STRUCT(Leaf)
            FUSESTEP_STRUCT(Chunk)
            FUSESTEP_STRUCT(Entry)
            FUSESTEP_STRUCT(Progress)
            FUSESTEP_STRUCT(Outcome)
            FUSESTEP_STRUCT(Report)
            FUSESTEP_STRUCT(UpdateLaunch)
            FUSESTEP_STRUCT(Conclusion)
            FUSESTEP_STRUCT(SumLaunch)
            FUSESTEP_STRUCT(GatherColumn)
            FUSESTEP_STRUCT(GatherLaunch)
            FUSESTEP_STRUCT(PlacesLaunch)
#undef FUSESTEP_STRUCT
            return structs;
        });
        module.def("launch_constants", [] {
            py::dict constants;
#define FUSESTEP_CONSTANT(name) constants[#name] = name
            using namespace device;
            FUSESTEP_CONSTANT(kThreads);
            FUSESTEP_CONSTANT(kChunk);
            FUSESTEP_CONSTANT(kInlineEntries);
            FUSESTEP_CONSTANT(kCollectThreads);
            FUSESTEP_CONSTANT(kBlocksPerGroup);
            FUSESTEP_CONSTANT(kMostColumns);
            FUSESTEP_CONSTANT(kBlock);
            FUSESTEP_CONSTANT(kMaxVariants);
            FUSESTEP_CONSTANT(kMaxStates);
            FUSESTEP_CONSTANT(kFactorBytes);
#undef FUSESTEP_CONSTANT
            constants["kTreatments"] = static_cast<int>(kTreatments);
            return constants;
        });
    }

}  // namespace fusestep
