#include "scheduler/profile.h"

#include "base/check.h"
#include "base/log.h"

#include <stdlib.h>

#define REPEATS 3 /* the median counts */

static uint32_t least(uint32_t a, uint32_t b) {
    return a < b ? a : b;
}

/* Tokens of one iteration: decoding sequences up to as many as there can be, a prefill chunk beyond. Where nothing is
 * streamed beside them a few points will do: the scheduler corrects what it makes of them (deadlines_learn()). */
static uint32_t fill_rows(uint32_t most, bool coarse, uint32_t rows[RECORD_MAX_ROWS]) {
    uint32_t count = 0;
    for (uint32_t value = 1; value < most && count + 1 < RECORD_MAX_ROWS; value *= coarse ? 8 : value < 16 ? 4 : 2) {
        rows[count++] = value;
    }
    rows[count++] = most;
    return count;
}

static uint32_t fill_contexts(uint32_t most, bool coarse, uint32_t contexts[RECORD_MAX_CONTEXTS]) {
    uint32_t count = 0;
    for (uint32_t value = PROFILE_SHORTEST; value < most && value <= 1024 && count + 1 < RECORD_MAX_CONTEXTS;
         value *= coarse ? 8 : 4) {
        contexts[count++] = value;
    }
    if (count == 0) {
        contexts[count++] = most;
    }
    return count;
}

/* `rows` tokens that attend to about `context` positions each: one token of each of so many sequences, or a chunk of
 * one sequence, of more where none is as long. All sequences read the same blocks; what they hold does not matter to
 * the clock. */
static void compose(struct forward_inputs *inputs, const struct forward_limits *limits, uint32_t rows, uint32_t context,
                    uint32_t block_count) {
    bool decoding = rows <= limits->sequences;
    uint32_t positions = least(block_count * KV_BLOCK_TOKENS, limits->context);
    uint32_t most = decoding ? 1 : least(rows, positions); /* rows of a segment */
    uint32_t end = least(context + most / 2, positions);   /* the rows of a chunk attend to `context` on average */
    end = end < most ? most : end;
    inputs->rows = rows;
    inputs->segment_count = (rows + most - 1) / most;
    inputs->logit_count = inputs->segment_count;
    for (uint32_t i = 0, row = 0; i < inputs->segment_count; i++) {
        uint32_t segment_rows = least(rows - row, most);
        inputs->segments[i] = (struct kv_segment){
            .sequence = i, .first_row = row, .rows = segment_rows, .first_position = end - segment_rows, .table = i};
        for (uint32_t j = 0; j < segment_rows; j++, row++) {
            inputs->tokens[row] = row % 7;
            inputs->positions[row] = end - segment_rows + j;
        }
        inputs->logit_rows[i] = row - 1;
    }
}

/* The block table, once it is known where the blocks lie in this iteration. */
static void compose_blocks(struct forward_inputs *inputs, struct offload *offload, const uint32_t *blocks,
                           uint32_t block_count) {
    for (uint32_t i = 0; i < inputs->segment_count; i++) {
        offload_kv_addresses(offload, blocks, block_count, inputs->block_table + (size_t)i * inputs->table_stride);
    }
}

static int compare_ns(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

/* One cell: medians of a few iterations, after one that warms the caches up. */
static struct status measure_cell(struct forward *forward, struct offload *offload, const uint32_t *blocks,
                                  uint32_t block_count, struct record_cell *out) {
    uint64_t layer_ns[REPEATS], outside_ns[REPEATS];
    const int repeats = offload_wants_record(offload) ? REPEATS : 1;
    const struct offload_demand demand = {
        .deadline_ns = UINT64_MAX, .rows = forward_inputs(forward)->rows, .context_tokens = 1};
    for (int i = repeats > 1 ? -1 : 0; i < repeats; i++) {
        offload_begin(offload, forward_stream(forward), &demand);
        compose_blocks(forward_inputs(forward), offload, blocks, block_count);
        forward_run(forward, NULL);
        TRY(forward_wait(forward));
        const uint64_t elapsed = forward_elapsed_ns(forward);
        offload_end(offload, elapsed);
        const struct offload_report report = offload_report(offload);
        const uint64_t inside = report.layers_ns + report.stall_ns;
        if (i >= 0) {
            layer_ns[i] = report.layers_ns / report.layers;
            outside_ns[i] = elapsed > inside ? elapsed - inside : 0;
        }
    }
    qsort(layer_ns, (size_t)repeats, sizeof layer_ns[0], compare_ns);
    qsort(outside_ns, (size_t)repeats, sizeof outside_ns[0], compare_ns);
    *out = (struct record_cell){.layer_ns = layer_ns[repeats / 2], .outside_ns = outside_ns[repeats / 2]};
    return STATUS_SUCCESS;
}

static struct status measure_grid(struct forward *forward, struct offload *offload, const struct forward_limits *limits,
                                  const uint32_t *blocks, uint32_t block_count, struct record *record) {
    struct progress bar;
    progress_begin(&bar, "measuring iterations", record->row_count * record->context_count);
    for (uint32_t i = 0; i < record->row_count; i++) {
        for (uint32_t j = 0; j < record->context_count; j++) {
            compose(forward_inputs(forward), limits, record->rows[i], record->contexts[j], block_count);
            TRY(measure_cell(forward, offload, blocks, block_count, &record->cell[i][j]));
            progress_update(&bar, i * record->context_count + j + 1);
        }
    }
    progress_end(&bar);
    return STATUS_SUCCESS;
}

/* Blocks that the fullest iteration takes whose rows attend to `context` positions. */
static uint32_t blocks_for(const struct forward_limits *limits, uint32_t context) {
    return (least(context + limits->rows, limits->context) + KV_BLOCK_TOKENS - 1) / KV_BLOCK_TOKENS;
}

struct status profile_measure(struct forward *forward, struct offload *offload, const struct forward_limits *limits,
                              struct record *out) {
    const bool coarse = !offload_wants_record(offload);
    *out = (struct record){0};
    uint64_t fitting = (uint64_t)limits->sequences * limits->context; /* rows that sequences can have at once */
    out->row_count = fill_rows(fitting < limits->rows ? (uint32_t)fitting : limits->rows, coarse, out->rows);
    out->context_count = fill_contexts(limits->context, coarse, out->contexts);
    uint32_t wanted = blocks_for(limits, out->contexts[out->context_count - 1]), taken = 0;
    while (out->context_count > 1 && wanted > offload_kv_free(offload)) {
        wanted = blocks_for(limits, out->contexts[--out->context_count - 1]);
    }
    uint32_t *blocks = calloc(wanted, sizeof *blocks);
    if (!blocks) {
        return status_error(STATUS_NO_MEMORY, "no memory to measure iterations");
    }
    while (taken < wanted && offload_kv_take(offload, &blocks[taken])) {
        taken++;
    }
    struct status status = taken == wanted ? measure_grid(forward, offload, limits, blocks, taken, out)
                                           : status_error(STATUS_NO_MEMORY,
                                                          "the KV cache holds %u of the %u blocks that measuring "
                                                          "takes; raise device_memory or lower context",
                                                          taken, wanted);
    while (taken > 0) {
        offload_kv_give(offload, blocks[--taken]);
    }
    free(blocks);
    TRY(status);
    return offload_wants_record(offload) ? offload_measure_link(offload, &out->link_bytes_per_s, &out->copy_ns)
                                         : STATUS_SUCCESS;
}
