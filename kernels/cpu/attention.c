/* op_kv_store and op_attention on the cpu device: which tile of queries meets which span of positions, and who
 * computes it.
 *
 * Owns: how the work is cut; the arithmetic is attention.h's, and no cut changes it. A tile's spans are computed and
 * merged in order by one worker, unless there are too few tiles for the workers (decode of a few long sequences):
 * then every (tile, span) is a task, and the merge a second pass.
 * Threads: the stream's, and the pool under it. */
#include "kernels/cpu/scratch.h"

#include "base/check.h"

#define SPLIT_TILES_PER_WORKER 4 /* with fewer tiles than this, spans are shared out too */
#define STORE_TASK_ROWS 32

/* ---- storing ---- */

struct store_call {
    struct cpu_device *device; /* filled in by run() */
    struct kv_batch batch;
    uint32_t layer;
    const float *k, *v;
    size_t k_stride, v_stride;
};

static size_t layer_offset(const struct kv_shape *shape, uint32_t layer) {
    return layer * kv_layer_bytes(shape);
}

/* Bytes of one head's keys, or values, of one layer of a block. */
static size_t head_bytes(const struct kv_shape *shape) {
    return (size_t)KV_BLOCK_TOKENS * shape->head_dim * sizeof(uint16_t);
}

static void store_row(const struct store_call *call, const struct kv_segment *segment, uint32_t index) {
    const struct kv_shape *shape = &call->batch.shape;
    const uint32_t position = segment->first_position + index, row = segment->first_row + index;
    const uint64_t *blocks = call->batch.block_table + (size_t)segment->table * call->batch.table_stride;
    uint8_t *keys = (uint8_t *)(uintptr_t)blocks[position / KV_BLOCK_TOKENS] + layer_offset(shape, call->layer);
    uint8_t *values = keys + shape->kv_heads * head_bytes(shape);
    for (uint32_t head = 0; head < shape->kv_heads; head++) {
        call->device->math->attention->store(
            shape->type, shape->head_dim, call->k + row * call->k_stride + (size_t)head * shape->head_dim,
            call->v + row * call->v_stride + (size_t)head * shape->head_dim,
            (uint16_t *)(void *)(keys + head * head_bytes(shape)),
            (uint16_t *)(void *)(values + head * head_bytes(shape)), position % KV_BLOCK_TOKENS);
    }
}

/* Stores those rows of each segment that are numbers index * STORE_TASK_ROWS and on of the batch. */
static void store_task(void *context, uint32_t index, uint32_t worker) {
    (void)worker;
    const struct store_call *call = context;
    const uint32_t begin = index * STORE_TASK_ROWS, end = begin + STORE_TASK_ROWS;
    uint32_t before = 0; /* rows of the segments before this one */
    for (uint32_t i = 0; i < call->batch.segment_count && before < end; i++) {
        const struct kv_segment *segment = &call->batch.segments[i];
        const uint32_t first = begin > before ? begin - before : 0;
        for (uint32_t row = first; row < segment->rows && before + row < end; row++) {
            store_row(call, segment, row);
        }
        before += segment->rows;
    }
}

static void run_store(struct cpu_stream *stream, void *arguments) {
    struct store_call *call = arguments;
    call->device = cpu_stream_device(stream);
    CHECK(call->device->math != NULL);
    cpu_parallel(call->device, (call->batch.rows + STORE_TASK_ROWS - 1) / STORE_TASK_ROWS, store_task, call);
}

void cpu_kv_store(struct stream *stream, const struct kv_batch *batch, uint32_t layer, const float *k, size_t k_stride,
                  const float *v, size_t v_stride) {
    const struct store_call call = {
        .batch = *batch, .layer = layer, .k = k, .v = v, .k_stride = k_stride, .v_stride = v_stride};
    if (batch->rows > 0) {
        cpu_enqueue(stream, run_store, &call, sizeof call);
    }
}

/* ---- attention ---- */

struct attention_call {
    struct cpu_device *device; /* filled in by run() */
    struct kv_batch batch;
    uint32_t layer;
    float *out;
    size_t out_stride;
    const float *q;
    size_t q_stride;
    uint32_t query_heads;
    float scale;
    uint32_t window;

