/* How bench/peak.c sees the loops of one instruction set. Threads: any. */
#ifndef METRONOME_BENCH_PEAK_LOOPS_H
#define METRONOME_BENCH_PEAK_LOOPS_H

#include <stddef.h>
#include <stdint.h>

/* What the arithmetic loops multiply: little enough to stay in the first cache. */
struct peak_operands {
    _Alignas(64) uint8_t codes[64];
    _Alignas(64) float floats[16];
    int8_t activations[64];
    float factors[16];
};

/* Each returns how much it did: bytes that were read, operations. */
struct peak_loops {
    double (*read)(const uint8_t *bytes, size_t count);
    double (*int8)(const struct peak_operands *operands, size_t turns);
    double (*f32)(const struct peak_operands *operands, size_t turns);
};

extern const struct peak_loops peak_scalar, peak_avx2, peak_avx512;

/* Takes a result, so that the loop that found it is not for nothing. */
void peak_sink(uint32_t result);

#endif
