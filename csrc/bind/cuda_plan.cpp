// The plan over arrays of a GPU, as Python holds it: checks and prepares natively, and fills the
// structs that Python launches kernels with. It never reads the arrays.
#include <pybind11/stl.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "../cuda/arguments.h"
#include "../runtime/float_environment.h"
#include "checked_plan.h"

namespace fusestep {
namespace {

template <class T>
T* pointer(std::uintptr_t address) {
    return reinterpret_cast<T*>(address);
}

std::size_t divide_up(std::size_t a, std::size_t b) { return (a + b - 1) / b; }

// An array over memory that its owner keeps: one element for a struct, which a launch passes by
// value.
template <class T>
py::array as_struct(T& value, const py::object& owner) {
    return py::array(py::dtype("V" + std::to_string(sizeof(T))), {1}, {}, &value, owner);
}
template <class T>
py::array_t<T> as_array(std::vector<T>& values, const py::object& owner) {
    return py::array_t<T>(static_cast<py::ssize_t>(values.size()), values.data(), owner);
}

class CudaPlan : public CheckedPlan {
 public:
    CudaPlan(py::object array_type, int device, const std::string& rule,
             std::vector<std::string> paths, const py::list& parameters, const py::list& states,
             const std::vector<int>& groups, const py::array_t<double>& settings,
             const py::list& containers)
        : CheckedPlan({std::move(array_type), device}, rule, std::move(paths), parameters, states,
                      groups, settings, containers),
          gradients_(leaf_count()),
          entry_of_(leaf_count()),
          holds_(leaf_count()),
          participants_(leaf_count()) {
        for (const Leaf& leaf : plan().leaves()) total_ += leaf.size;
        sum_.leaf_count = leaf_count();
        sum_.total = total_;
    }

    // The tables that describe the model, as bytes for the device.
    py::bytes leaves() const {
        std::vector<device::Leaf> table;
        unsigned long long begin = 0;
        for (std::size_t i = 0; i < leaf_count(); ++i) {
            const Leaf& leaf = plan().leaves()[i];
            device::Leaf entry = {};
            entry.parameter = leaf.parameter;
            std::copy_n(leaf.state, kMaxStates, entry.state);
            if (!plan().accumulators().empty()) entry.accumulator = plan().accumulators()[i].data;
            entry.begin = begin;
            entry.size = leaf.size;
            entry.type = leaf.type;
            table.push_back(entry);
            begin += leaf.size;
        }
        return bytes_of(table);
    }
    py::bytes chunks() const {
        std::vector<device::Chunk> table;
        for (std::size_t i = 0; i < leaf_count(); ++i) {
            const std::size_t count = divide_up(plan().leaves()[i].size, device::kChunk);
            for (std::size_t k = 0; k < count; ++k) {
                table.push_back({static_cast<unsigned>(i), static_cast<unsigned>(k)});
            }
        }
        return bytes_of(table);
    }

    // Thread blocks of a sum, room for the sums of all its levels, and counters for the groups.
    py::tuple sum_layout() const {
        const std::size_t blocks = std::max<std::size_t>(1, divide_up(total_, kBlock));
        std::size_t sums = blocks, level = blocks, groups = 0;
        do {
            level = divide_up(level, kBlock);
            sums += level;
            groups += level;
        } while (level > 1);
        return py::make_tuple(divide_up(blocks, device::kBlocksPerGroup), sums, groups);
    }

    // Where the device has what the kernels share.
    void place(const py::dict& at) {
        const auto address = [&](const char* name) { return at[name].cast<std::uintptr_t>(); };
        update_.leaves = sum_.leaves = pointer<const device::Leaf>(address("leaves"));
        update_.chunks = pointer<const device::Chunk>(address("chunks"));
        update_.gradients = sum_.gradients = pointer<const void* const>(address("gradients"));
        sum_.holds = pointer<const unsigned char>(address("holds"));
        sum_.partial = pointer<double>(address("partial"));
        sum_.arrived = pointer<unsigned>(address("arrived"));
        at_entry_of_ = pointer<const unsigned>(address("entry_of"));
        at_outcome_ = pointer<device::Outcome>(address("outcome"));
        at_progress_ = pointer<device::Progress>(address("progress"));
        at_weighted_ = pointer<double>(address("weighted"));
        at_plain_sum_ = pointer<double>(address("plain_sum"));
    }

