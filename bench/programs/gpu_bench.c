/* gpu-bench: each hot op of the cuda device against its limit, on the shapes of a 7B and an 8B model.
 *
 *   decode matmul      weight bytes a second, as a share of what a copy inside the device moves
 *   decode attention   the same with the cache's bytes: 32 sequences of 8192 tokens
 *   prefill matmul     multiply-adds a second (2 operations each), as a share of cuBLAS in bf16 at the same shapes
 *   prefill attention  operations a second
 *
 * Prefill's products are made twice: by own kernels (`invariant`), and as cuBLAS makes them, with its weights'
 * unpacking. Without cuBLAS own kernels' rates stand alone. `quick` runs the same calls once on small shapes, which
 * shows on the emulator that the program works and says nothing about speed.
 *
 *   build/release-cuda/gpu-bench [quick] */
#include "base/random.h"
#include "kernels/cuda/cublas.h"
#include "kernels/device.h"
#include "kernels/ops.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PASSES 5
#define DECODE_ROWS 32 /* up to so many the weights' bytes are what counts */
#define COPIES_MAX 16  /* of a matrix, used in turn, so that weights come from memory and not from the cache */

struct bench {
    struct device *device;
    struct stream *stream;
    struct event *begin, *end;
    struct random_state random;
    bool quick;
    double copy_bytes_per_s;
    struct bench *library; /* the same GPU as a device that is not invariant; NULL where cuBLAS is not here */
};

static void must(struct status status) {
    if (status_failed(&status)) {
        fprintf(stderr, "gpu-bench: %s\n", status.message);
        exit(1);
    }
}

static void *device_memory(struct bench *bench, size_t bytes) {
    void *address;
    must(device_alloc(bench->device, bytes, "gpu-bench", &address));
    return address;
}

/* Host memory of random bytes; the caller frees it. */
static uint8_t *random_bytes(struct bench *bench, size_t bytes) {
    uint8_t *image = aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (image == NULL) {
        must(status_error(STATUS_NO_MEMORY, "%zu bytes are not to be had", bytes));
    }
    for (size_t i = 0; i + 8 <= bytes; i += 8) {
        const uint64_t bits = random_u64(&bench->random);
        memcpy(image + i, &bits, 8);
    }
    return image;
}

static void upload(struct bench *bench, void *target, const void *source, size_t bytes) {
    stream_copy(bench->stream, target, source, bytes, COPY_HOST_TO_DEVICE);
    must(stream_sync(bench->stream));
}

/* Activations between -1 and 1. */
static float *random_floats(struct bench *bench, size_t count) {
    float *values = malloc(count * sizeof *values), *target = device_memory(bench, count * sizeof *values);
    for (size_t i = 0; values != NULL && i < count; i++) {
        values[i] = (float)random_unit(&bench->random) * 2 - 1;
    }
    upload(bench, target, values, count * sizeof *values);
    free(values);
    return target;
}

/* The least seconds of a few passes of `run`. */
typedef void run_once(struct bench *bench, void *context, uint32_t pass);
static double best_seconds(struct bench *bench, run_once *run, void *context) {
    double best = 1e9;
    for (uint32_t pass = 0; pass < (bench->quick ? 1 : PASSES + 1); pass++) {
        event_record(bench->begin, bench->stream);
        run(bench, context, pass);
        event_record(bench->end, bench->stream);
        must(stream_sync(bench->stream));
        const double seconds = (double)(event_time_ns(bench->end) - event_time_ns(bench->begin)) / 1e9;
        best = seconds < best && (pass > 0 || bench->quick) ? seconds : best; /* the first is for the clocks */
    }
    return best > 0 ? best : 1e-9;
}

/* ---- the memory's own rate ---- */

struct copy_case {
    void *target, *source;
    size_t bytes;
};
static void run_copy(struct bench *bench, void *context, uint32_t pass) {
    (void)pass;
    const struct copy_case *copy = context;
    stream_copy(bench->stream, copy->target, copy->source, copy->bytes, COPY_DEVICE_TO_DEVICE);
}
static void measure_copy(struct bench *bench) {
    const size_t bytes = (size_t)1 << (bench->quick ? 20 : 30);
    struct copy_case copy = {device_memory(bench, bytes), device_memory(bench, bytes), bytes};
    bench->copy_bytes_per_s = 2 * (double)bytes / best_seconds(bench, run_copy, &copy);
    printf("copy inside the device   %8.1f GB/s read and written\n", bench->copy_bytes_per_s / 1e9);
    device_free(bench->device, copy.target);
    device_free(bench->device, copy.source);
}

