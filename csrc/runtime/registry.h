// The update rules as run-time entries: names, hyper-parameters, and the preparation of scalars.
#pragma once
#include <limits>
#include <string>

#include "../kernels/table.h"
#include "../portable/powers.h"

namespace fusestep {

struct RuleEntry {
    RuleIndex index;
    const char* type;  // the struct in csrc/rules
    const char* name;
    int states;
    const State* state;
    int columns;
    const Column* column;
    int lr;  // the column of the learning rate
    int values;
    const Value* value;
    int sums;
    unsigned (*states_used)(const double* hyper);
    // Writes the scalars of update number n (1 for the first), and the values that it leaves over
    // those of the last one. Returns the variant of the kernel, or -1 where a scalar is beyond the
    // type.
    int (*prepare[kDataTypes])(const double* hyper, long long update_number, Powers& powers,
                               double* values, void* scalars);
    // Writes the factors that the sums over a tensor of some elements make; of rules with sums.
    void (*conclude[kDataTypes])(unsigned variant, const void* scalars, const double* sums,
                                 double size, void* factors);
};

// Settings are a table with a row for each group: the columns of the rule, and then these. Those of
// the whole model stand in the first row.
enum CommonColumn : int { kMaximize, kClipNorm, kClipValue, kCommonColumns };
constexpr Column kCommon[kCommonColumns] = {
    flag("maximize"),
    number("clip_norm", kAboveZero, std::numeric_limits<double>::infinity()),  // NaN: no clipping
    number("clip_value", kAboveZero, std::numeric_limits<double>::infinity()),
};

extern const RuleEntry kRuleEntries[kRules];

// The entry of that name, or nullptr.
const RuleEntry* find_rule(const std::string& name);

}  // namespace fusestep