    // Checks a step and follows its schedule, as if all before it was applied. Returns whether it
    // needs the sum of squares, and whether other parameters take part than in the steps that
    // resolve() is to count.
    py::tuple begin(py::handle gradients, double grad_scale, py::handle clock, bool take_norm) {
        const Busy busy(*this);
        const std::optional<Clock> now = read_clock(clock);
        step_ = begin_step(gradients, grad_scale);  // keeps what was passed until the launch
        follow_schedule(now);
        options_ = options(step_, take_norm);
        const bool needs_sum = options_.take_norm || options_.clip_by_norm ||
                               options_.nonfinite != NonFinite::kPropagate;
        options_.scales_later = options_.clip_by_norm;
        note_gradients();
        return py::make_tuple(needs_sum, participants() != participants_);
    }

    // Refuses the step that was begun: the schedule has not moved.
    void take_back() {
        const Busy busy(*this);
        undo_schedule();
        step_.passed = py::object();
    }

    // The settings of the update that comes after `ahead` others of this kind, appended to the
    // table.
    void add_row(py::handle clock, std::int64_t ahead) {
        const Busy busy(*this);
        if (ahead == 0) {
            rows_.clear();
            row_values_.clear();
            clip_norms_.clear();
            updates_before_ = plan().updates();
            values_before_ = setting_values();
        }
        try {
            follow_schedule(read_clock(clock), ahead);
            options_.clip_norm = options(step_, false).clip_norm;
            options_.clip_value = options(step_, false).clip_value;
            prepare_scalars();
        } catch (...) {
            undo();
            throw;
        }
        if (ahead == 0) values_before_ = setting_values();
        row_values_.push_back(setting_values());
        entries_ = plan().prepared().size();
        for (const Plan::Prepared& prepared : plan().prepared()) rows_.push_back(entry(prepared));
        if (options_.clip_by_norm) clip_norms_.push_back(options_.clip_norm);
        note_entries();
    }
    py::tuple table() {
        undo();
        return py::make_tuple(bytes_of(rows_), bytes_of(clip_norms_));
    }

    // The settings of the next update, for a step that the host counts. Returns the entries as
    // bytes where they are too many for the struct, or None.
    py::object prepare() {
        const Busy busy(*this);
        updates_before_ = plan().updates();
        values_before_ = setting_values();
        prepare_scalars();
        rows_.clear();
        for (const Plan::Prepared& prepared : plan().prepared()) rows_.push_back(entry(prepared));
        entries_ = rows_.size();
        note_entries();
        if (entries_ > device::kInlineEntries) return bytes_of(rows_);
        std::copy(rows_.begin(), rows_.end(), update_.entry);
        return py::none();
    }

    // Takes back what rows or prepare() have counted, and settings of rows but the first.
    void undo() {
        plan().updates() = updates_before_;
        restore(values_before_);
    }
    // The row that the device has taken: its settings are those of the last step.
    void take_row(std::size_t row) {
        const Busy busy(*this);
        restore(row_values_.at(row));
    }
    // From now on, until another step says so, these are the parameters that resolve() counts for.
    void take_part() { participants_ = participants(); }

    // Which kernels the rows or entries prepared last need.
    std::vector<unsigned> cases() const {
        std::vector<unsigned> found;
        for (const device::Entry& row : rows_) found.push_back(row.kernel_case);
        std::sort(found.begin(), found.end());
        found.erase(std::unique(found.begin(), found.end()), found.end());
        return found;
    }

    // Fills the structs for the launches of one step. `table` and `clip_norms` are addresses, 0 for
    // what prepare() has put into the struct; `counts`: the device does; `number` is for the
    // report.
    void fill(bool has_sum, bool counts, std::uintptr_t table, std::uintptr_t clip_norms,
              std::uintptr_t report, unsigned long long number) {
        update_.table = pointer<const device::Entry>(table);
        update_.entry_of = entries_ > 1 ? at_entry_of_ : nullptr;
        update_.entries = entries_;
        update_.outcome = has_sum || counts ? at_outcome_ : nullptr;
        sum_.weight = 0.0;
        sum_.weighted_sum = nullptr;
        sum_.concludes = 1;
        // squares of float32 stay far inside the range of double
        rescues_ = has_sum && plan().has(kFloat64);
        sum_.sum = rescues_ ? at_plain_sum_ : nullptr;
        sum_.is_followed = rescues_;
        device::Conclusion& conclusion = sum_.conclusion;
        conclusion.grad_scale = options_.grad_scale;
        conclusion.clip_norm = options_.clip_by_norm ? options_.clip_norm : NAN;
        conclusion.clip_norms = options_.clip_by_norm ? pointer<const double>(clip_norms) : nullptr;
        conclusion.has_sum = has_sum;
        conclusion.skips = options_.nonfinite != NonFinite::kPropagate;
        conclusion.number = number;
        conclusion.progress = counts ? at_progress_ : nullptr;
        conclusion.outcome = at_outcome_;
        conclusion.report = pointer<device::Report>(report);
        second_sum_ = sum_;
        second_sum_.plain_sum = at_plain_sum_;
        second_sum_.is_followed = 0;
        second_sum_.sum = nullptr;
    }
    // Whether a second sum has to follow the first, for when that is out of range.
    bool rescues() const { return rescues_; }

