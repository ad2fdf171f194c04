// What a plan keeps for each parameter: arrays of state, as the rule asks for them, and numbers
// that one update hands to the next.
#include <utility>

#include "checked_plan.h"

namespace fusestep {
namespace {

// The shape of an array of state for a parameter.
std::vector<py::ssize_t> state_shape(Extent extent, const ArrayView& parameter) {
    std::vector<py::ssize_t> shape(parameter.extents, parameter.extents + parameter.dimensions);
    const bool has_rows = shape.size() >= 2;
    if (extent == Extent::kTensor || (extent == Extent::kColumn && !has_rows)) return {};
    if (extent == Extent::kRow && has_rows) shape.pop_back();
    if (extent == Extent::kColumn) shape.erase(shape.end() - 2);
    return shape;
}

DataType state_type(const State& state, const ArrayView& parameter) {
    return state.type == StateType::kDouble ? kFloat64 : parameter.type;
}

}  // namespace

// The memory of each state of a parameter, nullptr where it has none.
std::vector<void*> CheckedPlan::check_states(std::size_t i, const RuleEntry& rule,
                                             const py::dict& states, unsigned used) const {
    const ArrayView& view = views_[i];
    std::vector<void*> found;
    for (int k = 0; k < rule.all_states(); ++k) {
        const State& state = rule.state_at(k);
        const std::string name = parameter(i) + " state '" + state.name + "'";
        if (!states.contains(state.name)) {
            if (used >> k & 1) throw py::value_error(name + " is missing");
            found.push_back(nullptr);
            continue;
        }
        std::vector<py::ssize_t> shape;
        const ArrayView array = check_writeable(kind_, name, states[state.name], shape);
        if (array.type != state_type(state, view) || shape != state_shape(state.extent, view)) {
            throw py::value_error(name + " has another dtype or shape than the rule asks for");
        }
        const bool is_alike =
            state.extent == Extent::kElement ? has_layout_of(array, view) : view.strides.empty();
        if (!is_alike) throw py::value_error(name + " has other strides than the parameter");
        found.push_back(array.data);
    }
    return found;
}

// Where each parameter is copied to, if any is.
std::vector<Output> CheckedPlan::check_copies() const {
    std::vector<Output> outputs;
    if (copies_.empty()) return outputs;
    require_count("copies", copies_.size());
    outputs.resize(paths_.size());
    for (std::size_t i = 0; i < paths_.size(); ++i) {
        const py::handle copy = copies_[i];
        if (copy.is_none()) continue;
        std::vector<py::ssize_t> shape;
        const ArrayView array = check_writeable(kind_, copy_name(i), copy, shape);
        if (shape != state_shape(Extent::kElement, views_[i]) || !has_layout_of(array, views_[i])) {
            throw py::value_error(copy_name(i) + ": has shape " +
                                  py::str(copy.attr("shape")).cast<std::string>() + ", " +
                                  parameter(i) + " has another");
        }
        outputs[i].copy = array.data;
        outputs[i].copy_type = array.type;
    }
    return outputs;
}

std::size_t CheckedPlan::state_bytes(const State& state, const ArrayView& parameter) {
    std::size_t bytes = item_size(state_type(state, parameter));
    for (const py::ssize_t extent : state_shape(state.extent, parameter)) {
        bytes *= static_cast<std::size_t>(extent);
    }
    return bytes;
}

const std::vector<std::int64_t>& CheckedPlan::updates() const {
    require_whole();
    return plan_.updates();
}

CheckedPlan::Values CheckedPlan::values() const {
    require_whole();
    Values values;
    const auto count = static_cast<std::ptrdiff_t>(plan_.rule().values);
    auto next = plan_.values().begin();
    for (std::size_t i = 0; i < paths_.size(); ++i, next += count) {
        values.emplace_back(next, next + count);
    }
    return values;
}

void CheckedPlan::set_values(const Values& values) {
    const Busy busy(*this);
    plan_.values() = read_values(values);
}

// None stand for the initial ones.
std::vector<double> CheckedPlan::read_values(const Values& values) const {
    const RuleEntry& rule = plan_.rule();
    std::vector<double> read;
    if (!values.empty()) require_count("lists of values", values.size());
    for (std::size_t i = 0; i < paths_.size(); ++i) {
        if (!values.empty() && values[i].size() != static_cast<std::size_t>(rule.values)) {
            throw py::value_error(parameter(i) + " needs " + std::to_string(rule.values) +
                                  " values, not " + std::to_string(values[i].size()));
        }
        for (std::size_t k = 0; k < static_cast<std::size_t>(rule.values); ++k) {
            const Value& value = rule.value[k];
            const double number = values.empty() ? value.initial : values[i][k];
            if (!(number >= value.lower && number <= value.upper)) {
                throw py::value_error(parameter(i) + " " + value.name + " must be from " +
                                      number_text(value.lower) + " to " + number_text(value.upper) +
                                      ", not " + number_text(number));
            }
            read.push_back(number);
        }
    }
    return read;
}

}  // namespace fusestep
