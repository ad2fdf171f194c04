#include "commit.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "../runtime/pool.h"
#include "arrays.h"

namespace fusestep {

Changes::Changes(py::handle changes) {
    if (changes.is_none()) return;
    for (const py::handle entry : py::reinterpret_borrow<py::iterable>(changes)) {
        const py::tuple fields = entry.cast<py::tuple>();
        changes_.push_back({fields[0], fields[1], fields[2]});
        // the generic lookup finds slots and plain attributes, and runs no Python code
        old_.push_back(py::reinterpret_steal<py::object>(
            PyObject_GenericGetAttr(changes_.back().object.ptr(), changes_.back().name.ptr())));
        if (!old_.back()) throw py::error_already_set();
    }
}

bool Changes::are_made() const {
    for (std::size_t i = 0; i < changes_.size(); ++i) {
        if (!old_[i].is(changes_[i].value)) return false;
    }
    return true;
}

void Changes::apply() {
    for (const Change& change : changes_) {
        if (PyObject_GenericSetAttr(change.object.ptr(), change.name.ptr(), change.value.ptr()) !=
            0) {
            throw py::error_already_set();
        }
    }
}

namespace {

constexpr std::size_t kCopiedAtOnce = 1 << 20;  // bytes
constexpr std::size_t kWorthWakingFor = 1 << 21;

}  // namespace

Copies::Copies(py::list arrays) : arrays_(std::move(arrays)) {
    MemoryMap destinations;
    std::vector<py::ssize_t> extents;
    std::vector<std::pair<const void*, std::size_t>> sources;
    for (std::size_t i = 0; i < arrays_.size(); ++i) {
        const std::string name = "arrays[" + std::to_string(i) + "]";
        const py::tuple pair = arrays_[i].cast<py::tuple>();
        const ArrayView destination = check_writeable({}, name, pair[0], extents);
        const std::size_t bytes = destination.size * item_size(destination.type);
        const void* data = nullptr;
        if (!pair[1].is_none()) {
            const ArrayView source = check_readable(name + " source", pair[1]);
            if (source.type != destination.type || source.size != destination.size) {
                throw py::value_error(name + ": both must have the same dtype and size");
            }
            data = source.data;
        }
        sources.push_back({data, bytes});
        for (std::size_t first = 0; first < bytes; first += kCopiedAtOnce) {
            const void* const source = data ? static_cast<const char*>(data) + first : nullptr;
            copies_.push_back({static_cast<char*>(destination.data) + first, source,
                               std::min(kCopiedAtOnce, bytes - first)});
        }
        bytes_ += bytes;
        destinations.add(destination.data, bytes, name);
    }
    destinations.close();
    for (std::size_t i = 0; i < sources.size(); ++i) {
        if (sources[i].first != nullptr &&
            destinations.overlapping(sources[i].first, sources[i].second) != nullptr) {
            throw py::value_error("arrays[" + std::to_string(i) +
                                  "] source shares memory with what is written: pass a copy");
        }
    }
}

void Copies::apply() const {
    auto copy = [this](std::size_t i) {
        const Copy& one = copies_[i];
        if (one.source == nullptr) {
            std::memset(one.destination, 0, one.bytes);
        } else {
            std::memcpy(one.destination, one.source, one.bytes);
        }
    };
    if (bytes_ >= kWorthWakingFor) {
        run_parallel(copies_.size(), true, copy);
    } else {
        for (std::size_t i = 0; i < copies_.size(); ++i) copy(i);
    }
}

void register_commit(py::module_& module) {
    module.def(
        "commit",
        [](const py::iterable& changes, py::object result, const py::iterable& expected) {
            Changes all(changes);
            if (!Changes(expected).are_made()) {
                throw StateError("changed by another call meanwhile: nothing of this one was done");
            }
            all.apply();
            return result;
        },
        py::arg("changes"), py::arg("result") = py::none(), py::arg("expected") = py::tuple());
    py::class_<Copies>(module, "Copies")
        .def(py::init<py::list>(), py::arg("arrays"))
        .def("apply", &Copies::apply, py::call_guard<py::gil_scoped_release>());
}

}  // namespace fusestep
