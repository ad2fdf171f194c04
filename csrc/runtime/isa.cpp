#include "isa.h"

#include <atomic>
#include <limits>

#include "float_environment.h"

#if defined(_MSC_VER) && defined(FUSESTEP_X86_KERNELS)
#include <immintrin.h>
#include <intrin.h>
#endif

namespace fusestep {

extern const KernelTable kernels_baseline;
extern const Evaluate evaluate_baseline;
#ifdef FUSESTEP_X86_KERNELS
extern const KernelTable kernels_avx2;
extern const Evaluate evaluate_avx2;
extern const KernelTable kernels_avx512;
extern const Evaluate evaluate_avx512;
#endif

namespace {

bool always() { return true; }

#ifdef FUSESTEP_X86_KERNELS
#ifdef _MSC_VER
// Fused multiply-add, leaf 7 of CPUID, and whether the operating system saves the wide registers
// (XCR0).
bool has(unsigned ebx_bits, unsigned long long saved_registers) {
    int regs[4];
    __cpuid(regs, 1);
    const int needed = (1 << 12) | (1 << 27);  // FMA, OSXSAVE
    if ((regs[2] & needed) != needed || (_xgetbv(0) & saved_registers) != saved_registers)
        return false;
    __cpuidex(regs, 7, 0);
    return (static_cast<unsigned>(regs[1]) & ebx_bits) == ebx_bits;
}
bool has_avx2() { return has(1u << 5, 0x6); }
bool has_avx512() { return has((1u << 16) | (1u << 17) | (1u << 30) | (1u << 31), 0xE6); }
#else
bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
bool has_avx512() {
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
#endif
#endif

struct Isa {
    const char* name;
    const KernelTable* kernels;
    const Evaluate* evaluate;
    bool (*supported)();
};

const Isa kIsas[] = {
    {"baseline", &kernels_baseline, &evaluate_baseline, always},
#ifdef FUSESTEP_X86_KERNELS
    {"avx2", &kernels_avx2, &evaluate_avx2, has_avx2},
    {"avx512", &kernels_avx512, &evaluate_avx512, has_avx512},
#endif
};

std::atomic<const Isa*> active{&kIsas[0]};

}  // namespace

std::vector<std::string> compiled_isas() {
    std::vector<std::string> names;
    for (const Isa& isa : kIsas) names.emplace_back(isa.name);
    return names;
}

std::vector<std::string> supported_isas() {
    std::vector<std::string> names;
    for (const Isa& isa : kIsas) {
        if (isa.supported()) names.emplace_back(isa.name);
    }
    return names;
}

const char* active_isa() { return active.load()->name; }

const KernelTable& active_kernels() { return *active.load()->kernels; }

Evaluate active_evaluate() { return *active.load()->evaluate; }

bool is_exact() {
    const FloatEnvironment environment;
    static const Operands<float> single = operands(std::numeric_limits<float>::quiet_NaN());
    static const Operands<double> twice = operands(std::numeric_limits<double>::quiet_NaN());
    return active_kernels().is_exact(single, twice);
}

bool use_isa(const std::string& name) {
    const Isa* chosen = nullptr;
    for (const Isa& isa : kIsas) {
        if ((name.empty() || name == isa.name) && isa.supported()) chosen = &isa;
    }
    if (chosen == nullptr) return false;
    active.store(chosen);
    return true;
}

}  // namespace fusestep
