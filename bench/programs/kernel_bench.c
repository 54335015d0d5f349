/* kernel-bench: how fast the cpu device's matmul and attention run on the shapes of SmolLM2-135M.
 *
 * The matmuls run in a forward pass's order over 30 layers' own weights, so that decode reads memory and not the
 * cache. Prints the best of a few passes: weight bytes and multiply-add operations (2 each) a second, and the tokens
 * a second that matmuls alone would allow.
 *
 *   build/release/kernel-bench [threads [isa [int8|f32]]] */
#include "base/clock.h"
#include "base/random.h"
#include "kernels/device.h"
#include "kernels/ops.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LAYERS 30
#define WIDTH 576
#define FEED_FORWARD 1536
#define VOCABULARY 49152
#define QUERY_HEADS 9
#define KV_HEADS 3
#define HEAD_DIM 64
#define KV_WIDTH (KV_HEADS * HEAD_DIM)
#define MAX_ROWS 512
#define CONTEXT 4096
#define WEIGHT_BYTES ((size_t)128 << 20)

static const char *const compute_names[] = {[COMPUTE_INT8] = "int8", [COMPUTE_F32] = "f32"};

/* One matmul of a layer, `copies` times with weights of its own. */
struct shape {
    const char *name;
    enum tensor_type type;
    uint32_t copies, columns, parts, rows[MATMUL_MAX_PARTS];
};

static const struct shape shapes[] = {
    {"q, k, v", TENSOR_Q4_1, LAYERS, WIDTH, 3, {WIDTH, KV_WIDTH, KV_WIDTH}},
    {"attention out", TENSOR_Q4_1, LAYERS, WIDTH, 1, {WIDTH}},
    {"gate, up", TENSOR_Q4_1, LAYERS, WIDTH, 2, {FEED_FORWARD, FEED_FORWARD}},
    {"down", TENSOR_Q4_1, LAYERS, FEED_FORWARD, 1, {WIDTH}},
    {"head", TENSOR_Q8_0, 1, WIDTH, 1, {VOCABULARY}},
};
#define SHAPES (sizeof shapes / sizeof *shapes)

struct bench {
    struct device *device;
    struct stream *stream;
    float *x, *out[MATMUL_MAX_PARTS];
    uint8_t *weights; /* what is left of one arena, as a model's weights lie */
    uint8_t *blocks;
    uint64_t *table;
    struct kv_segment *segments;
    struct event *events[1 + SHAPES * LAYERS];
};

static void must(struct status status) {
    if (status_failed(&status)) {
        fprintf(stderr, "kernel-bench: %s\n", status.message);
        exit(1);
    }
}

static void *device_memory(struct bench *bench, size_t bytes) {
    void *address;
    must(device_alloc(bench->device, bytes, "kernel-bench", &address));
    return address;
}

/* A packed matrix of random codes and scales near 1/64. */
static struct weight random_weight(struct bench *bench, struct random_state *random, enum tensor_type type,
                                   uint32_t rows, uint32_t columns) {
    const size_t bytes = tensor_row_bytes(type, columns) * rows, block = tensor_traits(type)->block_bytes;
    uint8_t *file = malloc(bytes);
    for (size_t i = 0; file && i + 8 <= bytes; i += 8) {
        const uint64_t bits = random_u64(random);
        memcpy(file + i, &bits, 8);
    }
    for (size_t i = 0; file && i < bytes; i += block) {
        memcpy(file + i, "\x00\x24\x00\x24", type == TENSOR_Q4_1 ? 4 : 2);
    }
    uint8_t *packed = bench->weights;
    bench->weights += device_packed_bytes(bench->device, type, rows, columns);
    device_pack(bench->device, type, rows, columns, file, packed);
    free(file);
    return (struct weight){.data = packed, .type = type, .rows = rows, .columns = columns};
}

static double seconds_of(struct bench *bench, uint64_t started_ns) {
    must(stream_sync(bench->stream));
    return (double)(clock_now_ns() - started_ns) / 1e9;
}

/* A prefill takes the logits of its last row only. */
static uint32_t shape_rows(size_t shape, uint32_t n) {
    return shape + 1 == SHAPES && n > 64 ? 1 : n;
}

/* All the model's matmuls for `n` rows in their order; the least time that all copies of each shape took together
 * goes to best_s[shape], and of the whole to best_s[SHAPES]. */
