// The processor's default floating-point mode for the length of a scope: round to nearest,
// subnormals kept. Other libraries may have switched the thread to flush them to zero, which would
// change bits.
#pragma once

#if defined(__x86_64__) || defined(_M_X64)
#include <xmmintrin.h>
#define FUSESTEP_FP_GET() _mm_getcsr()
#define FUSESTEP_FP_SET(word) _mm_setcsr(word)
#define FUSESTEP_FP_DEFAULT 0x1F80u
#elif defined(__aarch64__) && !defined(_MSC_VER)
#define FUSESTEP_FP_GET() __builtin_aarch64_get_fpcr()
#define FUSESTEP_FP_SET(word) __builtin_aarch64_set_fpcr(word)
#define FUSESTEP_FP_DEFAULT 0u
#else
#define FUSESTEP_FP_GET() 0u
#define FUSESTEP_FP_SET(word) static_cast<void>(word)
#define FUSESTEP_FP_DEFAULT 0u
#endif

namespace fusestep {

class FloatEnvironment {
 public:
    FloatEnvironment() : saved_(FUSESTEP_FP_GET()) { FUSESTEP_FP_SET(FUSESTEP_FP_DEFAULT); }
    ~FloatEnvironment() { FUSESTEP_FP_SET(saved_); }
    FloatEnvironment(const FloatEnvironment&) = delete;
    FloatEnvironment& operator=(const FloatEnvironment&) = delete;

 private:
    unsigned saved_;
};

}  // namespace fusestep
