/* The scratch of the cpu device's heavy ops: allocated once, for the device's limits.
 * Threads: the one that owns the device, with nothing in flight. */
#include "kernels/cpu/scratch.h"

#include "base/bytes.h"

#include <stdlib.h>
#include <string.h>

/* *out = `count` elements of `size` bytes, aligned; never NULL on success. */
static struct status allocate(size_t count, size_t size, const char *what, void **out) {
    size_t bytes;
    if (!bytes_multiply(count > 0 ? count : 1, size, &bytes) || bytes > SIZE_MAX - CPU_ALIGNMENT) {
        return status_error(STATUS_NO_MEMORY, "scratch for %s: %zu elements of %zu bytes do not fit", what, count,
                            size);
    }
    *out = aligned_alloc(CPU_ALIGNMENT, bytes_align(bytes, CPU_ALIGNMENT));
    if (*out == NULL) {
        return status_error(STATUS_NO_MEMORY, "scratch for %s: %zu bytes are not to be had", what, bytes);
    }
    return STATUS_SUCCESS;
}

static struct status allocate_scratch(struct cpu_math *math, const struct cpu_device *device,
                                      const struct device_limits *limits) {
    const size_t rows = limits->rows > limits->logit_rows ? limits->rows : limits->logit_rows;
    const size_t tiles = rows / MATMUL_TILE + 1, blocks = limits->columns / PACKED_BLOCK + 1;
    math->activation_capacity = tiles * blocks;
    TRY(allocate(math->activation_capacity, sizeof *math->activations, "quantized activations",
                 (void **)&math->activations));

    math->head_dim = (uint32_t)bytes_align(limits->head_dim, 16);
    const size_t worker_floats = ATTENTION_QUERIES * (ATTENTION_SPAN + (size_t)math->head_dim) +
                                 2 * attention_state_floats(ATTENTION_QUERIES, math->head_dim);
    math->worker_bytes = bytes_align(worker_floats * sizeof(float), CPU_ALIGNMENT);
    TRY(allocate(device->threads, math->worker_bytes, "attention", (void **)&math->workers));

    math->partial_capacity =
        attention_state_floats(limits->query_heads, math->head_dim) * ((size_t)limits->context / ATTENTION_SPAN + 1);
    TRY(allocate(math->partial_capacity, sizeof *math->partials, "attention over long contexts",
                 (void **)&math->partials));

    math->vocabulary = limits->vocabulary;
    math->sampling_bytes = bytes_align(cpu_sample_bytes(limits->vocabulary), CPU_ALIGNMENT);
    TRY(allocate(device->threads, math->sampling_bytes, "sampling", (void **)&math->sampling));

    math->sequences = limits->sequences;
    return allocate((size_t)limits->sequences + 1, sizeof *math->tile_starts, "attention's tiles",
                    (void **)&math->tile_starts);
}

struct status cpu_math_prepare(struct cpu_device *device, const struct device_limits *limits) {
    static const struct {
        const struct matmul_kernels *matmul;
        const struct attention_kernels *attention;
    } kernels[] = {
        [CPU_SCALAR] = {&matmul_scalar, &attention_scalar},
        [CPU_AVX2] = {&matmul_avx2, &attention_avx2},
        [CPU_AVX512] = {&matmul_avx512, &attention_avx512},
    };
    struct cpu_math *math = calloc(1, sizeof *math);
    if (math == NULL) {
        return status_error(STATUS_NO_MEMORY, "scratch: %zu bytes are not to be had", sizeof *math);
    }
    math->matmul = kernels[device->isa].matmul;
    math->attention = kernels[device->isa].attention;
    device->math = math;
    struct status status = allocate_scratch(math, device, limits);
    if (status_failed(&status)) {
        cpu_math_release(device);
    }
    return status;
}

void cpu_math_release(struct cpu_device *device) {
    struct cpu_math *math = device->math;
    if (math != NULL) {
        free(math->activations);
        free(math->workers);
        free(math->partials);
        free(math->tile_starts);
        free(math->sampling);
        free(math);
        device->math = NULL;
    }
}