static void time_matmuls(struct bench *bench, struct matmul_part (*parts)[LAYERS][MATMUL_MAX_PARTS], uint32_t n,
                         double best_s[SHAPES + 1]) {
    for (size_t i = 0; i <= SHAPES; i++) {
        best_s[i] = 1e9;
    }
    for (int pass = 0; pass < (n > 64 ? 3 : 12); pass++) {
        uint32_t events = 0;
        double seconds[SHAPES + 1] = {0};
        event_record(bench->events[0], bench->stream);
        for (uint32_t copy = 0; copy < LAYERS; copy++) {
            for (size_t i = 0; i < SHAPES; i++) {
                if (copy + shapes[i].copies >= LAYERS) { /* the head comes after the last layer */
                    op_matmul(bench->stream, parts[i][copy], shapes[i].parts, bench->x, shapes[i].columns,
                              shape_rows(i, n));
                    event_record(bench->events[++events], bench->stream);
                }
            }
        }
        must(stream_sync(bench->stream));
        for (uint32_t event = 1; event <= events; event++) {
            const size_t i = event == events ? SHAPES - 1 : (event - 1) % (SHAPES - 1);
            seconds[i] += (double)(event_time_ns(bench->events[event]) - event_time_ns(bench->events[event - 1])) / 1e9;
        }
        for (size_t i = 0; i <= SHAPES; i++) {
            seconds[SHAPES] += i < SHAPES ? seconds[i] : 0;
            best_s[i] = seconds[i] < best_s[i] ? seconds[i] : best_s[i];
        }
    }
}

static void bench_matmuls(struct bench *bench, struct random_state *random) {
    static const uint32_t row_counts[] = {1, 2, 4, 8, 16, 64, MAX_ROWS};
    static struct matmul_part parts[SHAPES][LAYERS][MATMUL_MAX_PARTS];
    for (size_t i = 0; i < SHAPES; i++) {
        for (uint32_t copy = LAYERS - shapes[i].copies; copy < LAYERS; copy++) {
            for (uint32_t part = 0; part < shapes[i].parts; part++) {
                parts[i][copy][part] = (struct matmul_part){
                    .weight = random_weight(bench, random, shapes[i].type, shapes[i].rows[part], shapes[i].columns),
                    .out = bench->out[part],
                    .out_stride = shapes[i].rows[part],
                };
            }
        }
    }
    for (uint32_t i = 0; i <= SHAPES * LAYERS; i++) {
        must(event_create(bench->device, &bench->events[i]));
    }
    printf("%-14s %5s %12s %8s %8s\n", "matmul", "rows", "us a call", "GB/s", "GOPS");
    for (size_t r = 0; r < sizeof row_counts / sizeof *row_counts; r++) {
        double seconds[SHAPES + 1], all_bytes = 0, all_operations = 0;
        const uint32_t n = row_counts[r];
        time_matmuls(bench, parts, n, seconds);
        for (size_t i = 0; i < SHAPES; i++) {
            double bytes = 0, operations = 0;
            for (uint32_t part = 0; part < shapes[i].parts; part++) {
                const struct weight *weight = &parts[i][LAYERS - 1][part].weight;
                bytes += shapes[i].copies *
                         (double)device_packed_bytes(bench->device, weight->type, weight->rows, weight->columns);
                operations += 2.0 * shapes[i].copies * weight->rows * weight->columns * shape_rows(i, n);
            }
            printf("%-14s %5u %12.1f %8.1f %8.1f\n", shapes[i].name, shape_rows(i, n),
                   seconds[i] * 1e6 / shapes[i].copies, bytes / seconds[i] / 1e9, operations / seconds[i] / 1e9);
            all_bytes += bytes;
            all_operations += operations;
        }
        printf("%-14s %5u %12.1f %8.1f %8.1f %8.0f tok/s\n", "all", n, seconds[SHAPES] * 1e6,
               all_bytes / seconds[SHAPES] / 1e9, all_operations / seconds[SHAPES] / 1e9, n / seconds[SHAPES]);
    }
}

