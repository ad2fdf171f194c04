// Orders of samples, as Python sees them.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>
#include <string>

#include "../data/order.h"
#include "../data/sampling.h"

namespace fusestep {
namespace {

namespace py = pybind11;

constexpr std::uint64_t kMostRows = std::numeric_limits<std::uint32_t>::max();

// A new array, filled while other threads may run.
template <class T, class Fill>
py::array_t<T> filled(std::uint64_t size, const Fill& fill) {
    if (size > static_cast<std::uint64_t>(std::numeric_limits<py::ssize_t>::max())) {
        throw py::value_error("no order is that long");
    }
    py::array_t<T> array(static_cast<py::ssize_t>(size));
    T* const data = array.mutable_data();
    const py::gil_scoped_release unlocked;
    fill(data);
    return array;
}

void check_part(std::uint64_t begin, std::uint64_t end) {
    if (begin > end) throw py::value_error("no such part of the order");
}

// The elements of an array that is read as it lies.
template <class T>
const T* elements(const char* name, const py::array& array) {
    if (!py::isinstance<py::array_t<T>>(array) || array.ndim() != 1 ||
        !(array.flags() & py::array::c_style) ||
        !(array.flags() & py::detail::npy_api::NPY_ARRAY_ALIGNED_)) {
        throw py::type_error(std::string(name) + " must be a contiguous array of " +
                             py::str(py::dtype::of<T>()).template cast<std::string>());
    }
    return static_cast<const T*>(array.data());
}

std::uint32_t rows_of(const char* name, const py::array& array) {
    const auto n = static_cast<std::uint64_t>(array.size());
    if (n == 0 || n > kMostRows) {
        throw py::value_error(std::string(name) + " must hold 1 to 2^32 - 1 numbers");
    }
    return static_cast<std::uint32_t>(n);
}

py::array_t<std::uint64_t> part_of_hashed_order(std::uint64_t n, std::uint64_t seed,
                                                std::uint64_t epoch, std::uint64_t begin,
                                                std::uint64_t end) {
    check_part(begin, end);
    if (n == 0 || end > n) throw py::value_error("no such part of the order");
    return filled<std::uint64_t>(end - begin, [&](std::uint64_t* places) {
        const Feistel feistel = hashed_order(n, seed, epoch);
        for (std::uint64_t i = begin; i < end; ++i) places[i - begin] = permuted(feistel, i);
    });
}

// The numbers of a Feistel, for the GPU.
py::array_t<std::uint64_t> hashed_order_numbers(std::uint64_t n, std::uint64_t seed,
                                                std::uint64_t epoch) {
    if (n == 0) throw py::value_error("n must be at least 1");
    const Feistel feistel = hashed_order(n, seed, epoch);
    py::array_t<std::uint64_t> numbers(2 + Feistel::kRounds);
    std::uint64_t* const data = numbers.mutable_data();
    data[0] = feistel.n;
    data[1] = feistel.half_bits;
    std::copy(std::begin(feistel.keys), std::end(feistel.keys), data + 2);
    return numbers;
}

// The weights, and how many are above 0.
const double* checked_weights(const py::array& weights, std::uint32_t& drawable) {
    const double* const data = elements<double>("weights", weights);
    drawable = 0;
    for (std::uint32_t i = 0, n = rows_of("weights", weights); i < n; ++i) {
        if (!std::isfinite(data[i]) || data[i] < 0.0) {
            throw py::value_error("weights[" + std::to_string(i) +
                                  "] must be finite and at least 0, not " +
                                  py::repr(py::float_(data[i])).cast<std::string>());
        }
        drawable += data[i] > 0.0 ? 1 : 0;
    }
    if (drawable == 0) throw py::value_error("weights must not all be 0");
    return data;
}

WeightedDraws weighted_draws(const py::array& weights) {
    std::uint32_t drawable;
    const double* const data = checked_weights(weights, drawable);
    return WeightedDraws(data, rows_of("weights", weights));
}

py::array_t<std::uint32_t> order_by_weight(const py::array& weights, std::uint32_t samples,
                                           std::uint64_t seed, std::uint64_t epoch) {
    std::uint32_t drawable;
    const double* const data = checked_weights(weights, drawable);
    if (samples > drawable) throw py::value_error("there are fewer weights above 0");
    return filled<std::uint32_t>(samples, [&](std::uint32_t* rows) {
        weighted_order(data, rows_of("weights", weights), samples, seed, epoch, rows);
    });
}

Classes checked_classes(const py::array& members, const py::array& begins) {
    const std::uint32_t rows = rows_of("members", members), count = rows_of("begins", begins) - 1;
    const Classes classes{elements<std::uint32_t>("members", members),
                          elements<std::uint64_t>("begins", begins), count};
    bool rises = count > 0 && classes.begins[0] == 0 && classes.begins[count] == rows;
    for (std::uint32_t c = 0; c < count; ++c) rises &= classes.begins[c] < classes.begins[c + 1];
    if (!rises) throw py::value_error("begins must rise from 0 to the number of members");
    return classes;
}

py::array_t<std::uint32_t> part_of_balanced_draws(const py::array& members, const py::array& begins,
                                                  std::uint64_t seed, std::uint64_t epoch,
                                                  std::uint64_t begin, std::uint64_t end) {
    check_part(begin, end);
    const Classes classes = checked_classes(members, begins);
    return filled<std::uint32_t>(end - begin, [&](std::uint32_t* rows) {
        balanced_draws(classes, seed, epoch, begin, end, rows);
    });
}

py::array_t<std::uint32_t> whole_balanced_order(const py::array& members, const py::array& begins,
                                                std::uint32_t samples, std::uint64_t seed,
                                                std::uint64_t epoch) {
    const Classes classes = checked_classes(members, begins);
    std::uint64_t smallest = kMostRows;
    for (std::uint32_t c = 0; c < classes.count; ++c) {
        smallest = std::min<std::uint64_t>(smallest, classes.size(c));
    }
    if (samples > smallest * classes.count) throw py::value_error("the smallest class has fewer");
    return filled<std::uint32_t>(
        samples, [&](std::uint32_t* rows) { balanced_order(classes, samples, seed, epoch, rows); });
}

}  // namespace

void register_orders(py::module_& module) {
    module.def(
        "shuffled_order",
        [](std::uint32_t n, std::uint64_t seed, std::uint64_t epoch) {
            return filled<std::uint32_t>(
                n, [&](std::uint32_t* order) { shuffled_order(n, seed, epoch, order); });
        },
        py::arg("n"), py::arg("seed"), py::arg("epoch"));
    module.def(
        "window_order",
        [](std::uint32_t n, std::uint64_t seed, std::uint64_t epoch, std::uint32_t window) {
            if (window == 0) throw py::value_error("window must be at least 1");
            return filled<std::uint32_t>(
                n, [&](std::uint32_t* order) { window_order(n, seed, epoch, window, order); });
        },
        py::arg("n"), py::arg("seed"), py::arg("epoch"), py::arg("window"));
    module.def("hashed_order", &part_of_hashed_order, py::arg("n"), py::arg("seed"),
               py::arg("epoch"), py::arg("begin"), py::arg("end"));
    module.def("hashed_order_numbers", &hashed_order_numbers, py::arg("n"), py::arg("seed"),
               py::arg("epoch"));
    module.def("weighted_order", &order_by_weight, py::arg("weights"), py::arg("samples"),
               py::arg("seed"), py::arg("epoch"));
    module.def("balanced_draws", &part_of_balanced_draws, py::arg("members"), py::arg("begins"),
               py::arg("seed"), py::arg("epoch"), py::arg("begin"), py::arg("end"));
    module.def("balanced_order", &whole_balanced_order, py::arg("members"), py::arg("begins"),
               py::arg("samples"), py::arg("seed"), py::arg("epoch"));
    py::class_<WeightedDraws>(module, "WeightedDraws")
        .def(py::init(&weighted_draws), py::arg("weights"))
        .def(
            "draw",
            [](const WeightedDraws& draws, std::uint64_t seed, std::uint64_t epoch,
               std::uint64_t begin, std::uint64_t end) {
                check_part(begin, end);
                return filled<std::uint32_t>(end - begin, [&](std::uint32_t* rows) {
                    draws.draw(seed, epoch, begin, end, rows);
                });
            },
            py::arg("seed"), py::arg("epoch"), py::arg("begin"), py::arg("end"));
}

}  // namespace fusestep
