// What becomes float32 on its way into a batch, and how.
#pragma once
#include "compiler.h"

namespace fusestep {

enum Element : int {
    kUint8,
    kInt8,
    kUint16,
    kInt16,
    kUint32,
    kInt32,
    kInt64,
    kFloat32Element,
    kFloat64Element,
    kElements
};

template <class T>
FUSESTEP_INLINE float converted(T x, float scale, float shift) {
    return scale * static_cast<float>(x) + shift;
}

}  // namespace fusestep
