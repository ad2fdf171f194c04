/* The streaming limit: reads four float arrays and writes three, 28 bytes per parameter, as an AdamW
   step must, and computes almost nothing. Independent of fusestep's own machinery on purpose. */
#include <stddef.h>

void stream(ptrdiff_t n, float* restrict p, const float* restrict g, float* restrict m,
            float* restrict v) {
#pragma omp parallel for schedule(static)
    for (ptrdiff_t i = 0; i < n; ++i) {
        const float x = g[i];
        p[i] += x;
        m[i] += x;
        v[i] += x;
    }
}
