/* The KV blocks of the offload engine, as its callers see them, and the part of the link that they take. */
#include "offload/offload_internal.h"

#include "kernels/ops.h"

/* The running average of what KV takes of the link follows one iteration by a part of the difference: quickly when it
 * grows, since deadlines are at stake, slowly when it shrinks. */
#define KV_SHARE_RISE 2
#define KV_SHARE_FALL 16

/* Copies of blocks that may never be asked for again leave so much of the link alone: what plans leave of it they leave
 * for noise. */
#define KV_IDLE_LINK 0.75

/* ---- the link ---- */

uint64_t offload_link_rate(const struct offload *offload) {
    uint64_t rate = offload->report.link_bytes_per_s, granted = offload->report.bus_bytes_per_s;
    if (rate == 0) {
        bool measured = offload->recorded && offload->record.link_bytes_per_s > 0;
        rate = measured ? offload->record.link_bytes_per_s : offload->config.link_bytes_per_s;
    }
    return offload->bus && granted > 0 && granted < rate ? granted : rate;
}

/* By an average, because the slabs that a shorter deadline brings home cross the link, too: against KV of one iteration
 * that would help nobody. */
uint64_t offload_without_kv(const struct offload *offload, uint64_t deadline_ns) {
    uint64_t rate = offload_link_rate(offload);
    if (deadline_ns == UINT64_MAX || rate == 0) {
        return deadline_ns;
    }
    double kv_ns = offload->kv_share * 1e9 / (double)rate;
    return kv_ns < (double)deadline_ns - 1 ? deadline_ns - (uint64_t)kv_ns : 1;
}

void offload_count_kv(struct offload *offload) {
    struct kv_counts counts = kv_counts(offload->kv);
    uint64_t bytes = counts.bytes_out + counts.bytes_in;
    double change = (double)(bytes - offload->kv_bytes) - offload->kv_share;
    offload->kv_share += change / (change > 0 ? KV_SHARE_RISE : KV_SHARE_FALL);
    offload->kv_bytes = bytes;
}

/* ---- blocks ---- */

bool offload_kv_take(struct offload *offload, uint32_t *handle) {
    return kv_take(offload->kv, handle);
}

void offload_kv_give(struct offload *offload, uint32_t handle) {
    kv_give(offload->kv, handle);
}

uint32_t offload_kv_free(const struct offload *offload) {
    return offload->arena.blocks - offload->arena.taken;
}

void offload_kv_addresses(struct offload *offload, const uint32_t *handles, uint32_t count, uint64_t *out) {
    kv_addresses(offload->kv, handles, count, out);
}

uint64_t offload_kv_version(const struct offload *offload) {
    return kv_version(offload->kv);
}

/* What a token costs that is computed in the largest chunks there are, after `context` others; 0: unknown. */
static double token_ns(const struct offload *offload, double context) {
    const struct record *record = &offload->record;
    if (!offload->recorded) {
        return offload->chunk_rows > 0 ? (double)offload->chunk_ns / offload->chunk_rows : 0;
    }
    struct record_cell cell;
    uint32_t rows = record->rows[record->row_count - 1];
    (void)record_get(record, rows, context, &cell);
    return ((double)cell.layer_ns * offload->config.layers + (double)cell.outside_ns) / rows;
}

bool offload_kv_pays(const struct offload *offload, uint32_t position) {
    uint64_t rate = offload_link_rate(offload);
    double computed_ns = KV_BLOCK_TOKENS * token_ns(offload, position);
    if (rate == 0 || computed_ns == 0) {
        return true; /* nobody has measured: computing is what is known to be slow */
    }
    double copied_ns = (double)offload->config.kv_block_bytes * 1e9 / (double)rate + (double)offload->record.copy_ns;
    return 2 * copied_ns <= computed_ns;
}

uint32_t offload_kv_host_free(const struct offload *offload) {
    return kv_host_free(offload->kv);
}

bool offload_kv_park(struct offload *offload, uint32_t handle) {
    return kv_park(offload->kv, handle);
}

bool offload_kv_fetch(struct offload *offload, uint32_t handle) {
    return kv_fetch(offload->kv, handle);
}

void offload_kv_exchange(struct offload *offload, uint32_t one, uint32_t other) {
    kv_exchange(offload->kv, one, other);
}

uint32_t offload_kv_handles(const struct offload *offload) {
    return kv_handles(offload->kv);
}

uint32_t offload_kv_blocks(const struct offload *offload) {
    return offload->arena.blocks;
}

uint32_t offload_kv_excess(const struct offload *offload) {
    return offload->kv_excess;
}

uint32_t offload_kv_idle_excess(const struct offload *offload) {
    return offload->kv_idle_excess;
}

/* Blocks that fit into `share` of what the link carries in an iteration, beside the weights and streamed KV. */
static double blocks_beside(const struct offload *offload, double share) {
    const struct offload_report *report = &offload->report;
    uint64_t rate = offload_link_rate(offload);
    if (rate == 0 || report->iterations == 0) {
        return UINT32_MAX;
    }
    uint64_t time_ns = report->deadline_ns != UINT64_MAX ? report->deadline_ns : report->measured_ns;
    double carried = share * (double)rate * (double)time_ns / 1e9;
    double weights = (double)offload->plan.streamed_slabs * (double)offload->config.slab_bytes;
    double streamed = (double)kv_groups(offload->kv)->active * (double)offload->config.kv_block_bytes;
    double blocks = (carried - weights - streamed) / (double)offload->config.kv_block_bytes;
    return blocks < (double)UINT32_MAX ? blocks : UINT32_MAX;
}

uint32_t offload_kv_spare(const struct offload *offload) {
    double blocks = blocks_beside(offload, 1);
    return blocks < 1 ? 1 : (uint32_t)blocks;
}

uint32_t offload_kv_spare_idle(const struct offload *offload) {
    double blocks = blocks_beside(offload, KV_IDLE_LINK);
    return blocks < 0 ? 0 : (uint32_t)blocks;
}

/* ---- blocks that are streamed ---- */

uint32_t offload_kv_stream_room(const struct offload *offload) {
    return offload->stream_room;
}

bool offload_kv_stream_late(const struct offload *offload) {
    return offload->stream_late;
}

bool offload_kv_stream(struct offload *offload, uint32_t handle) {
    bool streamed = kv_stream(offload->kv, handle, pipeline_copy_stream(offload->pipeline));
    offload->stream_room -= streamed && offload->stream_room > 0;
    return streamed;
}

bool offload_kv_unstream(struct offload *offload, uint32_t handle) {
    return kv_unstream(offload->kv, handle);
}

uint32_t offload_kv_streamed(const struct offload *offload) {
    return kv_groups(offload->kv)->active;
}

void offload_kv_set_active(struct offload *offload, uint32_t handle, bool active) {
    kv_set_active(offload->kv, handle, active);
}

const uint64_t *offload_kv_groups(const struct offload *offload) {
    return pipeline_groups(offload->pipeline);
}
