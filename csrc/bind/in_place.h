// Other values in the parameters for a while, as the object of a with statement.
#pragma once
#include <pybind11/pybind11.h>

#include <functional>

namespace fusestep {

// The parameters have their own values again at the end of the statement, or when this goes: an
// interrupt may keep __exit__ from being called.
class InPlace {
 public:
    InPlace(pybind11::object owner, std::function<void()> put, std::function<void()> take_back);
    ~InPlace();
    InPlace(const InPlace&) = delete;
    InPlace& operator=(const InPlace&) = delete;

    void enter();
    void exit();

 private:
    pybind11::object owner_;
    std::function<void()> put_, take_back_;
    bool is_inside_ = false;
};

}  // namespace fusestep
