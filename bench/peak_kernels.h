/* The loops of bench/peak.h, compiled once for each instruction set. They are spelled in the words that the cpu
 * device's kernels are spelled in, so that a limit is that of the instructions which the kernels have.
 * Threads: any; no state. */
#include "bench/peak_loops.h"

#include "kernels/cpu/vector.h"

#define CHAINS 8 /* of sums: as many as a multiply-add's latency hides */

/* Memory may have changed, for all the compiler knows: what is loaded in a loop is loaded in each turn, from a cache.
 */
#define LOAD_AGAIN() __asm__ volatile("" ::: "memory")

static double read_bytes(const uint8_t *bytes, size_t count) {
    const size_t step = 4 * sizeof(u8v);
    u8v seen[4] = {u8_set(0), u8_set(0), u8_set(0), u8_set(0)};
    size_t i = 0;
    for (; i + step <= count; i += step) {
        UNROLL for (int j = 0; j < 4; j++) {
            seen[j] = u8_or(seen[j], u8_load(bytes + i + j * sizeof(u8v)));
        }
    }
    const u8v all = u8_or(u8_or(seen[0], seen[1]), u8_or(seen[2], seen[3]));
    uint32_t first;
    memcpy(&first, &all, sizeof first);
    peak_sink(first);
    return (double)i;
}

static double multiply_int8(const struct peak_operands *operands, size_t turns) {
    i32v sum[CHAINS];
    UNROLL for (int j = 0; j < CHAINS; j++) {
        sum[j] = i32_set(0);
    }
    for (size_t i = 0; i < turns; i++) {
        LOAD_AGAIN();
        const u8v codes = u8_load(operands->codes);
        UNROLL for (int j = 0; j < CHAINS; j++) {
            sum[j] = i32_dot4(sum[j], codes, operands->activations + 4 * j, false);
        }
    }
    UNROLL for (int j = 0; j < CHAINS; j++) {
        peak_sink((uint32_t)i32_lanes_sum(sum[j]));
    }
    return (double)turns * CHAINS * LANES * 8;
}

static double multiply_f32(const struct peak_operands *operands, size_t turns) {
    f32v sum[CHAINS];
    UNROLL for (int j = 0; j < CHAINS; j++) {
        sum[j] = f32_set(0);
    }
    for (size_t i = 0; i < turns; i++) {
        LOAD_AGAIN();
        const f32v weights = f32_load(operands->floats);
        UNROLL for (int j = 0; j < CHAINS; j++) {
            sum[j] = f32_fma(weights, f32_set(operands->factors[j]), sum[j]);
        }
    }
    UNROLL for (int j = 0; j < CHAINS; j++) {
        float lanes[LANES];
        f32_store(lanes, sum[j]);
        peak_sink(bits_of_f32(lanes[0]));
    }
    return (double)turns * CHAINS * LANES * 2;
}

#define PEAK_LOOPS \
    { read_bytes, multiply_int8, multiply_f32 }
