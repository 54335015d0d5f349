/* Numbers for Prometheus, in its text format (version 0.0.4): one table, a row a metric.
 *
 * Names and meanings are vLLM's where it has the same metric, with the prefix "metronome:" for "vllm:".
 * Threads: pure, any. */
#ifndef METRONOME_SERVER_METRICS_H
#define METRONOME_SERVER_METRICS_H

#include "scheduler/engine.h"
#include "server/http.h"
#include "server/text.h"

/* Everything the table's rows read. */
struct metrics {
    const char *model_name;
    const char *version;
    bool ready; /* the engine's numbers are there */
    struct engine_stats engine;
    struct http_counts http;
    const struct slo_classes *classes; /* their names, if the engine's numbers are there */
    struct class_stats by_class[SLO_MAX_CLASSES];
    double layers_offloaded, predicted_s, measured_s, stall_s, total_stall_s, total_kv_stall_s;
    double invariant; /* 1 or 0 */
    double one;       /* 1: the value of rows whose labels say it all */
    double kv_usage;  /* share of the KV cache in use, 0 to 1 */
    double resident_bytes;
    double start_time_s; /* of the process, since 1970 */
};

/* Fills in what follows from the rest. */
void metrics_derive(struct metrics *metrics);

void metrics_write(const struct metrics *metrics, struct text *out);

#endif
