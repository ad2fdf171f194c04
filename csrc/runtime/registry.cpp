#include "registry.h"

#include <cmath>
#include <cstring>

namespace fusestep {
namespace {

template <class Rule, class T>
int prepare(const double* hyper, long long update_number, Powers& powers, void* scalars) {
    using Scalars = typename Rule::template Scalars<T>;
    static_assert(sizeof(Scalars) <= kScalarBytes, "raise kScalarBytes");
    static_assert(sizeof(Scalars) % sizeof(T) == 0, "scalars are numbers of one type");
    const unsigned variant =
        Rule::template prepare<T>(hyper, update_number, powers, *static_cast<Scalars*>(scalars));
    T numbers[sizeof(Scalars) / sizeof(T)];
    std::memcpy(numbers, scalars, sizeof(Scalars));
    for (const T number : numbers) {
        if (!std::isfinite(number)) return -1;
    }
    return static_cast<int>(variant);
}

template <class Rule>
constexpr RuleEntry entry(RuleIndex index, const char* type) {
    return {index,
            type,
            Rule::kName,
            Rule::kStates,
            Rule::kStateNames,
            Rule::kColumnCount,
            Rule::kColumns,
            Rule::states_used,
            {prepare<Rule, float>, prepare<Rule, double>}};
}

}  // namespace

#define FUSESTEP_ENTRY(Rule) entry<Rule>(k##Rule, #Rule),
const RuleEntry kRuleEntries[kRules] = {FUSESTEP_RULES(FUSESTEP_ENTRY)};
#undef FUSESTEP_ENTRY

const RuleEntry* find_rule(const std::string& name) {
    for (const RuleEntry& rule : kRuleEntries) {
        if (name == rule.name) return &rule;
    }
    return nullptr;
}

}  // namespace fusestep
