// Every update rule, one line each, and the sizes that follow from the list.
#pragma once
#include "adadelta.h"
#include "adagrad.h"
#include "adam.h"
#include "adamax.h"
#include "ademamix.h"
#include "adopt.h"
#include "lamb.h"
#include "lars.h"
#include "lion.h"
#include "nadam.h"
#include "radam.h"
#include "rmsprop.h"
#include "rprop.h"
#include "schedule_free.h"
#include "sgd.h"
#include "stable_adamw.h"

#define FUSESTEP_RULES(RULE) \
    RULE(Sgd)                \
    RULE(Adam)               \
    RULE(AdaBelief)          \
    RULE(NAdam)              \
    RULE(RAdam)              \
    RULE(Adopt)              \
    RULE(AdEMAMix)           \
    RULE(ScheduleFreeSgd)    \
    RULE(ScheduleFreeAdamW)  \
    RULE(Lion)               \
    RULE(Rmsprop)            \
    RULE(Adagrad)            \
    RULE(Adamax)             \
    RULE(Adadelta)           \
    RULE(Rprop)              \
    RULE(Lamb)               \
    RULE(Lars)               \
    RULE(StableAdamW)

namespace fusestep {

#define FUSESTEP_RULE_INDEX(Rule) k##Rule,
enum RuleIndex : int { FUSESTEP_RULES(FUSESTEP_RULE_INDEX) kRules };
#undef FUSESTEP_RULE_INDEX

constexpr int largest(const int (&numbers)[kRules]) {
    int found = numbers[0];
    for (const int number : numbers) found = number > found ? number : found;
    return found;
}
constexpr int in_steps_of_16(int bytes) { return (bytes + 15) / 16 * 16; }

#define FUSESTEP_STATES(Rule) Rule::kStateCount,
#define FUSESTEP_VARIANTS(Rule) static_cast<int>(Rule::kVariants),
#define FUSESTEP_SUMS(Rule) Rule::kSumCount,
#define FUSESTEP_SCALARS(Rule) static_cast<int>(sizeof(Rule::Scalars<double>)),
#define FUSESTEP_FACTORS(Rule) static_cast<int>(sizeof(Rule::Factors<double>)),
constexpr int kMaxStates = largest({FUSESTEP_RULES(FUSESTEP_STATES)});
constexpr int kMaxVariants = largest({FUSESTEP_RULES(FUSESTEP_VARIANTS)});
constexpr int kMaxSums = largest({FUSESTEP_RULES(FUSESTEP_SUMS)});
constexpr int kScalarBytes = in_steps_of_16(largest({FUSESTEP_RULES(FUSESTEP_SCALARS)}));
constexpr int kFactorBytes = in_steps_of_16(largest({FUSESTEP_RULES(FUSESTEP_FACTORS)}));
#undef FUSESTEP_STATES
#undef FUSESTEP_VARIANTS
#undef FUSESTEP_SUMS
#undef FUSESTEP_SCALARS
#undef FUSESTEP_FACTORS

}  // namespace fusestep
