// The arrays that a plan writes: looking at them in each step, and replacing them.
#include <algorithm>
#include <cmath>
#include <utility>

#include "checked_plan.h"

namespace fusestep {
namespace {

// How much of a step's work is worth a look at one more array, or at an entry of a dict.
constexpr std::size_t kElementsPerLook = 2048;
constexpr std::size_t kElementsPerLookup = 8192;
constexpr std::size_t kLooks = 16;  // that every step takes

}  // namespace

std::vector<ArrayView> check_parameters(const ArrayKind& kind,
                                        const std::vector<std::string>& paths,
                                        const py::sequence& parameters,
                                        std::vector<py::ssize_t>& extents) {
    std::vector<ArrayView> views;
    MemoryMap memory;
    for (std::size_t i = 0; i < paths.size(); ++i) {
        const std::string name = parameter_name(paths[i]);
        views.push_back(check_writeable(kind, name, parameters[i], extents));
        memory.add(views[i].data, views[i].size * item_size(views[i].type), name);
    }
    memory.close();
    const py::ssize_t* next = extents.data();
    for (ArrayView& view : views) {
        view.extents = next;
        next += view.dimensions;
    }
    return views;
}

MemoryMap CheckedPlan::written(const std::vector<ArrayView>& views) const {
    MemoryMap memory;
    for (std::size_t i = 0; i < views.size(); ++i) {
        memory.add(views[i].data, views[i].size * item_size(views[i].type), parameter(i));
        for (int k = 0; k < plan_.rule().all_states(); ++k) {
            void* const state = plan_.state_of(i, k);
            if (state == nullptr) continue;
            memory.add(state, state_bytes(plan_.rule().state_at(k), views[i]), state_name(i, k));
        }
        if (plan_.outputs().empty() || plan_.outputs()[i].copy == nullptr) continue;
        const Output& output = plan_.outputs()[i];
        memory.add(output.copy, views[i].size * item_size(output.copy_type), copy_name(i));
    }
    memory.close();
    return memory;
}

std::string CheckedPlan::state_name(std::size_t i, int k) const {
    return parameter(i) + " state '" + plan_.rule().state_at(k).name + "'";
}

// NaN: no axis is given.
Units CheckedPlan::units_of(std::size_t i, double axis) const {
    const ArrayView& view = views_[i];
    if (view.dimensions <= 1) return {1, 1, view.size};
    const bool is_inside = axis >= -view.dimensions && axis < view.dimensions;
    if (!is_inside) {
        std::string shape;
        for (int k = 0; k < view.dimensions; ++k) {
            shape += (k == 0 ? "" : ", ") + std::to_string(view.extents[k]);
        }
        const std::string given =
            std::isnan(axis) ? "is missing" : std::to_string(static_cast<int>(axis)) + " is none";
        throw py::value_error(
            "agc_axis " + given + " for " + parameter(i) + " of shape (" + shape +
            "): agc needs the dimension that enumerates units, agc_axis=0 for arrays (out, in, "
            "...), as torch has them, agc_axis=-1 for (..., in, out)");
    }
    const int at = static_cast<int>(axis) + (axis < 0.0 ? view.dimensions : 0);
    const auto stride = [&](int k) {
        return view.strides.empty() ? -k : view.strides[static_cast<std::size_t>(k)];
    };
    Units units = {1, 1, 1};
    for (int k = 0; k < view.dimensions; ++k) {
        const auto extent = static_cast<unsigned long long>(view.extents[k]);
        if (extent == 1) continue;
        const bool is_outer = k != at && stride(k) > stride(at);
        (is_outer ? units.outer : k == at ? units.count : units.inner) *= extent;
    }
    // all elements are of one unit, side by side
    if (units.count == 1) units = {1, 1, view.size};
    return units;
}

void CheckedPlan::count_looks() {
    std::size_t elements = 0;
    for (const ArrayView& view : views_) elements += view.size;
    lookups_ = std::max(kLooks, elements / kElementsPerLookup);
    if (kind_.type) return;
    looks_ = std::min(views_.size(), std::max(kLooks, elements / kElementsPerLook));
}

// Arrays that a step can't look at all must not be resized: NumPy refuses that for an array with a
// weak reference.
std::vector<py::object> CheckedPlan::fixed(const py::tuple& arrays) const {
    std::vector<py::object> references;
    if (kind_.type || arrays.size() <= looks_) return references;
    for (const py::handle array : arrays) {
        if (!array.is_none()) references.push_back(py::weakref(array));
    }
    return references;
}

void CheckedPlan::look_at_arrays() {
    containers_.look(lookups_);
    for (std::size_t count = looks_; count > 0; --count) {
        if (next_ >= views_.size()) next_ = 0;
        PyObject* const array =
            PyTuple_GET_ITEM(parameters_.ptr(), static_cast<py::ssize_t>(next_));
        if (!is_unchanged(array, views_[next_])) raise_changed(parameter(next_), array);
        if (!bound_.is_none()) look_at_bound(next_);
        ++next_;
    }
}

void CheckedPlan::require_unchanged(std::size_t i) const {
    PyObject* const array = PyTuple_GET_ITEM(parameters_.ptr(), static_cast<py::ssize_t>(i));
    if (!kind_.type && !is_unchanged(array, views_[i])) raise_changed(parameter(i), array);
}

void CheckedPlan::look_at_bound(std::size_t i) {
    PyObject* const array = PyTuple_GET_ITEM(bound_.ptr(), static_cast<py::ssize_t>(i));
    const void* const expected = plan_.leaves()[i].gradient;
    if (array == Py_None || find_gradient(array, views_[i]) == expected) return;
    if (check_gradient(kind_, paths_[i], views_[i], array) == expected) return;
    throw StateError(parameter(i) +
                     ": gradient has other memory than when it was bound: bind(grads) again. "
                     "Nothing was updated");
}

void CheckedPlan::check_same(const py::list& parameters) const {
    require_count("parameters", parameters.size());
    for (std::size_t i = 0; i < paths_.size(); ++i) {
        const auto at = static_cast<py::ssize_t>(i);
        PyObject* const given = PyList_GET_ITEM(parameters.ptr(), at);
        if (given == PyTuple_GET_ITEM(parameters_.ptr(), at)) continue;
        throw StateError(replaced_message(parameter(i)));
    }
}

void CheckedPlan::require_count(const char* what, std::size_t count) const {
    if (count == paths_.size()) return;
    throw py::value_error("expected " + std::to_string(paths_.size()) + " " + what + ", not " +
                          std::to_string(count));
}

void CheckedPlan::rebind(const py::list& parameters, const py::list& containers,
                         const py::object& changes) {
    const Busy busy(*this);
    require_own_values();
    require_count("parameters", parameters.size());
    const py::tuple arrays(parameters);
    std::vector<py::ssize_t> extents;
    std::vector<ArrayView> views = check_parameters(kind_, paths_, arrays, extents);
    for (std::size_t i = 0; i < views.size(); ++i) require_alike(parameter(i), views[i], views_[i]);
    MemoryMap memory = written(views);
    if (!bound_.is_none()) {
        take(bound_, Taking::kBinding);
        for (std::size_t i = 0; i < views.size(); ++i) {
            const void* const gradient = plan_.leaves()[i].gradient;
            if (gradient != nullptr) require_apart(memory, i, gradient);
        }
    }
    Containers present(containers, arrays, paths_);
    Changes attributes(changes);
    catch_up();
    views_ = std::move(views);
    extents_ = std::move(extents);
    memory_ = std::move(memory);
    std::swap(containers_, present);
    const py::tuple before = std::exchange(parameters_, arrays);
    std::fill(checked_.begin(), checked_.end(), nullptr);
    known_ = {};
    for (std::size_t i = 0; i < views_.size(); ++i) plan_.set_parameter(i, views_[i].data);
    fixed_parameters_ = fixed(parameters_);
    attributes.apply();
}

py::list CheckedPlan::begin_in_place(const py::list& values) const {
    require_own_values();
    require_count("values", values.size());
    py::list pairs;
    for (std::size_t i = 0; i < views_.size(); ++i) {
        const py::object array = parameters_[i];
        if (!kind_.type && !is_unchanged(array, views_[i])) raise_changed(parameter(i), array);
        if (!array.is(values[i])) pairs.append(py::make_tuple(array, values[i]));
    }
    return pairs;
}

void CheckedPlan::require_own_values() const {
    if (!in_place_) return;
    throw StateError("the parameters hold their averages: leave averaged_in_place() first");
}

}  // namespace fusestep
