// Every update rule, one line each: the native registry.
#pragma once
#include "adam.h"
#include "sgd.h"

#define FUSESTEP_RULES(RULE) \
    RULE(Sgd)                \
    RULE(Adam)               \
    RULE(AdaBelief)