    /* The cut. A segment's tiles are (run of tile_rows rows, last run first) x (kv head) x (part of its query heads),
     * and the tiles of all segments are numbered through; math->tile_starts has each segment's first. */
    uint32_t group_heads; /* query heads of a kv head */
    uint32_t head_parts;  /* tiles that they make */
    uint32_t tile_heads;  /* query heads of a tile but the last part's */
    uint32_t tile_rows;
    uint32_t tiles;
    uint32_t spans;        /* of the longest sequence */
    size_t partial_floats; /* of the largest tile's state */
};

static uint32_t divide_up(uint32_t a, uint32_t b) {
    return (a - 1) / b + 1;
}

static uint32_t span_count(const struct attention_tile *tile) {
    return (tile->first_position + tile->rows - 1) / ATTENTION_SPAN + 1;
}

static void cut(struct attention_call *call) {
    const struct cpu_math *math = call->device->math;
    const struct kv_shape *shape = &call->batch.shape;
    call->group_heads = call->query_heads / shape->kv_heads;
    call->head_parts = divide_up(call->group_heads, ATTENTION_QUERIES);
    call->tile_heads = divide_up(call->group_heads, call->head_parts);
    call->tile_rows = ATTENTION_QUERIES / call->tile_heads;
    uint32_t longest = 0, most_rows = 1;
    call->tiles = 0;
    for (uint32_t i = 0; i < call->batch.segment_count; i++) {
        const struct kv_segment *segment = &call->batch.segments[i];
        math->tile_starts[i] = call->tiles;
        if (segment->rows > 0) {
            const uint32_t length = segment->first_position + segment->rows;
            longest = length > longest ? length : longest;
            most_rows = segment->rows > most_rows ? segment->rows : most_rows;
            call->tiles += divide_up(segment->rows, call->tile_rows) * shape->kv_heads * call->head_parts;
        }
    }
    math->tile_starts[call->batch.segment_count] = call->tiles;
    call->spans = longest / ATTENTION_SPAN + (longest % ATTENTION_SPAN != 0);
    call->partial_floats = attention_state_floats(
        (most_rows < call->tile_rows ? most_rows : call->tile_rows) * call->tile_heads, shape->head_dim);
}

static struct attention_tile tile_of(const struct attention_call *call, uint32_t index) {
    const uint32_t *starts = call->device->math->tile_starts;
    const struct kv_shape *shape = &call->batch.shape;
    uint32_t low = 0, high = call->batch.segment_count; /* starts[low] <= index < starts[high] */
    while (high - low > 1) {
        const uint32_t middle = low + (high - low) / 2;
        if (starts[middle] <= index) {
            low = middle;
        } else {
            high = middle;
        }
    }
    const struct kv_segment *segment = &call->batch.segments[low];
    index -= starts[low];
    const uint32_t part = index % call->head_parts, kv_head = index / call->head_parts % shape->kv_heads;
    const uint32_t run = index / call->head_parts / shape->kv_heads;
    const uint32_t first = (divide_up(segment->rows, call->tile_rows) - 1 - run) * call->tile_rows;
    const uint32_t first_head = part * call->tile_heads, row = segment->first_row + first;
    const uint32_t rows = segment->rows - first, heads = call->group_heads - first_head;
    const size_t head = (size_t)kv_head * call->group_heads + first_head;
    const size_t keys = layer_offset(shape, call->layer) + kv_head * head_bytes(shape);
    return (struct attention_tile){
        .type = shape->type,
        .head_dim = shape->head_dim,
        .rows = rows < call->tile_rows ? rows : call->tile_rows,
        .heads = heads < call->tile_heads ? heads : call->tile_heads,
        .first_position = segment->first_position + first,
        .window = call->window,
        .blocks = call->batch.block_table + (size_t)segment->table * call->batch.table_stride,
        .groups = call->batch.groups,
        .key_offset = keys,
        .value_offset = keys + shape->kv_heads * head_bytes(shape),
        .q = call->q + row * call->q_stride + head * shape->head_dim,
        .q_stride = call->q_stride,
        .out = call->out + row * call->out_stride + head * shape->head_dim,
        .out_stride = call->out_stride,
        .scale = call->scale,
    };
}

