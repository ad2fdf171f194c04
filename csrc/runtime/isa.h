// Which instruction set the kernels run on: compiled ones, supported ones, the active one.
#pragma once
#include <string>
#include <vector>

#include "../expression/instruction.h"
#include "../kernels/table.h"

namespace fusestep {

// Names of the compiled instruction sets, widest last.
std::vector<std::string> compiled_isas();
std::vector<std::string> supported_isas();

const char* active_isa();
const KernelTable& active_kernels();
Evaluate active_evaluate();

// Whether the active kernels compute as written; false where the compiler was told to be fast.
bool is_exact();

// Selects an instruction set by name; "" selects the widest supported one. Returns false, and
// changes nothing, if the name is unknown or this processor lacks it.
bool use_isa(const std::string& name);

}  // namespace fusestep
