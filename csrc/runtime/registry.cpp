#include "registry.h"

#include <cmath>
#include <cstring>

namespace fusestep {
namespace {

template <class Rule, class T>
int prepare(const double* hyper, long long update_number, Powers& powers, double* values,
            void* scalars) {
    using Scalars = typename Rule::template Scalars<T>;
    static_assert(sizeof(Scalars) % sizeof(T) == 0, "scalars are numbers of one type");
    const unsigned variant = Rule::template prepare<T>(hyper, update_number, powers, values,
                                                       *static_cast<Scalars*>(scalars));
    T numbers[sizeof(Scalars) / sizeof(T)];
    std::memcpy(numbers, scalars, sizeof(Scalars));
    for (const T number : numbers) {
        if (!std::isfinite(number)) return -1;
    }
    return static_cast<int>(variant);
}

template <class Rule, class T>
Rest rest(unsigned variant, const void* scalars) {
    return Rule::rest(variant, *static_cast<const typename Rule::template Scalars<T>*>(scalars));
}

template <class Rule, class T>
void conclude(unsigned variant, const void* scalars, const double* sums, double size,
              void* factors) {
    if constexpr (Rule::kSumCount > 0) {
        using Factors = typename Rule::template Factors<T>;
        using Scalars = typename Rule::template Scalars<T>;
        *static_cast<Factors*>(factors) =
            Rule::conclude(variant, *static_cast<const Scalars*>(scalars), sums, size);
    }
}

template <class Rule>
constexpr RuleEntry entry(RuleIndex index, const char* type) {
    static_assert(Rule::kStateCount < 32, "a state is a bit, and the average another");
    return {index,
            type,
            Rule::kName,
            Rule::kStateCount,
            Rule::kStates,
            Rule::kColumnCount,
            Rule::kColumns,
            Rule::kLr,
            Rule::kValueCount,
            Rule::kValues,
            Rule::kSumCount,
            Rule::states_used,
            {prepare<Rule, float>, prepare<Rule, double>},
            {rest<Rule, float>, rest<Rule, double>},
            {conclude<Rule, float>, conclude<Rule, double>}};
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
