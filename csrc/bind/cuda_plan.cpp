// What Python calls besides a step: micro-batches, other arrays, settings and saved states.
#include "cuda_plan.h"

#include <pybind11/stl.h>

#include <utility>

#include "cuda_step_info.h"

namespace fusestep {

CudaPlan::CudaPlan(const py::object& make_launcher, py::object array_type, int device,
                   const std::string& rule, std::vector<std::string> paths,
                   const py::list& parameters, const py::list& states,
                   const std::vector<int>& groups, const py::array_t<double>& settings,
                   const py::list& containers, const py::list& copies)
    : CheckedPlan({std::move(array_type), device}, rule, std::move(paths), parameters, states,
                  groups, settings, containers, copies),
      launcher_(make_launcher, plan()),
      gradients_(leaf_count()),
      entry_of_(leaf_count()),
      holds_(leaf_count()),
      participants_(leaf_count()) {
    unknown_.reserve(kMostUnknown + 1);
}

py::object CudaPlan::accumulate(py::handle gradients, double samples) {
    const Busy busy(*this);
    refuse_capture("accumulate");
    const py::tuple squares = launcher_.object().attr("new_number")();
    const py::object passed = begin_accumulate(gradients, samples);
    note_gradients();
    for (std::size_t i = 0; i < leaf_count(); ++i) {
        holds_[i] = plan().accumulators()[i].holds ? 1 : 0;
    }
    device::SumLaunch& sum = launcher_.sum();
    sum.concludes = 0;
    sum.weight = samples;
    sum.sum = reinterpret_cast<double*>(squares[1].cast<std::uintptr_t>());
    sum.weighted_sum = launcher_.weighted_squares();
    launcher_.follow_sum(false);
    Queue queue(launcher_);
    launcher_.compile({}, true, false);
    if (has_graphs_) launcher_.upload_rows(0, 0);  // replays read the same table of gradients
    if (accumulated_samples() == 0.0) launcher_.upload_weighted_squares(0.0);
    launcher_.upload_gradients(gradients_);
    launcher_.upload_holds(holds_);
    launcher_.launch_sum();
    launcher_.run();
    is_ready_ = false;
    for (std::size_t i = 0; i < leaf_count(); ++i) {
        if (gradients_[i] != 0) plan().accumulators()[i].holds = true;
    }
    end_accumulate(samples, 0.0);
    return squares[0];
}

void CudaPlan::refuse_capture(const std::string& call) {
    if (launcher_.enter()) throw StateError(call + ": not while a stream is capturing");
}

// Replays would update what the parameters hold now: they are invalidated.
void CudaPlan::put_in_place(const py::object& values) {
    const Hold hold({}, *this);
    refuse_capture("averaged_in_place");
    let_host_count();
    const py::list given = values();  // which may ask the plan
    const Busy busy(*this);
    const py::list pairs = begin_in_place(given);
    own_values_ = launcher_.object().attr("kept")(pairs);
    set_in_place(true);
    try {
        launcher_.object().attr("write")(pairs);
    } catch (...) {
        take_back();
        throw;
    }
}

void CudaPlan::take_back() {
    launcher_.enter();
    const py::list own = std::exchange(own_values_, py::list());
    try {
        launcher_.object().attr("write")(own);
    } catch (py::error_already_set&) {  // an interrupt, say: all are written once more
        launcher_.object().attr("write")(own);
        set_in_place(false);
        throw;
    }
    set_in_place(false);
}

void CudaPlan::rebind(const py::list& parameters, const py::list& containers,
                      const py::object& changes) {
    const Hold hold({}, *this);
    refuse_capture("rebind");
    let_host_count();
    CheckedPlan::rebind(parameters, containers, changes);
    upload_leaves();
}

void CudaPlan::set_accumulators(const py::list& arrays, bool takes_rows) {
    CheckedPlan::set_accumulators(arrays, takes_rows);
    upload_leaves();
}

py::tuple CudaPlan::accumulated() const {
    py::tuple values = CheckedPlan::accumulated();
    if (values[1].cast<std::int64_t>() > 0) values[2] = launcher_.read_weighted_squares();
    return values;
}

py::array_t<double> CudaPlan::settings() {
    know_row();
    return CheckedPlan::settings();
}

void CudaPlan::set_settings(const py::array_t<double>& settings, const py::object& program,
                            std::vector<Target> targets, const py::object& changes) {
    CheckedPlan::set_settings(settings, program, std::move(targets), changes);
    latest_.reset();
}

void CudaPlan::load(const std::vector<std::int64_t>& updates, std::int64_t attempted,
                    std::int64_t applied, const py::tuple& accumulated,
                    const py::array_t<double>& settings, const py::object& program,
                    std::vector<Target> targets, const std::string& nonfinite,
                    const py::list& arrays, const py::object& changes, const Values& values) {
    const Hold hold({}, *this);
    refuse_capture("load_state_dict");
    // what may fail, before anything is written: the device's memory, its counts
    const py::object copies = launcher_.object().attr("staged")(arrays);
    let_host_count();
    CheckedPlan::load(updates, attempted, applied, accumulated, settings, program,
                      std::move(targets), nonfinite, py::list(), changes, values);
    latest_.reset();
    launcher_.object().attr("write")(copies);
    launcher_.upload_weighted_squares(accumulated[2].cast<double>());
    launcher_.run();
}

void CudaPlan::set_nonfinite(const std::string& name) {
    const Hold hold({}, *this);
    settle_alone();
    CheckedPlan::set_nonfinite(name);
}

std::int64_t CudaPlan::attempted() {
    settle_alone();
    return attempted_;
}

std::int64_t CudaPlan::applied() {
    settle_alone();
    return applied_;
}

std::vector<std::int64_t> CudaPlan::updates() {
    launcher_.enter();  // who saves or loads a state reads or writes arrays next
    settle_alone();
    return CheckedPlan::updates();
}

CudaPlan::Values CudaPlan::values() {
    settle_alone();
    return CheckedPlan::values();
}

void CudaPlan::note_gradients() {
    for (std::size_t i = 0; i < leaf_count(); ++i) {
        gradients_[i] = reinterpret_cast<std::uint64_t>(plan().leaves()[i].gradient);
    }
}

void CudaPlan::upload_leaves() {
    launcher_.upload_leaves(plan());
    launcher_.run();
}

void register_cuda_plan(py::module_& module) {
    module.def(
        "check_device_parameters",
        [](const py::object& array_type, int device, const std::vector<std::string>& paths,
           const py::list& parameters) {
            std::vector<py::ssize_t> extents;
            check_parameters({array_type, device}, paths, parameters, extents);
        },
        py::arg("array_type"), py::arg("device"), py::arg("paths"), py::arg("parameters"));
    register_cuda_step_info(module);
    py::class_<CudaPlan> plan(module, "CudaPlan");
    plan.def(
        py::init<const py::object&, py::object, int, const std::string&, std::vector<std::string>,
                 const py::list&, const py::list&, const std::vector<int>&,
                 const py::array_t<double>&, const py::list&, const py::list&>(),
        py::arg("make_launcher"), py::arg("array_type"), py::arg("device"), py::arg("rule"),
        py::arg("paths"), py::arg("parameters"), py::arg("states"), py::arg("groups"),
        py::arg("settings").noconvert(), py::arg("containers") = py::list(),
        py::arg("copies") = py::list());
    define_plan(plan);
}

}  // namespace fusestep
