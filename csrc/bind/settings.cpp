// What Python sets and loads: checked first, then written in one go.
#include <pybind11/stl.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "checked_plan.h"

namespace fusestep {
namespace {

struct NonFiniteName {
    const char* name;
    NonFinite value;
};
constexpr NonFiniteName kNonFiniteNames[] = {
    {"propagate", NonFinite::kPropagate}, {"skip", NonFinite::kSkip}, {"raise", NonFinite::kRaise}};

NonFinite find_nonfinite(const std::string& name) {
    for (const NonFiniteName& choice : kNonFiniteNames) {
        if (name == choice.name) return choice.value;
    }
    throw py::value_error("nonfinite must be 'propagate', 'skip' or 'raise', not '" + name + "'");
}

void check_counts(const std::vector<std::int64_t>& updates, std::size_t parameters) {
    if (updates.size() != parameters)
        throw py::value_error("expected one count for each parameter");
    for (const std::int64_t count : updates) {
        if (count < 0) throw py::value_error("counts must be at least 0");
    }
}

}  // namespace

std::vector<double> numbers_of(const py::array_t<double>& table) {
    const py::array_t<double, py::array::c_style> rows(table);
    return {rows.data(), rows.data() + rows.size()};
}

py::array_t<double> CheckedPlan::settings() const {
    const py::ssize_t columns = plan_.rule().columns + kCommonColumns;
    return py::array_t<double>({static_cast<py::ssize_t>(table_.size()) / columns, columns},
                               table_.data());
}

CheckedPlan::Settings::Settings(CheckedPlan& plan, const py::array_t<double>& table,
                                const py::object& program, std::vector<Target> targets)
    : plan_(plan),
      table_(numbers_of(table)),
      scheduled_(program, std::move(targets), plan.table_,
                 static_cast<std::size_t>(plan.plan_.rule().columns + kCommonColumns)) {
    if (table_.size() != plan.table_.size()) {
        throw py::value_error("expected a table of the size that the plan was built with");
    }
    plan.require_units(table_);
}

// Parameters have units where they were built with agc.
void CheckedPlan::require_units(const std::vector<double>& table) const {
    const std::size_t columns = static_cast<std::size_t>(plan_.rule().columns + kCommonColumns);
    const std::size_t at = static_cast<std::size_t>(plan_.rule().columns + kAgc);
    for (std::size_t i = 0; i < paths_.size(); ++i) {
        const bool clips =
            table[static_cast<std::size_t>(plan_.leaves()[i].group) * columns + at] != 0.0;
        const bool has_units = !plan_.units().empty() && plan_.units()[i].count != 0;
        if (clips && !has_units && views_[i].size != 0) {
            throw StateError("agc: " + parameter(i) + " was built without it; build with agc=...");
        }
    }
}

void CheckedPlan::Settings::write() {
    std::copy(table_.begin(), table_.end(), plan_.table_.begin());
    // letting go of a program may wait until all is written
    std::swap(plan_.scheduled_, scheduled_);
}

void CheckedPlan::set_settings(const py::array_t<double>& settings, const py::object& program,
                               std::vector<Target> targets, const py::object& changes) {
    const Busy busy(*this);
    Settings given(*this, settings, program, std::move(targets));
    Changes attributes(changes);
    given.write();
    attributes.apply();
}

void CheckedPlan::set_numbers(const Targets& targets, const py::tuple& numbers) {
    const Busy busy(*this);
    const std::size_t columns = static_cast<std::size_t>(plan_.rule().columns + kCommonColumns);
    if (numbers.size() != targets.all.size()) {
        throw py::value_error("expected one number for each target");
    }
    const std::vector<double> before = table_;
    try {
        for (std::size_t i = 0; i < targets.all.size(); ++i) {
            const Target& target = targets.all[i];
            const double number =
                PyFloat_AsDouble(PyTuple_GET_ITEM(numbers.ptr(), static_cast<py::ssize_t>(i)));
            if (number == -1.0 && PyErr_Occurred() != nullptr) throw py::error_already_set();
            if (target.column >= columns || target.group >= table_.size() / columns) {
                throw py::value_error("no such place");
            }
            if (!target.accepts(number)) {
                throw py::value_error(target.name + " must be " + target.expected + ", not " +
                                      number_text(number));
            }
            table_[target.group * columns + target.column] = number;
        }
        for (std::size_t at = 0; at < table_.size(); at += columns) {
            const unsigned used = plan_.rule().states_used(table_.data() + at);
            if ((used & ~plan_.rule().states_used(before.data() + at)) == 0) continue;
            throw StateError("these numbers ask for a state that the parameters do not have");
        }
    } catch (...) {
        restore(before);
        throw;
    }
}

void CheckedPlan::load(const std::vector<std::int64_t>& updates, std::int64_t attempted,
                       std::int64_t applied, const py::tuple& accumulated,
                       const py::array_t<double>& settings, const py::object& program,
                       std::vector<Target> targets, const std::string& nonfinite,
                       const py::list& arrays, const py::object& changes, const Values& values) {
    const Busy busy(*this, true);
    require_own_values();
    std::optional<Parts> ended;  // letting go of it may wait until all is written
    check_counts(updates, paths_.size());
    if (applied < 0 || attempted < applied) {
        throw py::value_error("applied must be at least 0 and at most attempted");
    }
    const NonFinite chosen = find_nonfinite(nonfinite);
    const Accumulated sums = read_accumulated(accumulated);
    std::vector<double> handed_on = read_values(values);
    Settings given(*this, settings, program, std::move(targets));
    catch_up();
    const Copies copies(arrays);
    Changes attributes(changes);
    plan_.forget_accumulated();
    copies.apply();
    plan_.updates() = updates;
    plan_.values() = std::move(handed_on);
    std::swap(parts_, ended);
    attempted_ = attempted;
    applied_ = applied;
    nonfinite_ = chosen;
    write(sums);
    given.write();
    attributes.apply();
}

CheckedPlan::Accumulated CheckedPlan::read_accumulated(const py::tuple& values) const {
    Accumulated read = {values[0].cast<double>(), values[1].cast<std::int64_t>(),
                        values[2].cast<double>(), values[3].cast<std::vector<bool>>()};
    if (!(read.samples >= 0.0) || !std::isfinite(read.samples) || read.micro_batches < 0 ||
        (read.samples > 0.0) != (read.micro_batches > 0)) {
        throw py::value_error("accumulated samples and micro-batches must be both 0 or neither");
    }
    if (read.holds.size() != plan_.accumulators().size()) {
        throw py::value_error("expected one flag for each accumulator");
    }
    if (read.samples > 0.0 && !bound_.is_none()) throw StateError("gradients are bound");
    return read;
}

void CheckedPlan::write(const Accumulated& accumulated) {
    std::vector<Accumulator>& sums = plan_.accumulators();
    for (std::size_t i = 0; i < sums.size(); ++i) {
        sums[i].holds = accumulated.holds[i];
        sums[i].is_zero = false;
    }
    accumulated_.samples = accumulated.samples;
    accumulated_.micro_batches = accumulated.micro_batches;
    accumulated_.weighted_squares = accumulated.weighted_squares;
}

void CheckedPlan::set_nonfinite(const std::string& name) {
    const NonFinite chosen = find_nonfinite(name);
    const Busy busy(*this);
    nonfinite_ = chosen;
}

std::string CheckedPlan::nonfinite() const {
    for (const NonFiniteName& choice : kNonFiniteNames) {
        if (nonfinite_ == choice.value) return choice.name;
    }
    return "";
}

}  // namespace fusestep
