#include "models/draw.h"

#include "base/bytes.h"
#include "base/check.h"
#include "kernels/ops.h"

#include <string.h>

/* Of a sequence with penalties, distinct tokens that there is room for, on average. */
#define ROOM_PER_ROW 1024

uint32_t draw_room(const struct forward_limits *limits, uint32_t vocabulary) {
    if (limits->changes > 0) {
        return limits->changes > vocabulary ? limits->changes : vocabulary;
    }
    const uint64_t room = (uint64_t)limits->logit_rows * ROOM_PER_ROW;
    const uint64_t most = (uint64_t)limits->logit_rows * vocabulary; /* as many as there can be */
    return (uint32_t)(room > most ? most : room > vocabulary ? room : vocabulary);
}

static size_t reserve(size_t *end, size_t elements, size_t element_bytes) {
    size_t at = *end;
    *end += bytes_align(elements * element_bytes, 64); /* limits are 32-bit and shapes bounded: this cannot wrap */
    return at;
}

struct draw_places draw_place(const struct forward_limits *limits, uint32_t vocabulary, size_t *device_end,
                              size_t *host_end) {
    struct draw_places p;
    const size_t rows = limits->logit_rows, room = draw_room(limits, vocabulary);
    p.rows = reserve(device_end, rows, sizeof(struct sample_row));
    p.changes = reserve(device_end, room, sizeof(struct sample_change));
    p.logits = reserve(device_end, rows * vocabulary, sizeof(float));
    p.tokens = reserve(device_end, rows, sizeof(uint32_t));
    p.scores = reserve(device_end, rows, sizeof(struct sample_score));
    p.host_rows = reserve(host_end, rows, sizeof(struct sample_row));
    p.host_changes = reserve(host_end, room, sizeof(struct sample_change));
    p.host_logits = reserve(host_end, limits->logits ? rows * vocabulary : 0, sizeof(float));
    p.host_tokens = reserve(host_end, rows, sizeof(uint32_t));
    p.host_scores = reserve(host_end, rows, sizeof(struct sample_score));
    return p;
}

/* Says where the scores go of the rows that have one. */
static void number_scores(struct draw *draw, struct forward_inputs *in) {
    for (uint32_t i = 0; i < in->logit_count; i++) {
        struct sample_row *row = &in->samples[i];
        row->score = row->score == SAMPLE_NO_SCORE ? SAMPLE_NO_SCORE : draw->scores++;
    }
}

/* Puts the changes of as many rows as there is room for, from `first` on, where one copy sends them; returns the rows.
 */
static uint32_t stage(struct draw *draw, struct forward_inputs *in, uint32_t first, size_t *bytes) {
    struct sample_change *changes = (struct sample_change *)(draw->host_memory + draw->places.host_changes);
    uint32_t used = 0, end = first;
    for (; end < in->logit_count; end++) {
        struct sample_row *row = &in->samples[end];
        CHECK(row->change_count <= draw->room);
        if (row->change_count > draw->room - used) {
            break;
        }
        row->change_first = used;
        if (row->change_count > 0) {
            memcpy(changes + used, in->changes[end], row->change_count * sizeof *changes);
        }
        used += row->change_count;
    }
    *bytes = draw->places.changes - draw->places.rows + used * sizeof *changes;
    return end - first;
}

static void send_round(struct draw *draw, struct forward_inputs *in) {
    size_t bytes;
    draw->sent = stage(draw, in, draw->done, &bytes);
    uint8_t *rows = draw->host_memory + draw->places.host_rows;
    device_share(draw->device, rows, bytes);
    stream_copy(draw->stream, draw->device_memory + draw->places.rows, rows, bytes, COPY_HOST_TO_DEVICE);
}

void draw_send(struct draw *draw, struct forward_inputs *in) {
    draw->done = draw->scores = 0;
    draw->sent = in->logit_count;
    if (in->sampled) {
        number_scores(draw, in);
        send_round(draw, in);
    }
}

void draw_run(struct draw *draw, const struct forward_inputs *in) {
    const struct draw_places *p = &draw->places;
    float *logits = (float *)(draw->device_memory + p->logits);
    uint32_t *tokens = (uint32_t *)(draw->device_memory + p->tokens);
    if (in->sampled) {
        const struct sample_batch batch = {.rows = (const struct sample_row *)(draw->device_memory + p->rows),
                                           .rows_host = in->samples,
                                           .changes = (struct sample_change *)(draw->device_memory + p->changes),
                                           .scores = (struct sample_score *)(draw->device_memory + p->scores),
                                           .first = draw->done};
        op_sample(draw->stream, tokens, logits, &batch, draw->sent, draw->vocabulary);
    } else {
        op_argmax(draw->stream, tokens, logits, draw->sent, draw->vocabulary);
    }
    draw->done += draw->sent;
}

bool draw_more(struct draw *draw, struct forward_inputs *in) {
    if (draw->done == in->logit_count) {
        return false;
    }
    draw->rounds++;
    send_round(draw, in);
    draw_run(draw, in);
    return true;
}

static void copy_back(const struct draw *draw, size_t host, size_t device, size_t bytes) {
    if (bytes > 0) {
        stream_copy(draw->stream, draw->host_memory + host, draw->device_memory + device, bytes, COPY_DEVICE_TO_HOST);
    }
}

void draw_copy(struct draw *draw, const struct forward_inputs *in, const bool *logits_wanted) {
    const struct draw_places *p = &draw->places;
    const size_t row_bytes = draw->vocabulary * sizeof(float);
    CHECK(logits_wanted == NULL || draw->keeps_logits);
    for (uint32_t begin = 0, end; logits_wanted != NULL && begin < in->logit_count; begin = end) {
        end = begin + 1;
        if (logits_wanted[begin]) { /* one copy for each run of neighbours */
            while (end < in->logit_count && logits_wanted[end]) {
                end++;
            }
            copy_back(draw, p->host_logits + begin * row_bytes, p->logits + begin * row_bytes,
                      (end - begin) * row_bytes);
        }
    }
    if (draw->done == in->logit_count) {
        copy_back(draw, p->host_tokens, p->tokens, in->logit_count * sizeof(uint32_t));
        copy_back(draw, p->host_scores, p->scores, draw->scores * sizeof(struct sample_score));
    }
}
