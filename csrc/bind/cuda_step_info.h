// What a step on a GPU reports, once the device has told it.
#pragma once
#include <string>
#include <vector>

#include "cuda_launcher.h"

namespace fusestep {

// Which row of settings the step of a report has used.
inline std::size_t row_of(const device::Report& report, std::int64_t base) {
    return static_cast<std::size_t>(report.applied - static_cast<std::int64_t>(report.applies) -
                                    base);
}

// StepInfo of a GPU step; reading may wait.
class CudaStepInfo {
 public:
    // `rates` are for each number of updates there may have been, from `base` on. Number 0 is of no
    // report; the step has applied then.
    CudaStepInfo(py::object plan, const CudaLauncher& device, std::vector<double> rates,
                 std::int64_t base, std::uint64_t number, bool has_applied);

    double lr() const;
    py::object grad_norm() const;
    bool applied() const { return has_applied_ || launcher_->wait_report(number_).applies != 0; }

    py::tuple values() const { return py::make_tuple(lr(), grad_norm(), applied()); }
    std::string text() const;

 private:
    py::object plan_;  // keeps the device
    const CudaLauncher* launcher_;
    std::vector<double> rates_;
    std::int64_t base_;
    std::uint64_t number_;
    bool has_applied_;
};

void register_cuda_step_info(py::module_& module);

}  // namespace fusestep
