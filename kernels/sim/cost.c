#include "kernels/sim/cost.h"

#include "kernels/cpu/packed.h"

/* Bytes of an activation. */
#define F32 4.0

/* Costs are whole nanoseconds, so that the sum of ops is the time of the stream, exactly. */
static uint64_t whole_ns(double ns) {
    return ns < 0x1p63 ? (uint64_t)(ns + 0.5) : UINT64_MAX;
}

static double longer(double a, double b) {
    return a > b ? a : b;
}

struct cost_model cost_model(const struct hardware *hardware, enum compute_mode compute) {
    double compute_s = 1e9 / hardware->compute_efficiency;
    return (struct cost_model){
        .ns_per_byte = 1e9 / (hardware->memory_bytes_per_s * hardware->bandwidth_efficiency),
        .ns_per_f16_flop = compute_s / hardware->f16_flops_per_s,
        .ns_per_int8_op = compute_s / hardware->int8_ops_per_s,
        .ns_per_f32_flop = compute_s / hardware->f32_flops_per_s,
        .ns_per_peer_byte = 1e9 / hardware->peer_bytes_per_s,
        .launch_ns = hardware->op_launch_ns,
        .peer_ns = hardware->peer_latency_ns,
        .compute = compute,
    };
}

size_t cost_packed_bytes(enum tensor_type type, uint32_t rows, uint32_t columns) {
    return packed_groups(rows) * packed_group_bytes(type, columns);
}

/* Which of the rates a product with weights of a type goes at: quantized weights meet int8 activations on the fast
 * path; COMPUTE_F32 does everything in f32. */
enum rate { RATE_F16, RATE_INT8, RATE_F32, RATES };

static enum rate rate_of(const struct cost_model *model, enum tensor_type type) {
    if (model->compute == COMPUTE_F32 || type == TENSOR_F32) {
        return RATE_F32;
    }
    return packed_is_quantized(type) ? RATE_INT8 : RATE_F16;
}

static uint64_t roofline_ns(const struct cost_model *model, double compute_ns, double bytes) {
    return model->launch_ns + whole_ns(longer(compute_ns, bytes * model->ns_per_byte));
}

uint64_t cost_bytes_ns(const struct cost_model *model, double bytes) {
    return roofline_ns(model, 0, bytes);
}

uint64_t cost_embed_ns(const struct cost_model *model, enum tensor_type type, uint32_t columns, uint32_t n) {
    return cost_bytes_ns(model, (double)n * ((double)tensor_row_bytes(type, columns) + F32 * columns));
}

uint64_t cost_rmsnorm_ns(const struct cost_model *model, uint32_t n, uint32_t dim) {
    return cost_bytes_ns(model, 2 * F32 * n * dim);
}

uint64_t cost_rmsnorm_add_ns(const struct cost_model *model, uint32_t n, uint32_t dim) {
    return cost_bytes_ns(model, 3 * F32 * n * dim);
}

uint64_t cost_add_rows_ns(const struct cost_model *model, uint32_t n, uint32_t dim) {
    return cost_bytes_ns(model, 3 * F32 * n * dim);
}

/* Operations and bytes are summed as whole numbers, which is exact, so that a matrix cut into slabs costs what it costs
 * whole. */
uint64_t cost_matmul_ns(const struct cost_model *model, const struct matmul_part *parts, uint32_t count, uint32_t n) {
    double operations[RATES] = {0}, bytes = F32 * n * parts[0].weight.columns;
    for (uint32_t i = 0; i < count; i++) {
        const struct weight *weight = &parts[i].weight;
        double out = (double)n * weight->rows;
        operations[rate_of(model, weight->type)] += 2 * out * weight->columns;
        bytes += (double)cost_packed_bytes(weight->type, weight->rows, weight->columns);
        bytes += (parts[i].accumulate ? 2 : 1) * F32 * out;
    }
    double compute_ns = operations[RATE_F16] * model->ns_per_f16_flop + operations[RATE_INT8] * model->ns_per_int8_op +
                        operations[RATE_F32] * model->ns_per_f32_flop;
    return roofline_ns(model, compute_ns, bytes);
}

uint64_t cost_rope_angles_ns(const struct cost_model *model, uint32_t n, uint32_t pairs) {
    return cost_bytes_ns(model, 2 * F32 * n * pairs);
}

uint64_t cost_rope_ns(const struct cost_model *model, uint32_t n, uint32_t heads, uint32_t head_dim, uint32_t pairs) {
    return cost_bytes_ns(model, 2 * F32 * n * ((double)heads * head_dim + pairs));
}

/* Keys and values, read as f32 and written as 16 bits. */
uint64_t cost_kv_store_ns(const struct cost_model *model, const struct kv_shape *shape, uint32_t rows) {
    return cost_bytes_ns(model, 2 * (F32 + 2) * rows * shape->kv_heads * shape->head_dim);
}

