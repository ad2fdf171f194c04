// Gradients that hold some rows of their parameter alone, and rows that have missed updates.
#include <algorithm>
#include <new>
#include <optional>

#include "checked_plan.h"

namespace fusestep {

void CheckedPlan::take_rows(std::size_t i, const Rows& rows, Taking taking) {
    const std::string what = parameter(i) + ": gradient";
    const ArrayView& view = views_[i];
    if (kind_.type) {
        throw py::type_error(what + " is a Rows: parameters of CuPy take cupy.ndarray alone");
    }
    if (taking == Taking::kBinding || taking == Taking::kParts) {
        throw py::type_error(what + " is a Rows, which " +
                             (taking == Taking::kBinding ? "can't be bound: pass it to each step"
                                                         : "a step in parts does not take"));
    }
    if (taking == Taking::kAccumulation && !plan_.accumulators()[i].takes_rows) {
        throw py::type_error(what + " is a Rows, which ranks can't add up: pass a dense gradient");
    }
    if (rows.type() != view.type) {
        throw py::type_error(what + " has values of " + dtype_text(rows.type()) +
                             ", the parameter has " + dtype_text(view.type));
    }
    if (!rows.has_shape_of(view)) {
        throw py::value_error(what + " has shape " + py::str(rows.shape()).cast<std::string>() +
                              ", the parameter has " + shape_text(view));
    }
    if (!view.strides.empty()) {
        throw py::value_error(what + " is a Rows, and the rows of the parameter lie apart");
    }
    const auto count = static_cast<std::size_t>(view.extents[0]);
    if (count > TouchedRows::kMost) {
        throw py::value_error(what + ": Rows are for parameters of at most 2^32 - 1 rows");
    }
    if (plan_.clips_units(plan_.leaves()[i].group)) {
        throw py::value_error(what + " is a Rows, which agc does not clip: a group with agc=None");
    }
    const RowNumbers numbers = rows.numbers();
    const std::string* const other = memory_.overlapping(rows.data(), rows.bytes());
    if (other != nullptr) {
        throw py::value_error(what + " shares memory with " + *other +
                              ", which the step writes: pass an array of its own");
    }
    const auto set = [&] { return plan_.set_rows(i, count, numbers, rows.data()); };
    std::optional<std::size_t> inside;
    if (Plan::is_large(numbers.count)) {
        const py::gil_scoped_release unlocked;
        inside = set();
    } else {
        inside = set();
    }
    if (!inside) throw std::bad_alloc();
    require_inside(what + ": indices", numbers, *inside, count, "the parameter");
}

void CheckedPlan::fetch(const std::string& path, py::handle rows) {
    const Busy busy(*this);
    std::size_t i = 0;
    while (i < paths_.size() && paths_[i] != path) ++i;
    if (i == paths_.size()) throw py::value_error("fetch: no parameter '" + path + "'");
    if (views_[i].dimensions == 0) {
        throw py::value_error("fetch: " + parameter(i) + " has no dimensions, and no rows");
    }
    const std::string name = "fetch: rows";
    const RowNumbers numbers = row_numbers(name, rows);
    const auto count = static_cast<std::size_t>(views_[i].extents[0]);
    require_unchanged(i);
    const auto kept = py::reinterpret_borrow<py::object>(rows);
    const auto fetch = [&] { return plan_.fetch(i, count, numbers); };
    const std::size_t width = views_[i].size / std::max<std::size_t>(1, count);
    std::size_t inside = 0;
    if (Plan::is_large(numbers.count * width)) {
        const py::gil_scoped_release unlocked;
        inside = fetch();
    } else {
        inside = fetch();
    }
    require_inside(name, numbers, inside, count, parameter(i));
}

// Nothing is behind while a step is updated in parts.
void CheckedPlan::flush() {
    if (!plan_.is_behind()) return;
    const Busy busy(*this);
    catch_up();
}

void CheckedPlan::set_history(std::size_t updates) {
    if (updates == 0) throw py::value_error("history must be at least 1, not 0");
    const Busy busy(*this);
    catch_up();
    if (!plan_.set_history(updates)) throw std::bad_alloc();
}

// Before anything else reads or replaces the arrays.
void CheckedPlan::catch_up() {
    if (!plan_.is_behind()) return;
    for (std::size_t i = 0; i < views_.size(); ++i) require_unchanged(i);
    const py::gil_scoped_release unlocked;
    plan_.flush();
}

}  // namespace fusestep
