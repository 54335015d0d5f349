#include "scheduler/timeline.h"

#include <stdlib.h>

const char *span_name(enum span_kind kind) {
    static const char *const names[SPAN_KINDS] = {"iteration",         "compose",      "device",  "commit",
                                                  "waits for weights", "waits for KV", "request", "waits",
                                                  "preempted",         "prefill",      "decode",  "held"};
    return names[kind];
}

struct status timeline_create(uint32_t capacity, struct timeline *out) {
    *out = (struct timeline){.capacity = capacity};
    out->spans = capacity > 0 ? calloc(capacity, sizeof *out->spans) : NULL;
    return capacity == 0 || out->spans
               ? STATUS_SUCCESS
               : status_error(STATUS_NO_MEMORY, "no memory for a timeline of %u spans", capacity);
}

void timeline_destroy(struct timeline *timeline) {
    free(timeline->spans);
    *timeline = (struct timeline){0};
}

void timeline_add(struct timeline *timeline, const struct span *span) {
    if (!timeline->spans) {
        return;
    }
    if (timeline->count == timeline->capacity) {
        timeline->dropped++;
        return;
    }
    timeline->spans[(timeline->head + timeline->count++) % timeline->capacity] = *span;
}

uint32_t timeline_take(struct timeline *timeline, struct span *out, uint32_t capacity) {
    uint32_t taken = timeline->count < capacity ? timeline->count : capacity;
    for (uint32_t i = 0; i < taken; i++) {
        out[i] = timeline->spans[(timeline->head + i) % timeline->capacity];
    }
    timeline->count -= taken;
    timeline->head = timeline->capacity > 0 ? (timeline->head + taken) % timeline->capacity : 0;
    return taken;
}