/* ---- matmul ---- */

struct matmul_case {
    struct matmul_part parts[COPIES_MAX];
    uint32_t copies, n, columns;
    float *x;
};
static void run_matmul(struct bench *bench, void *context, uint32_t pass) {
    (void)pass;
    const struct matmul_case *matmul = context;
    for (uint32_t i = 0; i < matmul->copies; i++) {
        op_matmul(bench->stream, &matmul->parts[i], 1, matmul->x, matmul->columns, matmul->n);
    }
}

/* cuBLAS by itself, on the default stream; the handle is NULL where it is not measured. */
struct reference {
    struct cublas cublas;
    cublasHandle_t handle;
};

static void load_reference(struct reference *reference) {
    const struct status status = cublas_load(&reference->cublas);
    if (status_failed(&status) || reference->cublas.create(&reference->handle) != CUBLAS_STATUS_SUCCESS) {
        reference->handle = NULL;
        printf("rates of prefill stand alone: %s\n", status_failed(&status) ? status.message : "cublasCreate fails");
    }
}

/* Seconds of a bf16 product of these shapes by cuBLAS; 0 if it fails. */
static double cublas_seconds(struct bench *bench, const struct reference *reference, uint32_t rows, uint32_t columns,
                             uint32_t n) {
    const struct cublas *cublas = &reference->cublas;
    const size_t values = ((size_t)rows * columns + (size_t)n * columns + (size_t)n * rows);
    uint16_t *memory = device_memory(bench, values * sizeof *memory);
    uint16_t *weights = memory, *x = weights + (size_t)rows * columns, *out = x + (size_t)n * columns;
    const float one = 1, zero = 0;
    double best = 1e9;
    bool works = true;
    for (int pass = 0; pass < 2 * PASSES && works; pass++) {
        works = cudaDeviceSynchronize() == cudaSuccess;
        const uint64_t start = device_now_ns(bench->device);
        for (int i = 0; i < COPIES_MAX && works; i++) { /* many in a row: the host's share goes unseen */
            works = cublas->gemm_ex(reference->handle, CUBLAS_OP_T, CUBLAS_OP_N, (int)rows, (int)n, (int)columns, &one,
                                    weights, CUDA_R_16BF, (int)columns, x, CUDA_R_16BF, (int)columns, &zero, out,
                                    CUDA_R_16BF, (int)rows, CUBLAS_COMPUTE_32F,
                                    CUBLAS_GEMM_DEFAULT) == CUBLAS_STATUS_SUCCESS;
        }
        works = works && cudaDeviceSynchronize() == cudaSuccess;
        const double seconds = (double)(device_now_ns(bench->device) - start) / 1e9 / COPIES_MAX;
        best = seconds < best ? seconds : best;
    }
    device_free(bench->device, memory);
    return works ? best : 0;
}

static void show_rate(const char *by, double operations, double seconds, double limit) {
    printf("  %s %9.2f us %8.2f TFLOP/s", by, seconds * 1e6, operations / seconds / 1e12);
    if (limit > 0) {
        printf("  %5.1f %% of cuBLAS in bf16", 100 * limit / seconds);
    }
}

