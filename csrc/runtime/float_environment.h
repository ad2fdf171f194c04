// The processor's default floating-point mode for the length of a scope: round to nearest,
// subnormals kept. Other libraries may have switched the thread to flush them to zero, which would
// change bits.
#pragma once
#include <cstdint>

#if defined(__x86_64__) || defined(_M_X64)
#include <xmmintrin.h>
#endif

namespace fusestep {

class FloatEnvironment {
 public:
    FloatEnvironment() : saved_(get()) {
        if (is_other()) set(kDefault);
    }
    ~FloatEnvironment() {
        if (is_other()) set(saved_);
    }
    FloatEnvironment(const FloatEnvironment&) = delete;
    FloatEnvironment& operator=(const FloatEnvironment&) = delete;

 private:
#if defined(__x86_64__) || defined(_M_X64)
    using Word = unsigned;
    static constexpr Word kDefault = 0x1F80;  // all exceptions masked
    static constexpr Word kMode = 0xFFC0;     // the other bits tell what has happened
    static Word get() { return _mm_getcsr(); }
    static void set(Word word) { _mm_setcsr(word); }
#elif defined(__aarch64__) && !defined(_MSC_VER)
    using Word = std::uint64_t;
    static constexpr Word kDefault = 0;
    static constexpr Word kMode = ~Word{0};
    static Word get() {
        Word word;
        __asm__ __volatile__("mrs %0, fpcr" : "=r"(word));
        return word;
    }
    static void set(Word word) { __asm__ __volatile__("msr fpcr, %0" : : "r"(word)); }
#else
    using Word = unsigned;
    static constexpr Word kDefault = 0;
    static constexpr Word kMode = 0;
    static Word get() { return kDefault; }
    static void set(Word) {}
#endif

    // Switching takes longer than looking.
    bool is_other() const { return ((saved_ ^ kDefault) & kMode) != 0; }

    Word saved_;
};

}  // namespace fusestep
