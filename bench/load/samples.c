#include "bench/load/samples.h"

#include <stdint.h>
#include <stdlib.h>

void samples_add(struct samples *samples, double value) {
    if (samples->count == samples->capacity && !samples->failed) {
        size_t room = samples->capacity ? samples->capacity * 2 : 1024;
        float *grown = room <= SIZE_MAX / sizeof *grown / 2 ? realloc(samples->values, room * sizeof *grown) : NULL;
        samples->failed = grown == NULL;
        if (grown != NULL) {
            samples->values = grown;
            samples->capacity = room;
        }
    }
    if (!samples->failed) {
        samples->values[samples->count++] = (float)value;
    }
}

void samples_free(struct samples *samples) {
    free(samples->values);
    *samples = (struct samples){0};
}

static int ascending(const void *a, const void *b) {
    float one = *(const float *)a, other = *(const float *)b;
    return one < other ? -1 : one > other;
}

static double at(const struct samples *samples, double share) {
    double place = share * (double)(samples->count - 1);
    size_t below = (size_t)place, above = below + 1 < samples->count ? below + 1 : below;
    double low = samples->values[below], high = samples->values[above];
    return low + (high - low) * (place - (double)below);
}

struct summary samples_summary(struct samples *samples) {
    struct summary summary = {.count = samples->count};
    if (samples->count == 0) {
        return summary;
    }
    qsort(samples->values, samples->count, sizeof *samples->values, ascending);
    double sum = 0;
    for (size_t i = 0; i < samples->count; i++) {
        sum += samples->values[i];
    }
    summary.mean = sum / (double)samples->count;
    summary.p50 = at(samples, 0.50);
    summary.p90 = at(samples, 0.90);
    summary.p95 = at(samples, 0.95);
    summary.p99 = at(samples, 0.99);
    summary.max = at(samples, 1);
    return summary;
}