/* One shape in one type, for decode (few rows) and prefill. */
static void measure_matmul(struct bench *bench, const struct reference *reference, enum tensor_type type, uint32_t rows,
                           uint32_t columns) {
    static const uint32_t row_counts[] = {1, 8, DECODE_ROWS, 128, 256, 512, 2048}, quick_counts[] = {1, 40};
    const uint32_t *counts = bench->quick ? quick_counts : row_counts, cases = bench->quick ? 2 : 7;
    const size_t packed_bytes = device_packed_bytes(bench->device, type, rows, columns);
    uint8_t *file = random_bytes(bench, tensor_row_bytes(type, columns) * rows);
    uint8_t *packed = random_bytes(bench, packed_bytes);
    device_pack(bench->device, type, rows, columns, file, packed);
    struct matmul_case matmul = {.copies = bench->quick ? 1 : COPIES_MAX, .columns = columns};
    uint8_t *weights = device_memory(bench, packed_bytes * matmul.copies);
    float *out = device_memory(bench, (size_t)counts[cases - 1] * rows * sizeof *out);
    matmul.x = random_floats(bench, (size_t)counts[cases - 1] * columns);
    for (uint32_t i = 0; i < matmul.copies; i++) {
        uint8_t *copy = weights + i * packed_bytes;
        upload(bench, copy, packed, packed_bytes);
        matmul.parts[i] = (struct matmul_part){.weight = {copy, type, rows, columns}, .out = out, .out_stride = rows};
    }
    for (uint32_t i = 0; i < cases; i++) {
        matmul.n = counts[i];
        const double seconds = best_seconds(bench, run_matmul, &matmul) / matmul.copies;
        printf("matmul %-5s %5u x %5u by %4u rows", tensor_traits(type)->name, rows, columns, matmul.n);
        if (matmul.n <= DECODE_ROWS) {
            const double rate = (double)packed_bytes / seconds;
            printf(" %9.2f us  %8.1f GB/s  %5.1f %% of the copy's\n", seconds * 1e6, rate / 1e9,
                   100 * rate / bench->copy_bytes_per_s);
        } else {
            const double operations = 2.0 * rows * columns * matmul.n;
            const double limit = reference->handle ? cublas_seconds(bench, reference, rows, columns, matmul.n) : 0;
            show_rate("invariant", operations, seconds, limit);
            if (bench->library) {
                const double other = best_seconds(bench->library, run_matmul, &matmul) / matmul.copies;
                show_rate("; off", operations, other, limit);
            }
            printf("\n");
        }
    }
    device_free(bench->device, matmul.x);
    device_free(bench->device, out);
    device_free(bench->device, weights);
    free(packed);
    free(file);
}

/* ---- attention ---- */

struct attention_case {
    struct kv_batch batch;
    float *q, *out;
    uint32_t query_heads;
};
static void run_attention(struct bench *bench, void *context, uint32_t pass) {
    (void)pass;
    const struct attention_case *attention = context;
    const size_t width = (size_t)attention->query_heads * attention->batch.shape.head_dim;
    op_attention(bench->stream, attention->out, width, attention->q, width, &attention->batch, 0,
                 attention->query_heads, 0.088f, 0);
}

/* `sequences` of `context` tokens, the last `rows` of each computed. */
static void measure_attention(struct bench *bench, uint32_t sequences, uint32_t context, uint32_t rows) {
    struct attention_case attention = {.query_heads = 32};
    const struct kv_shape shape = {.layers = 1, .kv_heads = 8, .head_dim = 128, .type = KV_F16};
    const uint32_t blocks = context / KV_BLOCK_TOKENS;
    const size_t block_bytes = kv_block_bytes(&shape), width = (size_t)attention.query_heads * shape.head_dim;
    uint8_t *cache = device_memory(bench, block_bytes * blocks * sequences);
    uint64_t *table = malloc(sizeof *table * blocks * sequences);
    struct kv_segment *segments = calloc(sequences, sizeof *segments);
    if (table == NULL || segments == NULL) {
        must(status_error(STATUS_NO_MEMORY, "a block table is not to be had"));
    }
    uint8_t *image = random_bytes(bench, block_bytes);
    for (size_t i = 1; i < block_bytes; i += 2) {
        image[i] = (uint8_t)((image[i] & 0x83) | 0x30); /* halves of ordinary size */
    }
    for (uint32_t i = 0; i < blocks * sequences; i++) {
        upload(bench, cache + i * block_bytes, image, block_bytes);
        table[i] = (uint64_t)(uintptr_t)(cache + i * block_bytes);
    }
    for (uint32_t i = 0; i < sequences; i++) {
        segments[i] = (struct kv_segment){i + 1, i * rows, rows, context - rows, i};
    }
    uint64_t *device_table = device_memory(bench, sizeof *table * blocks * sequences);
    struct kv_segment *device_segments = device_memory(bench, sizeof *segments * sequences);
    upload(bench, device_table, table, sizeof *table * blocks * sequences);
    upload(bench, device_segments, segments, sizeof *segments * sequences);
    attention.batch = (struct kv_batch){.shape = shape,
                                        .segments = device_segments,
                                        .segments_host = segments,
                                        .segment_count = sequences,
                                        .rows = rows * sequences,
                                        .block_table = device_table,
                                        .table_stride = blocks};
    attention.q = random_floats(bench, width * rows * sequences);
    attention.out = device_memory(bench, width * rows * sequences * sizeof *attention.out);
    const double seconds = best_seconds(bench, run_attention, &attention);
    printf("attention %4u sequences of %5u tokens, %4u rows each %9.2f us", sequences, context, rows, seconds * 1e6);
    if (rows == 1) {
        const double rate = (double)(block_bytes * blocks * sequences) / seconds;
        printf("  %8.1f GB/s  %5.1f %% of the copy's\n", rate / 1e9, 100 * rate / bench->copy_bytes_per_s);
    } else { /* scores and values, of the positions that a row sees */
        const double seen = (double)rows * (context - rows) + (double)rows * (rows + 1) / 2;
        printf("  %8.2f TFLOP/s\n", 4.0 * seen * sequences * (double)width / seconds / 1e12);
    }
    void *const buffers[] = {attention.out, attention.q, device_segments, device_table, cache};
    for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++) {
        device_free(bench->device, buffers[i]);
    }
    free(image);
    free(segments);
    free(table);
}