    std::string rule_type() const { return plan().rule().type; }
    double lr() const { return plan().hyper(0)[0]; }

    // Ends a step that the host counts, and makes the changes that come with its update.
    void commit(const py::object& changes) {
        const Busy busy(*this);
        Changes attributes(changes);
        end_step(step_, true);
        step_.passed = py::object();
        attributes.apply();
    }
    // Ends a step that the device counts; resolve() tells later what it has counted.
    void launched() {
        const Busy busy(*this);
        if (step_.uses_accumulated) forget_accumulated();
        step_.passed = py::object();
    }
    void resolve(std::int64_t attempted, std::int64_t applied) {
        const Busy busy(*this);
        attempted_ += attempted;
        applied_ += applied;
        for (std::size_t i = 0; i < leaf_count(); ++i) {
            if (participants_[i]) plan().updates()[i] += applied;
        }
    }

    // Checks a micro-batch and fills the struct; returns the flags of accumulators as bytes.
    py::bytes begin_micro_batch(py::handle gradients, double samples, std::uintptr_t sum) {
        const Busy busy(*this);
        begin_accumulate(gradients, samples);
        rescues_ = false;
        sum_.concludes = 0;
        sum_.is_followed = 0;
        sum_.weight = samples;
        sum_.sum = pointer<double>(sum);
        sum_.weighted_sum = at_weighted_;
        for (std::size_t i = 0; i < leaf_count(); ++i) {
            holds_[i] = plan().accumulators()[i].holds ? 1 : 0;
        }
        note_gradients();
        return bytes_of(holds_);
    }
    void end_micro_batch(double samples) {
        const Busy busy(*this);
        for (std::size_t i = 0; i < leaf_count(); ++i) {
            if (gradients_[i] != 0) plan().accumulators()[i].holds = true;
        }
        end_accumulate(samples, 0.0);
    }

    // The error that blames the gradient of a parameter, or, one place beyond, all together.
    std::string refusal(std::size_t leaf, const std::string& what) const {
        return nonfinite_message(leaf < leaf_count() ? parameter(leaf) : "params", what.c_str());
    }

    py::array gradients(const py::object& owner) { return as_array(gradients_, owner); }
    py::array entry_of(const py::object& owner) { return as_array(entry_of_, owner); }
    py::array update_arguments(const py::object& owner) { return as_struct(update_, owner); }
    py::array sum_arguments(const py::object& owner) { return as_struct(sum_, owner); }
    py::array second_sum_arguments(const py::object& owner) {
        return as_struct(second_sum_, owner);
    }
    py::array conclusion(const py::object& owner) { return as_struct(sum_.conclusion, owner); }

 private:
    std::size_t leaf_count() const { return plan().leaves().size(); }

    template <class T>
    static py::bytes bytes_of(const std::vector<T>& table) {
        return py::bytes(reinterpret_cast<const char*>(table.data()), table.size() * sizeof(T));
    }

    static device::Entry entry(const Plan::Prepared& prepared) {
        device::Entry entry = {};
        std::memcpy(entry.scalars, prepared.scalars, sizeof(entry.scalars));
        if (prepared.type == kFloat32) {
            const auto& s = *static_cast<const GradientScalars<float>*>(prepared.gradient_scalars);
            entry.divisor = static_cast<double>(s.divisor);
            entry.limit = static_cast<double>(s.limit);
            entry.sign = static_cast<double>(s.factor);
        } else {
            const auto& s = *static_cast<const GradientScalars<double>*>(prepared.gradient_scalars);
            entry.divisor = s.divisor;
            entry.limit = s.limit;
            entry.sign = s.factor;
        }
        entry.kernel_case = (static_cast<unsigned>(prepared.type) * kTreatments +
                             static_cast<unsigned>(prepared.treatment)) *
                                kMaxVariants +
                            prepared.variant;
        return entry;
    }

    void prepare_scalars() {
        const FloatEnvironment environment;
        check_prepared(plan().prepare(options_, 1.0));
    }

    void note_gradients() {
        for (std::size_t i = 0; i < leaf_count(); ++i) {
            gradients_[i] = reinterpret_cast<std::uint64_t>(plan().leaves()[i].gradient);
        }
    }

    std::vector<bool> participants() const {
        std::vector<bool> takes_part;
        for (const std::uint64_t gradient : gradients_) takes_part.push_back(gradient != 0);
        return takes_part;
    }