/* `sequences` runs of `rows` rows each, ending at position `length` - 1, through all layers. */
static void bench_attention(struct bench *bench, uint32_t sequences, uint32_t rows, uint32_t length) {
    struct kv_batch batch = {
        .shape = {.layers = LAYERS, .kv_heads = KV_HEADS, .head_dim = HEAD_DIM, .type = KV_F16},
        .segments = bench->segments,
        .segments_host = bench->segments,
        .segment_count = sequences,
        .rows = sequences * rows,
        .block_table = bench->table,
        .table_stride = CONTEXT / KV_BLOCK_TOKENS,
    };
    for (uint32_t i = 0; i < sequences; i++) {
        bench->segments[i] = (struct kv_segment){
            .sequence = i + 1, .first_row = i * rows, .rows = rows, .first_position = length - rows, .table = 0};
    }
    double best = 1e9, store = 1e9;
    for (int pass = 0; pass < 5; pass++) {
        uint64_t started_ns = clock_now_ns();
        for (uint32_t layer = 0; layer < LAYERS; layer++) {
            op_kv_store(bench->stream, &batch, layer, bench->x, KV_WIDTH, bench->x, KV_WIDTH);
        }
        double seconds = seconds_of(bench, started_ns);
        store = seconds < store ? seconds : store;
        started_ns = clock_now_ns();
        for (uint32_t layer = 0; layer < LAYERS; layer++) {
            op_attention(bench->stream, bench->out[0], WIDTH, bench->x, WIDTH, &batch, layer, QUERY_HEADS, 0.125f, 0);
        }
        seconds = seconds_of(bench, started_ns);
        best = seconds < best ? seconds : best;
    }
    const double pairs = (double)sequences * rows * (length - rows + (rows + 1) / 2.0); /* (query row, position) */
    const double flops = pairs * QUERY_HEADS * HEAD_DIM * 4 * LAYERS;
    printf("%9u x %4u rows to position %4u: %9.1f us, %6.1f GFLOPS; store %7.1f us\n", sequences, rows, length,
           best * 1e6, flops / best / 1e9, store * 1e6);
}

int main(int argc, char **argv) {
    const struct device_config config = {
        .name = "cpu",
        .threads = argc > 1 ? (uint32_t)strtoul(argv[1], NULL, 10) : 0,
        .isa = argc > 2 ? argv[2] : "auto",
        .compute = argc > 3 && strcmp(argv[3], "f32") == 0 ? COMPUTE_F32 : COMPUTE_INT8,
    };
    const struct device_limits limits = {.rows = MAX_ROWS,
                                         .columns = FEED_FORWARD,
                                         .vocabulary = VOCABULARY,
                                         .logit_rows = 64,
                                         .sequences = 64,
                                         .query_heads = QUERY_HEADS,
                                         .kv_heads = KV_HEADS,
                                         .head_dim = HEAD_DIM,
                                         .context = CONTEXT};
    struct bench bench = {0};
    struct random_state random;
    random_seed(&random, 1);
    must(device_open(&config, &bench.device));
    must(device_prepare(bench.device, &limits));
    must(stream_create(bench.device, STREAM_COMPUTE, &bench.stream));
    printf("%s, %s\n", device_info(bench.device).description, compute_names[config.compute]);

    bench.x = device_memory(&bench, sizeof(float) * MAX_ROWS * FEED_FORWARD);
    for (uint32_t i = 0; i < MAX_ROWS * FEED_FORWARD; i++) {
        bench.x[i] = (float)random_unit(&random) - 0.5f;
    }
    for (uint32_t i = 0; i < MATMUL_MAX_PARTS; i++) {
        bench.out[i] = device_memory(&bench, sizeof(float) * 64 * VOCABULARY);
        memset(bench.out[i], 0, sizeof(float) * 64 * VOCABULARY);
    }
    bench.weights = device_memory(&bench, WEIGHT_BYTES);
    bench_matmuls(&bench, &random);

    const struct kv_shape kv = {.layers = LAYERS, .kv_heads = KV_HEADS, .head_dim = HEAD_DIM, .type = KV_F16};
    bench.blocks = device_memory(&bench, kv_block_bytes(&kv) * (CONTEXT / KV_BLOCK_TOKENS));
    memset(bench.blocks, 0x11, kv_block_bytes(&kv) * (CONTEXT / KV_BLOCK_TOKENS));
    bench.table = device_memory(&bench, sizeof(uint64_t) * (CONTEXT / KV_BLOCK_TOKENS));
    for (uint32_t i = 0; i < CONTEXT / KV_BLOCK_TOKENS; i++) {
        bench.table[i] = (uint64_t)(uintptr_t)(bench.blocks + i * kv_block_bytes(&kv));
    }
    bench.segments = device_memory(&bench, sizeof(struct kv_segment) * 64);
    printf("attention, %u layers:\n", LAYERS);
    bench_attention(&bench, 1, 1, 128);
    bench_attention(&bench, 1, 1, 1024);
    bench_attention(&bench, 1, 1, 4096);
    bench_attention(&bench, 16, 1, 256);
    bench_attention(&bench, 1, 512, 512);
    bench_attention(&bench, 1, 512, 2048);
    return 0; /* the process's end frees the device's memory */
}
