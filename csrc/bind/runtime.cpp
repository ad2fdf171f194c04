// Instruction sets, threads and the registry of rules, as Python sees them.
#include <pybind11/stl.h>

#include <algorithm>
#include <cstdlib>

#include "../runtime/isa.h"
#include "../runtime/pool.h"
#include "../runtime/registry.h"
#include "arrays.h"

#if defined(_WIN32)
#define FUSESTEP_EXPORT __declspec(dllexport)
#else
#define FUSESTEP_EXPORT __attribute__((visibility("default")))
#endif

// For threadpoolctl, which finds libraries by their symbols and calls them through ctypes.
extern "C" {
FUSESTEP_EXPORT int fusestep_get_num_threads() { return fusestep::thread_count(); }
FUSESTEP_EXPORT void fusestep_set_num_threads(int threads) {
    fusestep::set_thread_count(std::clamp(threads, 1, fusestep::kMostThreads));
}
}

namespace fusestep {
namespace {

std::string joined(const std::vector<std::string>& names) {
    std::string text;
    for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
    return text;
}

std::string environment(const char* name) {
    const char* value = std::getenv(name);
    return value == nullptr ? "" : value;
}

void choose_isa(const std::string& name, const std::string& source) {
    if (use_isa(name)) {
        if (is_exact()) return;
        throw py::import_error(std::string("this build of fusestep is broken: its ") +
                               active_isa() +
                               " kernels do not compute as written, so results would differ from "
                               "machine to machine. Build it without options that allow that");
    }
    throw py::value_error(source + " must be one of " + joined(supported_isas()) +
                          " on this processor, not '" + name + "'");
}

void choose_threads(long threads, const std::string& source, const std::string& given) {
    if (threads < 1 || threads > kMostThreads) {
        throw py::value_error(source + " must be a whole number from 1 to " +
                              std::to_string(kMostThreads) + ", not " + given);
    }
    set_thread_count(static_cast<int>(threads));
}

// A list stands for nested levels, of which there is one here. What makes no sense is ignored, as
// OpenMP does: the variable is not ours.
void read_openmp_environment() {
    const std::string threads = environment("OMP_NUM_THREADS");
    char* end = nullptr;
    const long number = std::strtol(threads.c_str(), &end, 10);
    const bool sensible = (*end == '\0' || *end == ',') && number >= 1 && number <= kMostThreads;
    if (sensible) set_thread_count(static_cast<int>(number));
}

void read_environment() {
    choose_isa(environment("FUSESTEP_ISA"), "FUSESTEP_ISA");
    const std::string threads = environment("FUSESTEP_NUM_THREADS");
    if (threads.empty()) {
        read_openmp_environment();
        return;
    }
    char* end = nullptr;
    const long number = std::strtol(threads.c_str(), &end, 10);
    choose_threads(*end == '\0' ? number : 0, "FUSESTEP_NUM_THREADS", "'" + threads + "'");
}

py::dict build_info() {
    py::dict info;
    info["version"] = FUSESTEP_VERSION;
    info["compiler"] = FUSESTEP_COMPILER;
    info["isa_compiled"] = compiled_isas();
    info["isa_supported"] = supported_isas();
    info["isa_active"] = active_isa();
    info["threads"] = thread_count();
    return info;
}

constexpr const char* kExtents[] = {"element", "tensor", "row", "column"};

py::object initial_of(const Initial& initial) {
    if (initial.is_parameter) return py::none();
    return py::float_(initial.number);
}

py::dict rules() {
    const py::object named_tuple = py::module_::import("collections").attr("namedtuple");
    const py::object make = named_tuple("Rule", "columns states values sums");
    py::dict all;
    for (const RuleEntry& rule : kRuleEntries) {
        py::list columns;
        const auto append = [&](const Column& column) {
            columns.append(py::make_tuple(column.name, column.lower, column.upper,
                                          column.upper_open, column.flag));
        };
        std::for_each(rule.column, rule.column + rule.columns, append);
        std::for_each(kCommon, kCommon + kCommonColumns, append);
        py::list states;
        for (int i = 0; i < rule.all_states(); ++i) {
            const State& state = rule.state_at(i);
            states.append(py::make_tuple(state.name, initial_of(state.initial),
                                         state.type == StateType::kDouble,
                                         kExtents[static_cast<int>(state.extent)]));
        }
        py::list values;
        for (int i = 0; i < rule.values; ++i) {
            const Value& value = rule.value[i];
            values.append(py::make_tuple(value.name, value.initial, value.lower, value.upper));
        }
        all[rule.name] = make(py::tuple(columns), py::tuple(states), py::tuple(values), rule.sums);
    }
    return all;
}

py::tuple states_used(const std::string& name, const std::vector<double>& hyper) {
    const RuleEntry* rule = find_rule(name);
    if (rule == nullptr ||
        hyper.size() != static_cast<std::size_t>(rule->columns + kCommonColumns)) {
        throw py::value_error("no rule '" + name + "' with " + std::to_string(hyper.size()) +
                              " columns");
    }
    const unsigned used = rule->states_used(hyper.data());
    py::list names;
    for (int k = 0; k < rule->all_states(); ++k) {
        if (used >> k & 1) names.append(rule->state_at(k).name);
    }
    return py::tuple(names);
}

}  // namespace

void register_runtime(py::module_& module) {
    module.def(
        "build_info", &build_info,
        "Version, compiler, threads, and the instruction sets compiled, supported and active.");
    module.def("rules", &rules,
               "For each rule its columns in the table of settings (name, lower and upper bound, "
               "whether the upper is excluded, whether it is a flag); its states, arrays (name; "
               "what it holds at first: a number, the name of a column, or None for the "
               "parameter's own elements; whether it is of float64 for any parameter; what an "
               "element belongs to: an element, tensor, row or column of the parameter); its "
               "values, which one update hands to the next (name, first value, lower and upper "
               "bound); and how many sums over whole tensors it needs.");
    module.def("states_used", &states_used, py::arg("rule"), py::arg("hyper"),
               "The names of the state arrays that these hyper-parameters ask for.");
    module.def(
        "use_isa", [](const std::string& name) { choose_isa(name, "isa"); }, py::arg("name"),
        "Forces an instruction set; the empty name stands for the widest one.");
    module.def("get_num_threads", &thread_count, "How many threads a large step uses.");
    module.def(
        "set_num_threads",
        [](long threads) { choose_threads(threads, "n", std::to_string(threads)); }, py::arg("n"),
        "Sets how many threads a large step uses, from 1 to 1024. Results do not depend on it.\n\n"
        "By default FUSESTEP_NUM_THREADS, or else OMP_NUM_THREADS, or as many as the process may "
        "use "
        "processors.");
    try {
        read_environment();
    } catch (const py::value_error& error) {
        throw py::import_error(error.what());
    }
}

}  // namespace fusestep