    void note_entries() {
        for (std::size_t i = 0; i < leaf_count(); ++i) {
            entry_of_[i] = static_cast<std::uint32_t>(plan().leaves()[i].prepared);
        }
    }

    std::size_t total_ = 0;
    std::vector<std::uint64_t> gradients_;
    std::vector<std::uint32_t> entry_of_;
    std::vector<unsigned char> holds_;
    std::vector<bool> participants_;
    std::vector<device::Entry> rows_;
    std::vector<double> clip_norms_;
    std::vector<std::int64_t> updates_before_;
    std::vector<double> values_before_;
    std::vector<std::vector<double>> row_values_;
    std::size_t entries_ = 0;
    Step step_;
    StepOptions options_;
    const unsigned* at_entry_of_ = nullptr;
    device::Outcome* at_outcome_ = nullptr;
    device::Progress* at_progress_ = nullptr;
    double* at_weighted_ = nullptr;
    double* at_plain_sum_ = nullptr;
    bool rescues_ = false;
    device::UpdateArguments update_ = {};
    device::SumArguments sum_ = {};
    device::SumArguments second_sum_ = {};
};

// The structs and tables of a plan, which keep it alive.
template <class Member>
auto kept(Member member) {
    return [member](const py::object& self) { return (self.cast<CudaPlan&>().*member)(self); };
}

}  // namespace

void register_cuda_plan(py::module_& module) {
    module.attr("DEVICE_THREADS") = device::kThreads;
    module.def(
        "check_device_parameters",
        [](const py::object& array_type, int device, const std::vector<std::string>& paths,
           const py::list& parameters) {
            std::vector<py::ssize_t> extents;
            check_parameters({array_type, device}, paths, parameters, extents);
        },
        py::arg("array_type"), py::arg("device"), py::arg("paths"), py::arg("parameters"));
    py::class_<CudaPlan> plan(module, "CudaPlan");
    plan.def(py::init<py::object, int, const std::string&, std::vector<std::string>,
                      const py::list&, const py::list&, const std::vector<int>&,
                      const py::array_t<double>&, const py::list&>(),
             py::arg("array_type"), py::arg("device"), py::arg("rule"), py::arg("paths"),
             py::arg("parameters"), py::arg("states"), py::arg("groups"),
             py::arg("settings").noconvert(), py::arg("containers") = py::list())
        .def("leaves", &CudaPlan::leaves)
        .def("chunks", &CudaPlan::chunks)
        .def("sum_layout", &CudaPlan::sum_layout)
        .def("place", &CudaPlan::place, py::arg("at"))
        .def("begin", &CudaPlan::begin, py::arg("gradients"), py::arg("grad_scale"),
             py::arg("clock"), py::arg("take_norm"))
        .def("take_back", &CudaPlan::take_back)
        .def("prepare", &CudaPlan::prepare)
        .def("add_row", &CudaPlan::add_row, py::arg("clock"), py::arg("ahead"))
        .def("table", &CudaPlan::table)
        .def("undo", &CudaPlan::undo)
        .def("take_row", &CudaPlan::take_row, py::arg("row"))
        .def("take_part", &CudaPlan::take_part)
        .def("cases", &CudaPlan::cases)
        .def("fill", &CudaPlan::fill, py::arg("has_sum"), py::arg("counts"), py::arg("table"),
             py::arg("clip_norms"), py::arg("report"), py::arg("number"))
        .def("commit", &CudaPlan::commit, py::arg("changes") = py::none())
        .def("launched", &CudaPlan::launched)
        .def("resolve", &CudaPlan::resolve, py::arg("attempted"), py::arg("applied"))
        .def("begin_micro_batch", &CudaPlan::begin_micro_batch, py::arg("gradients"),
             py::arg("samples"), py::arg("sum"))
        .def("end_micro_batch", &CudaPlan::end_micro_batch, py::arg("samples"))
        .def("refusal", &CudaPlan::refusal, py::arg("leaf"), py::arg("what"))
        .def_property_readonly("rescues", &CudaPlan::rescues)
        .def_property_readonly("rule_type", &CudaPlan::rule_type)
        .def_property_readonly("lr", &CudaPlan::lr)
        .def_property_readonly("gradients", kept(&CudaPlan::gradients))
        .def_property_readonly("entry_of", kept(&CudaPlan::entry_of))
        .def_property_readonly("update_arguments", kept(&CudaPlan::update_arguments))
        .def_property_readonly("sum_arguments", kept(&CudaPlan::sum_arguments))
        .def_property_readonly("second_sum_arguments", kept(&CudaPlan::second_sum_arguments))
        .def_property_readonly("conclusion", kept(&CudaPlan::conclusion));
    define_plan(plan);
}

}  // namespace fusestep
