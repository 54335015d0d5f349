#include "server/plan_case.h"

#include "base/bytes.h"
#include "base/clock.h"
#include "scheduler/sampler.h"

#include <stdlib.h>

#define MAX_ROWS (1u << 24)
#define MAX_LAYER_NS ((uint64_t)1 << 40)

static struct status check_shape(const struct plan_case *c) {
    const struct model_shape *shape = &c->model.shape;
    if (c->context > shape->context) {
        return status_error(STATUS_INVALID, "--context %u is more than the %u tokens that %s was trained for",
                            c->context, shape->context, shape->name);
    }
    if ((uint64_t)c->batch * c->context > MAX_ROWS) {
        return status_error(STATUS_INVALID, "--batch %u times --context %u is more than %u tokens", c->batch,
                            c->context, MAX_ROWS);
    }
    if (shape->layers > PLAN_MAX_LAYERS) {
        return status_error(STATUS_INVALID, "%s has %u layers; a plan is made for at most %u", shape->name,
                            shape->layers, PLAN_MAX_LAYERS);
    }
    return STATUS_SUCCESS;
}

static struct status measure(struct plan_case *c, struct kv_segment *segments, struct sample_row *samples) {
    struct kv_segment *wanted = segments + c->batch;
    uint32_t rows = c->phase == PLAN_PREFILL ? c->context : 1;
    for (uint32_t i = 0; i < c->batch; i++) {
        samples[i] = sampling_row(&c->sampling);
        segments[i] = (struct kv_segment){
            .sequence = i, .first_row = i * rows, .rows = rows, .first_position = c->context - rows, .table = i};
        wanted[i] = (struct kv_segment){.sequence = i, .rows = 1, .first_position = c->context - 1, .table = i};
    }
    const struct description_rows batch = {.segments = segments,
                                           .segment_count = c->batch,
                                           .wanted = wanted,
                                           .wanted_count = c->batch,
                                           .samples = c->sampling.temperature > 0 ? samples : NULL};
    struct cost_model cost = cost_model(&c->hardware, c->compute);
    uint32_t layers = c->model.shape.layers;
    uint64_t layer_ns = description_layer_ns(&c->model, &cost, &batch);
    uint64_t last_ns = description_last_layer_ns(&c->model, &cost, &batch);
    if (layer_ns > MAX_LAYER_NS || last_ns > MAX_LAYER_NS) {
        return status_error(STATUS_INVALID, "a layer takes %.3g s for this batch and context, which is beyond planning",
                            (double)layer_ns / NS_PER_S);
    }
    uint64_t all_ns = (layers - 1) * layer_ns + last_ns;
    c->layer_ns = all_ns / layers;
    c->before_ns = description_begin_ns(&c->model, &cost, &batch);
    c->after_ns = description_end_ns(&c->model, &cost, &batch) + all_ns % layers;
    return STATUS_SUCCESS;
}

struct status plan_case_measure(struct plan_case *c) {
    TRY(check_shape(c));
    struct kv_segment *segments = calloc((size_t)c->batch * 2, sizeof *segments);
    struct sample_row *samples = calloc(c->batch, sizeof *samples);
    struct status status = segments && samples
                               ? measure(c, segments, samples)
                               : status_error(STATUS_NO_MEMORY, "no memory for a batch of %u", c->batch);
    free(segments);
    free(samples);
    return status;
}

uint64_t plan_case_resident_ns(const struct plan_case *c) {
    return c->before_ns + c->model.shape.layers * c->layer_ns + c->after_ns;
}

uint64_t plan_case_kv_token_bytes(const struct plan_case *c) {
    struct kv_shape kv = description_kv_shape(&c->model, c->kv_type);
    return kv_block_bytes(&kv) / KV_BLOCK_TOKENS;
}

double plan_case_layer_flops(const struct plan_case *c) {
    const struct model_shape *shape = &c->model.shape;
    double rows = (double)c->batch * (c->phase == PLAN_PREFILL ? c->context : 1);
    double tables = (shape->tied_head ? 1.0 : 2.0) * shape->vocabulary + c->model.learned_positions;
    double weights = ((double)shape->parameters - tables * shape->width) / shape->layers;
    double attended = c->phase == PLAN_PREFILL ? (c->context + 1) / 2.0 : c->context;
    return 2 * rows * weights + 4 * rows * attended * shape->query_heads * shape->head_dim;
}

/* What must leave the device; below 0: what is left free on it. */
static struct status floor_of(const struct plan_case *c, const struct plan_load *load, int32_t *floor) {
    struct kv_shape kv = description_kv_shape(&c->model, c->kv_type);
    size_t blocks = (size_t)c->batch * ((c->context + KV_BLOCK_TOKENS - 1) / KV_BLOCK_TOKENS);
    size_t weights, used;
    if (!bytes_multiply((size_t)load->layers * load->slabs, load->slab_bytes, &weights) ||
        !bytes_multiply(blocks, kv_block_bytes(&kv), &used) || !bytes_add(used, weights, &used) ||
        !bytes_add(used, description_global_bytes(&c->model), &used) || used > INT64_MAX) {
        return status_error(STATUS_INVALID, "the weights and the KV cache of %u sequences do not fit 64 bits",
                            c->batch);
    }
    int64_t slab = (int64_t)load->slab_bytes, over = (int64_t)used - (int64_t)c->hardware.device_memory_bytes;
    int64_t slabs = over > 0 ? (over - 1) / slab + 1 : over / slab; /* rounded up */
    *floor = slabs > INT32_MAX ? INT32_MAX : slabs < -INT32_MAX ? -INT32_MAX : (int32_t)slabs;
    return STATUS_SUCCESS;
}

struct status plan_case_load(const struct plan_case *c, uint32_t slabs, struct plan_load *load,
                             struct plan_limits *limits) {
    *load = (struct plan_load){.layers = c->model.shape.layers,
                               .slabs = slabs,
                               .slab_bytes = description_slab_bytes(&c->model, slabs),
                               .layer_ns = c->layer_ns,
                               .before_ns = c->before_ns,
                               .after_ns = c->after_ns,
                               .link_bytes_per_s = (uint64_t)c->hardware.link_bytes_per_s,
                               .copy_ns = c->hardware.link_latency_ns};
    TRY(plan_load_check(load));
    *limits = PLAN_UNLIMITED;
    if (c->host_memory > 0) {
        uint64_t held = c->host_memory / load->slab_bytes;
        limits->max_slabs = held < UINT32_MAX ? (uint32_t)held : UINT32_MAX;
    }
    return floor_of(c, load, &limits->floor_slabs);
}
