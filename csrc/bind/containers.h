// Where a user keeps parameters: dicts and lists whose entries must stay the arrays that a step
// updates. `params["w"] = params["w"] * 0.5` would leave the optimizer on the old one.
#pragma once
#include <pybind11/pybind11.h>

#include <string>
#include <vector>

namespace fusestep {

namespace py = pybind11;

// The error about a parameter that is another object than it was.
std::string replaced_message(const std::string& parameter);

class Containers {
 public:
    Containers() = default;
    // Entries are (container, key or index, object), a container before those inside it. Only what
    // can be looked up without running Python code is kept: dicts and lists that look up as those
    // do, with keys that are text or whole numbers.
    Containers(const py::list& entries, const py::tuple& parameters,
               const std::vector<std::string>& paths);

    // Looks at some entries, in turn; throws StateError naming one that is another object.
    void look(std::size_t count);

 private:
    struct Entry {
        py::object container;
        py::object key;
        py::ssize_t index;  // -1 in a dict
        py::object object;
        std::string path;
    };
    void check(const Entry& entry) const;

    std::vector<Entry> entries_;
    std::size_t next_ = 0;
};

}  // namespace fusestep
