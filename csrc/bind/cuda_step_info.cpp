#include "cuda_step_info.h"

#include <utility>

namespace fusestep {

CudaStepInfo::CudaStepInfo(py::object plan, const CudaLauncher& device, std::vector<double> rates,
                           std::int64_t base, std::uint64_t number, bool has_applied)
    : plan_(std::move(plan)),
      launcher_(&device),
      rates_(std::move(rates)),
      base_(base),
      number_(number),
      has_applied_(has_applied) {}

double CudaStepInfo::lr() const {
    if (rates_.size() == 1) return rates_[0];
    return rates_.at(row_of(launcher_->wait_report(number_), base_));
}

py::object CudaStepInfo::grad_norm() const {
    if (number_ == 0) return py::none();
    return py::float_(launcher_->wait_report(number_).grad_norm);
}

std::string CudaStepInfo::text() const {
    const auto shown = [](const py::object& value) { return py::repr(value).cast<std::string>(); };
    return "fusestep.StepInfo(lr=" + shown(py::float_(lr())) + ", grad_norm=" + shown(grad_norm()) +
           ", applied=" + shown(py::bool_(applied())) + ")";
}

void register_cuda_step_info(py::module_& module) {
    py::class_<CudaStepInfo>(module, "CudaStepInfo")
        .def_property_readonly("lr", &CudaStepInfo::lr)
        .def_property_readonly("grad_norm", &CudaStepInfo::grad_norm)
        .def_property_readonly("applied", &CudaStepInfo::applied)
        .def("__iter__", [](const CudaStepInfo& info) { return py::iter(info.values()); })
        .def("__repr__", &CudaStepInfo::text);
}

}  // namespace fusestep
