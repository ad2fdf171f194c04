// The update rules as run-time entries: names, hyper-parameters, and the preparation of scalars.
#pragma once
#include <limits>
#include <string>

#include "../kernels/table.h"
#include "../portable/average.h"
#include "../portable/powers.h"

namespace fusestep {

// Settings are a table with a row for each group: the columns of the rule, and then these. Those of
// the whole model stand in the first row.
enum CommonColumn : int {
    kMaximize,
    kClipNorm,
    kClipValue,
    kAverages,
    kEma,
    kEmaEvery,
    kAgc,
    kAgcEps,
    kAgcAxis,
    kLazy,
    kCommonColumns
};
constexpr Column kCommon[kCommonColumns] = {
    flag("maximize"),
    number("clip_norm", kAboveZero, std::numeric_limits<double>::infinity()),  // NaN: no clipping
    number("clip_value", kAboveZero, std::numeric_limits<double>::infinity()),
    flag("averages"),
    number("ema", 0.0, 1.0),
    number("ema_every", 1.0, 0x1p53),
    positive("agc"),  // 0: no clipping
    number("agc_eps"),
    number("agc_axis", -64.0, 63.0),  // NaN: none is given
    choice("lazy", 2),                // exact, skip
};

// What a parameter of any rule may have behind the rule's own states.
constexpr State kAverage = state("average", from_parameter());

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
    unsigned (*own_states_used)(const double* hyper);
    // Writes the scalars of update number n (1 for the first), and the values that it leaves over
    // those of the last one. Returns the variant of the kernel, or -1 where a scalar is beyond the
    // type.
    int (*prepare[kDataTypes])(const double* hyper, long long update_number, Powers& powers,
                               double* values, void* scalars);
    // What an update leaves as it is where the gradient is +0.
    Rest (*rest[kDataTypes])(unsigned variant, const void* scalars);
    // Writes the factors that the sums over a tensor of some elements make; of rules with sums.
    void (*conclude[kDataTypes])(unsigned variant, const void* scalars, const double* sums,
                                 double size, void* factors);

    // All arrays that a parameter may have, the average behind the others, and which of them the
    // settings of a group ask for.
    int all_states() const { return states + 1; }
    const State& state_at(int k) const { return k < states ? state[k] : kAverage; }
    unsigned states_used(const double* settings) const {
        const bool averages = settings[columns + kAverages] != 0.0;
        return own_states_used(settings) | static_cast<unsigned>(averages) << states;
    }
};

extern const RuleEntry kRuleEntries[kRules];

// The entry of that name, or nullptr.
const RuleEntry* find_rule(const std::string& name);

}  // namespace fusestep