/* ---- the device, twice: by own kernels alone, and with cuBLAS for all that is not decode ---- */

static void open_bench(struct bench *bench, bool invariant) {
    const struct device_config config = {
        .name = "cuda", .compute = COMPUTE_INT8, .invariant = invariant, .library_rows = DECODE_ROWS + 1};
    must(device_open(&config, &bench->device));
    const struct device_limits limits = {.rows = 2048,
                                         .columns = 14336,
                                         .vocabulary = 1,
                                         .logit_rows = 1,
                                         .sequences = 32,
                                         .query_heads = 32,
                                         .kv_heads = 8,
                                         .head_dim = 128,
                                         .context = 8192};
    must(device_prepare(bench->device, &limits));
    must(stream_create(bench->device, STREAM_COMPUTE, &bench->stream));
    must(event_create(bench->device, &bench->begin));
    must(event_create(bench->device, &bench->end));
}

static void close_bench(struct bench *bench) {
    event_destroy(bench->begin);
    event_destroy(bench->end);
    stream_destroy(bench->stream);
    device_close(bench->device);
}

int main(int argc, char **argv) {
    const bool quick = argc > 1 && strcmp(argv[1], "quick") == 0;
    struct bench library = {.quick = quick}, bench = {.quick = quick};
    struct reference reference = {0};
    random_seed(&bench.random, 1);
    open_bench(&bench, true);
    open_bench(&library, false);
    bench.library = device_info(library.device).invariant ? NULL : &library;
    printf("%s\n", device_info(bench.device).description);
    if (!quick) {
        load_reference(&reference);
    }
    measure_copy(&bench);
    static const enum tensor_type types[] = {TENSOR_BF16, TENSOR_Q8_0, TENSOR_Q4_0, TENSOR_Q4_1,
                                             TENSOR_Q4_K, TENSOR_Q5_K, TENSOR_Q6_K};
    static const uint32_t shapes[][2] = {{4096, 4096}, {6144, 4096}, {28672, 4096}, {4096, 14336}};
    static const uint32_t quick_shape[] = {48, 512};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        for (size_t j = 0; j < (quick ? 1 : sizeof shapes / sizeof *shapes); j++) {
            const uint32_t *shape = quick ? quick_shape : shapes[j];
            measure_matmul(&bench, &reference, types[i], shape[0], shape[1]);
        }
    }
    measure_attention(&bench, quick ? 2 : 32, quick ? 64 : 8192, 1);
    measure_attention(&bench, 1, quick ? 64 : 2048, 1);
    measure_attention(&bench, 1, quick ? 64 : 4096, quick ? 48 : 2048);
    close_bench(&library);
    close_bench(&bench);
    return 0;
}