static struct attention_scratch scratch_of(const struct cpu_math *math, uint32_t worker) {
    float *floats = (float *)(void *)(math->workers + worker * math->worker_bytes);
    const size_t state = attention_state_floats(ATTENTION_QUERIES, math->head_dim);
    return (struct attention_scratch){
        .scores = floats,
        .queries = floats + ATTENTION_QUERIES * ATTENTION_SPAN,
        .state = floats + ATTENTION_QUERIES * (ATTENTION_SPAN + (size_t)math->head_dim),
        .span = floats + ATTENTION_QUERIES * (ATTENTION_SPAN + (size_t)math->head_dim) + state,
    };
}

/* A whole tile, its spans in order. */
static void tile_task(void *context, uint32_t index, uint32_t worker) {
    const struct attention_call *call = context;
    const struct attention_kernels *kernels = call->device->math->attention;
    const struct attention_tile tile = tile_of(call, index);
    const struct attention_scratch scratch = scratch_of(call->device->math, worker);
    kernels->load_queries(&tile, &scratch);
    const uint32_t first = attention_first_span(&tile);
    for (uint32_t span = first; span < span_count(&tile); span++) {
        kernels->span(&tile, span, &scratch, span == first ? scratch.state : scratch.span);
        if (span > first) {
            kernels->merge(&tile, scratch.state, scratch.span, span);
        }
    }
    kernels->finish(&tile, scratch.state);
}

static float *partial_of(const struct attention_call *call, uint32_t tile, uint32_t span) {
    return call->device->math->partials + ((size_t)tile * call->spans + span) * call->partial_floats;
}

static void span_task(void *context, uint32_t index, uint32_t worker) {
    const struct attention_call *call = context;
    const struct attention_kernels *kernels = call->device->math->attention;
    const uint32_t number = index / call->spans, span = index % call->spans;
    const struct attention_tile tile = tile_of(call, number);
    const struct attention_scratch scratch = scratch_of(call->device->math, worker);
    if (span >= attention_first_span(&tile) && span < span_count(&tile)) {
        kernels->load_queries(&tile, &scratch);
        kernels->span(&tile, span, &scratch, partial_of(call, number, span));
    }
}

static void merge_task(void *context, uint32_t index, uint32_t worker) {
    (void)worker;
    const struct attention_call *call = context;
    const struct attention_kernels *kernels = call->device->math->attention;
    const struct attention_tile tile = tile_of(call, index);
    const uint32_t first = attention_first_span(&tile);
    float *merged = partial_of(call, index, first);
    for (uint32_t span = first + 1; span < span_count(&tile); span++) {
        kernels->merge(&tile, merged, partial_of(call, index, span), span);
    }
    kernels->finish(&tile, merged);
}

static void run_attention(struct cpu_stream *stream, void *arguments) {
    struct attention_call *call = arguments;
    call->device = cpu_stream_device(stream);
    const struct cpu_math *math = call->device->math;
    CHECK(math != NULL);
    CHECK(call->batch.segment_count <= math->sequences);
    CHECK(call->batch.shape.head_dim <= math->head_dim && call->batch.shape.head_dim % 8 == 0);
    cut(call);
    const bool few = call->tiles < SPLIT_TILES_PER_WORKER * call->device->threads && call->device->threads > 1;
    if (few && call->spans > 1 && (size_t)call->tiles * call->spans * call->partial_floats <= math->partial_capacity) {
        cpu_parallel(call->device, call->tiles * call->spans, span_task, call);
        cpu_parallel(call->device, call->tiles, merge_task, call);
    } else {
        cpu_parallel(call->device, call->tiles, tile_task, call);
    }
}

void cpu_attention(struct stream *stream, float *out, size_t out_stride, const float *q, size_t q_stride,
                   const struct kv_batch *batch, uint32_t layer, uint32_t query_heads, float scale, uint32_t window) {
    const struct attention_call call = {.batch = *batch,
                                        .layer = layer,
                                        .out = out,
                                        .out_stride = out_stride,
                                        .q = q,
                                        .q_stride = q_stride,
                                        .query_heads = query_heads,
                                        .scale = scale,
                                        .window = window};
    if (batch->rows > 0) {
        cpu_enqueue(stream, run_attention, &call, sizeof call);
    }
}