/* The sum of max(0, first + i * step - threshold) over i < count. */
static uint64_t sum_above(uint64_t first, uint64_t step, uint64_t count, uint64_t threshold) {
    uint64_t skipped = first >= threshold ? 0 : (threshold - first + step - 1) / step;
    if (skipped >= count) {
        return 0;
    }
    uint64_t left = count - skipped, least = first + skipped * step - threshold;
    return left * least + step * (left * (left - 1) / 2);
}

uint64_t cost_attention_ns(const struct cost_model *model, const struct kv_shape *shape,
                           const struct kv_segment *segments, uint32_t segment_count, uint32_t query_heads,
                           uint32_t window) {
    uint64_t pairs = 0;     /* of a query row and a position it sees */
    uint64_t positions = 0; /* whose keys and values are read, once for each tile of rows */
    uint64_t all_rows = 0;
    for (uint32_t i = 0; i < segment_count; i++) {
        uint64_t rows = segments[i].rows, first = segments[i].first_position;
        uint64_t whole_tiles = rows > 0 ? (rows - 1) / COST_ATTENTION_ROWS : 0; /* before the last */
        pairs += rows * first + rows * (rows + 1) / 2;
        positions += whole_tiles * first + COST_ATTENTION_ROWS * (whole_tiles * (whole_tiles + 1) / 2) + first + rows;
        all_rows += rows;
        if (window > 0) { /* less what lies before each row's window, and before each tile's first row's */
            pairs -= sum_above(first + 1, 1, rows, window);
            positions -= sum_above(first + 1, COST_ATTENTION_ROWS, rows > 0 ? whole_tiles + 1 : 0, window);
        }
    }
    double flop_ns = model->compute == COMPUTE_F32 ? model->ns_per_f32_flop : model->ns_per_f16_flop;
    double width = (double)query_heads * shape->head_dim;
    double kv_bytes = 2 * 2.0 * shape->kv_heads * shape->head_dim; /* of one position: key and value, 16 bits each */
    return roofline_ns(model, 4 * (double)pairs * width * flop_ns,
                       (double)positions * kv_bytes + 2 * F32 * (double)all_rows * width);
}

uint64_t cost_gated_ns(const struct cost_model *model, uint32_t n, uint32_t dim) {
    return cost_bytes_ns(model, 3 * F32 * n * dim);
}

uint64_t cost_activate_ns(const struct cost_model *model, uint32_t n, uint32_t dim) {
    return cost_bytes_ns(model, 2 * F32 * n * dim);
}

uint64_t cost_gather_ns(const struct cost_model *model, uint32_t n, uint32_t dim) {
    return cost_bytes_ns(model, 2 * F32 * n * dim);
}

uint64_t cost_argmax_ns(const struct cost_model *model, uint32_t n, uint32_t vocabulary) {
    return cost_bytes_ns(model, F32 * n * vocabulary);
}

uint64_t cost_sample_ns(const struct cost_model *model, const struct sample_row *rows, uint32_t n,
                        uint32_t vocabulary) {
    const uint32_t slice = vocabulary < COST_SAMPLE_SLICE ? vocabulary : COST_SAMPLE_SLICE;
    uint64_t passes = 0, slices = 0, changes = 0, most = 0;
    for (uint32_t i = 0; i < n; i++) {
        const struct sample_row *row = &rows[i];
        const uint64_t before = passes;
        if (row->target == SAMPLE_DRAW) {
            const uint32_t cuts = (row->top_k > 0) + (row->top_p != SAMPLE_ALL_MASS);
            passes += row->inverse_temperature == 0 ? 1 : 2 + 3 * cuts;
            changes += row->change_count;
        }
        if (row->score != SAMPLE_NO_SCORE) {
            passes += 2;
            slices += row->top;
        }
        most = passes - before > most ? passes - before : most;
    }
    const uint64_t launches = vocabulary > COST_SAMPLE_SHARE ? most : most > 0; /* beside the first */
    const double change_bytes = 2 * (sizeof(struct sample_change) + 3 * F32);   /* a logit and a change, both ways */
    return launches * model->launch_ns +
           cost_bytes_ns(model,
                         F32 * ((double)passes * vocabulary + (double)slices * slice) + change_bytes * (double)changes);
}

uint64_t cost_all_reduce_ns(const struct cost_model *model, uint32_t ranks, uint32_t n, uint32_t dim) {
    double bytes = 2.0 * (ranks - 1) / ranks * F32 * n * dim;
    return model->launch_ns + model->peer_ns + whole_ns(bytes * model->ns_per_peer_byte);
}

uint64_t cost_transfer_ns(double bytes, double bytes_per_s) {
    return bytes_per_s > 0 ? whole_ns(bytes / bytes_per_s * 1e9) : bytes > 0 ? UINT64_MAX : 0;
}

uint64_t cost_copy_ns(size_t bytes, double link_bytes_per_s, uint64_t latency_ns) {
    uint64_t transfer_ns = cost_transfer_ns((double)bytes, link_bytes_per_s);
    return transfer_ns > UINT64_MAX - latency_ns ? UINT64_MAX : transfer_ns + latency_ns;
}

uint64_t cost_device_copy_ns(const struct cost_model *model, size_t bytes) {
    return cost_bytes_ns(model, 2 * (double)bytes);
}
