#include "registry.h"

namespace fusestep {
namespace {

template <class Rule, class T>
unsigned prepare(const double* hyper, long long update_number, void* scalars) {
    using Scalars = typename Rule::template Scalars<T>;
    static_assert(sizeof(Scalars) <= kScalarBytes, "raise kScalarBytes");
    return Rule::template prepare<T>(hyper, update_number, *static_cast<Scalars*>(scalars));
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
