/* The streaming limit: reads four float arrays and writes three, 28 bytes per parameter, as an AdamW
   step must, and computes almost nothing. Independent of fusestep's own machinery on purpose.
   Asking for memory ahead makes it up to a fifth faster where the arrays leave the cache, and the
   limit should be the fastest loop there is; what fits the cache gains nothing. */
#include <stddef.h>

enum { TILE = 128, AHEAD = 1024, LINE = 16, LARGE = 1 << 19, PARALLEL = 1 << 15 }; /* floats */

void stream(ptrdiff_t n, int threads, float* restrict p, const float* restrict g,
            float* restrict m, float* restrict v) {
#pragma omp parallel for schedule(static) num_threads(threads) if (n >= PARALLEL)
    for (ptrdiff_t begin = 0; begin < n; begin += TILE) {
        const ptrdiff_t end = n - begin < TILE ? n : begin + TILE;
        if (n >= LARGE && begin + TILE + AHEAD <= n) {
            for (ptrdiff_t i = begin + AHEAD; i < begin + AHEAD + TILE; i += LINE) {
                __builtin_prefetch(p + i);
                __builtin_prefetch(g + i);
                __builtin_prefetch(m + i);
                __builtin_prefetch(v + i);
            }
        }
        for (ptrdiff_t i = begin; i < end; ++i) {
            const float x = g[i];
            p[i] += x;
            m[i] += x;
            v[i] += x;
        }
    }
}
