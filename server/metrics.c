#include "server/metrics.h"

#include "base/check.h"
#include "base/clock.h"
#include "server/service.h"
#include "server/version.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum metric_kind { COUNTER, GAUGE, HISTOGRAM };
enum metric_type { U32, U64, SIZE, DOUBLE, HISTOGRAM_OF };

struct metric {
    const char *name;
    enum metric_kind kind;
    enum metric_type type;
    size_t offset;     /* in struct metrics */
    const char *label; /* name="value" beside model_name; NULL: none */
    bool engine;       /* only once the engine runs */
    const char *help;  /* NULL: the same metric as the row before, with another label */
};

#define ENGINE(field) offsetof(struct metrics, engine.field)
#define CLASS(field) offsetof(struct class_stats, field)
#define HTTP(field) offsetof(struct metrics, http.field)
#define INFO_LABEL "" /* this row's label is made when it is written */

static const struct metric table[] = {
    /* vLLM's */
    {"num_requests_running", GAUGE, U32, ENGINE(running), NULL, true, "Sequences in the running batch."},
    {"num_requests_waiting", GAUGE, U32, ENGINE(waiting), NULL, true, "Sequences waiting to be admitted."},
    {"kv_cache_usage_perc", GAUGE, DOUBLE, offsetof(struct metrics, kv_usage), NULL, true,
     "KV cache in use; 1 is all of it."},
    {"num_preemptions_total", COUNTER, U64, ENGINE(preemptions), NULL, true,
     "Sequences put back into the queue, for lack of KV blocks."},
    {"prompt_tokens_total", COUNTER, U64, ENGINE(prompt_tokens), NULL, true, "Prompt tokens processed."},
    {"prefix_cache_queries_total", COUNTER, U64, ENGINE(prefix_queries), NULL, true,
     "Prompt tokens looked for in the prefix cache."},
    {"prefix_cache_hits_total", COUNTER, U64, ENGINE(prefix_hits), NULL, true,
     "Of them, tokens found: their KV was not computed again."},
    {"generation_tokens_total", COUNTER, U64, ENGINE(generation_tokens), NULL, true, "Tokens generated."},
    {"request_success_total", COUNTER, U64, ENGINE(finished[FINISH_STOP]), "finished_reason=\"stop\"", true,
     "Sequences that ended, by reason."},
    {"request_success_total", COUNTER, U64, ENGINE(finished[FINISH_LENGTH]), "finished_reason=\"length\"", true, NULL},
    {"request_success_total", COUNTER, U64, ENGINE(finished[FINISH_CANCELLED]), "finished_reason=\"abort\"", true,
     NULL},
    {"request_success_total", COUNTER, U64, ENGINE(finished[FINISH_ERROR]), "finished_reason=\"error\"", true, NULL},
    {"iteration_tokens_total", HISTOGRAM, HISTOGRAM_OF, ENGINE(iteration_tokens), NULL, true,
     "Tokens in each iteration."},
    {"time_to_first_token_seconds", HISTOGRAM, HISTOGRAM_OF, ENGINE(ttft_s), NULL, true,
     "From a request's last byte to its first token."},
    {"inter_token_latency_seconds", HISTOGRAM, HISTOGRAM_OF, ENGINE(tpot_s), NULL, true,
     "From each token to the next."},
    {"time_per_output_token_seconds", HISTOGRAM, HISTOGRAM_OF, ENGINE(tpot_s), NULL, true,
     "The same, under the name that older dashboards have."},
    {"e2e_request_latency_seconds", HISTOGRAM, HISTOGRAM_OF, ENGINE(e2e_s), NULL, true,
     "From a request's last byte to its end."},
    {"request_queue_time_seconds", HISTOGRAM, HISTOGRAM_OF, ENGINE(queue_s), NULL, true,
     "From a request's last byte to its admission."},
    /* ours: memory and the link */
    {"kv_blocks", GAUGE, U32, ENGINE(kv_blocks), NULL, true, "KV blocks there are."},
    {"kv_blocks_free", GAUGE, U32, ENGINE(kv_blocks_free), NULL, true, "KV blocks not in use."},
    {"kv_host_blocks", GAUGE, U32, ENGINE(offload.kv_host_blocks), NULL, true,
     "KV blocks that host memory has room for, of preempted sequences."},
    {"kv_parked_blocks", GAUGE, U32, ENGINE(offload.kv_parked), NULL, true, "KV blocks in host memory."},
    {"kv_stream_blocks", GAUGE, U32, ENGINE(offload.kv_stream_blocks), NULL, true,
     "KV blocks of running sequences that can be streamed from host memory."},
    {"kv_streamed_blocks", GAUGE, U32, ENGINE(offload.kv_streamed), NULL, true,
     "KV blocks of running sequences that every layer streams from host memory."},
    {"prefix_cache_blocks", GAUGE, U32, ENGINE(prefix_idle), "place=\"device\"", true,
     "KV blocks that no sequence holds, kept for prompts to come; those on the device count as free."},
    {"prefix_cache_blocks", GAUGE, U32, ENGINE(prefix_parked), "place=\"host\"", true, NULL},
    {"kv_link_bytes_total", COUNTER, U64, ENGINE(offload.kv_bytes_out), "direction=\"device_to_host\"", true,
     "KV copied to host memory and back, counted at the copy calls."},
    {"kv_link_bytes_total", COUNTER, U64, ENGINE(offload.kv_bytes_in), "direction=\"host_to_device\"", true, NULL},
    {"kv_moved_blocks_total", COUNTER, U64, ENGINE(offload.kv_blocks_moved), NULL, true,
     "KV blocks moved inside the device, out of the way of weights that came back."},
    {"kv_stall_seconds_total", COUNTER, DOUBLE, offsetof(struct metrics, total_kv_stall_s), NULL, true,
     "Time that compute waited for KV blocks on their way so far."},
    {"preempted_resumed_total", COUNTER, U64, ENGINE(resumed), NULL, true,
     "Preempted sequences that went on with nothing to compute again."},
    {"recomputed_tokens_total", COUNTER, U64, ENGINE(recomputed_tokens), NULL, true,
     "Tokens whose KV was given up, to be computed again."},
    {"iterations_total", COUNTER, U64, ENGINE(iterations), NULL, true, "Iterations of the engine."},
    {"sampling_rounds_total", COUNTER, U64, ENGINE(sampling_rounds), NULL, true,
     "Further rounds of sampling, where penalties changed more logits than one has room for."},
    {"layers", GAUGE, U32, ENGINE(offload.layers), NULL, true, "Decoder layers of the model."},
    {"layers_offloaded", GAUGE, DOUBLE, offsetof(struct metrics, layers_offloaded), NULL, true,
     "Decoder layers' worth of weights that lives in host memory only."},
    {"offload_interval", GAUGE, DOUBLE, ENGINE(offload.interval), NULL, true,
     "Layers for each layer's worth in host memory; 0: none is."},
    {"offload_streamed_bytes", GAUGE, U64, ENGINE(offload.bytes_streamed), NULL, true,
     "Weights copied to the device in the last iteration, counted at the copy calls."},
    {"offload_streamed_bytes_total", COUNTER, U64, ENGINE(offload.total_bytes_streamed), NULL, true,
     "Weights copied to the device by iterations so far."},
    {"offload_placements_total", COUNTER, U64, ENGINE(offload.placements), NULL, true,
     "Changes of what lives in host memory."},
    {"iteration_predicted_seconds", GAUGE, DOUBLE, offsetof(struct metrics, predicted_s), NULL, true,
     "Predicted time of the last iteration."},
    {"iteration_measured_seconds", GAUGE, DOUBLE, offsetof(struct metrics, measured_s), NULL, true,
     "Measured time of the last iteration."},
    {"iteration_stall_seconds", GAUGE, DOUBLE, offsetof(struct metrics, stall_s), NULL, true,
     "Of it, time that compute waited for weights."},
    {"stall_seconds_total", COUNTER, DOUBLE, offsetof(struct metrics, total_stall_s), NULL, true,
     "Time that compute waited for weights so far."},
    {"iterations_late_total", COUNTER, U64, ENGINE(offload.total_late), NULL, true,
     "Iterations that took longer than their deadline."},
    {"link_bytes_per_second", GAUGE, U64, ENGINE(offload.link_bytes_per_s), NULL, true,
     "What the link gives, as measured; 0: not yet."},
    {"bus_members", GAUGE, U32, ENGINE(offload.bus_members), NULL, true,
     "Engines that share the link, this one included; 0: no bus is configured."},
    {"bus_granted_bytes_per_second", GAUGE, U64, ENGINE(offload.bus_bytes_per_s), NULL, true,
     "What this engine may use of the shared link."},
    {"invariant", GAUGE, DOUBLE, offsetof(struct metrics, invariant), NULL, true,
     "1: tokens do not depend on what else runs; 0: they may, where two are nearly equal."},
    {"offload_info", GAUGE, DOUBLE, offsetof(struct metrics, one), INFO_LABEL, true,
     "The policy in force, and why it offloads as much as it does: slo, memory, bus or pinned."},
    {"arena_bytes", GAUGE, SIZE, ENGINE(offload.arena_bytes), NULL, true,
     "Device memory for decoder layers and KV blocks."},
    {"weight_bytes", GAUGE, SIZE, ENGINE(offload.weight_bytes_device), "place=\"device\"", true,
     "Decoder layers' weights, by where they live."},
    {"weight_bytes", GAUGE, SIZE, ENGINE(offload.weight_bytes_host), "place=\"host\"", true, NULL},
    {"weight_bytes", GAUGE, SIZE, ENGINE(offload.staging_bytes), "place=\"staging\"", true, NULL},
    {"link_bytes_total", COUNTER, U64, ENGINE(link.host_to_device_bytes), "direction=\"host_to_device\"", true,
     "Bytes copied between host and device."},
    {"link_bytes_total", COUNTER, U64, ENGINE(link.device_to_host_bytes), "direction=\"device_to_host\"", true, NULL},
    {"link_copies_total", COUNTER, U64, ENGINE(link.host_to_device_copies), "direction=\"host_to_device\"", true,
     "Copies between host and device."},
    {"link_copies_total", COUNTER, U64, ENGINE(link.device_to_host_copies), "direction=\"device_to_host\"", true, NULL},
    /* ours: HTTP */
    {"http_connections", GAUGE, U64, HTTP(connections), NULL, false, "Open connections."},
    {"http_connections_total", COUNTER, U64, HTTP(accepted), NULL, false, "Connections accepted."},
    {"http_connections_refused_total", COUNTER, U64, HTTP(refused), NULL, false,
     "Connections refused, for there were max_connections."},
    {"http_responses_total", COUNTER, U64, HTTP(responses[2]), "status=\"2xx\"", false, "Responses begun, by status."},
    {"http_responses_total", COUNTER, U64, HTTP(responses[4]), "status=\"4xx\"", false, NULL},
    {"http_responses_total", COUNTER, U64, HTTP(responses[5]), "status=\"5xx\"", false, NULL},
    {"http_clients_gone_total", COUNTER, U64, HTTP(gone), NULL, false,
     "Exchanges whose client left, or was dropped, before their end."},
    {"http_slow_readers_total", COUNTER, U64, HTTP(slow_readers), NULL, false,
     "Connections closed because their client did not read."},
    {"http_request_timeouts_total", COUNTER, U64, HTTP(timeouts), NULL, false,
     "Requests that took longer to arrive than request_timeout_s."},
    {"resident_memory_bytes", GAUGE, DOUBLE, offsetof(struct metrics, resident_bytes), NULL, false,
     "Resident memory of the process."},
    {"start_time_seconds", GAUGE, DOUBLE, offsetof(struct metrics, start_time_s), NULL, false,
     "When the process started, in seconds since 1970."},
};

/* A row for each class of promises; offsets are in struct class_stats. */
static const struct metric class_table[] = {
    {"slo_requests_total", COUNTER, U64, CLASS(promised), "outcome=\"promised\"", true,
     "Requests that ended and had a promise, by class; of them, those of which no token was late; the first one was; "
     "another was."},
    {"slo_requests_total", COUNTER, U64, CLASS(kept), "outcome=\"kept\"", true, NULL},
    {"slo_requests_total", COUNTER, U64, CLASS(late_first), "outcome=\"late_ttft\"", true, NULL},
    {"slo_requests_total", COUNTER, U64, CLASS(late_later), "outcome=\"late_tpot\"", true, NULL},
    {"slo_late_total", COUNTER, U64, CLASS(late_tokens[CAUSE_COMPUTE]), "cause=\"compute\"", true,
     "Tokens that came after they were due, by class and by what made them late."},
    {"slo_late_total", COUNTER, U64, CLASS(late_tokens[CAUSE_QUEUE]), "cause=\"queue\"", true, NULL},
    {"slo_late_total", COUNTER, U64, CLASS(late_tokens[CAUSE_PREFILL_OF_OTHERS]), "cause=\"prefill_of_others\"", true,
     NULL},
    {"slo_late_total", COUNTER, U64, CLASS(late_tokens[CAUSE_COPY_STALL]), "cause=\"copy_stall\"", true, NULL},
    {"slo_late_total", COUNTER, U64, CLASS(late_tokens[CAUSE_LINK_CONTENTION]), "cause=\"link_contention\"", true,
     NULL},
    {"slo_late_total", COUNTER, U64, CLASS(late_tokens[CAUSE_KV_PREEMPTION]), "cause=\"kv_preemption\"", true, NULL},
    {"slo_late_total", COUNTER, U64, CLASS(late_tokens[CAUSE_HOST_TIME]), "cause=\"host_time\"", true, NULL},
    {"slo_late_total", COUNTER, U64, CLASS(late_tokens[CAUSE_CLIENT_SLOW]), "cause=\"client_slow\"", true, NULL},
    {"slo_late_total", COUNTER, U64, CLASS(late_tokens[CAUSE_DEVICE]), "cause=\"device\"", true, NULL},
    {"slo_admissions_total", COUNTER, U64, CLASS(admitted), "outcome=\"promised\"", true,
     "Requests at the door, by class and what became of them; refused ones by what was short. Downgraded ones count "
     "for "
     "the class that they asked for, and again for the one that they got."},
    {"slo_admissions_total", COUNTER, U64, CLASS(best_effort), "outcome=\"best_effort\"", true, NULL},
    {"slo_admissions_total", COUNTER, U64, CLASS(downgraded), "outcome=\"downgraded\"", true, NULL},
    {"slo_admissions_total", COUNTER, U64, CLASS(refused[SHORT_OF_TTFT]), "outcome=\"refused\",short=\"ttft\"", true,
     NULL},
    {"slo_admissions_total", COUNTER, U64, CLASS(refused[SHORT_OF_TPOT]), "outcome=\"refused\",short=\"tpot\"", true,
     NULL},
    {"slo_admissions_total", COUNTER, U64, CLASS(refused[SHORT_OF_MEMORY]), "outcome=\"refused\",short=\"memory\"",
     true, NULL},
    {"slo_admissions_total", COUNTER, U64, CLASS(refused[SHORT_OF_PLACES]), "outcome=\"refused\",short=\"queue\"", true,
     NULL},
    {"slo_first_tokens_total", COUNTER, U64, CLASS(first_tokens), "of=\"predicted\"", true,
     "First tokens of requests that were predicted to be in time; of them, those that were."},
    {"slo_first_tokens_total", COUNTER, U64, CLASS(first_in_time), "of=\"in_time\"", true, NULL},
    {"slo_time_to_first_token_over_predicted", HISTOGRAM, HISTOGRAM_OF, CLASS(ttft_ratio), NULL, true,
     "Measured time to first token over what was predicted at the door, of requests that were to be in time."},
    {"slo_refused_time_to_first_token_seconds", HISTOGRAM, HISTOGRAM_OF, CLASS(refused_ttft_s), NULL, true,
     "Predicted time to first token of requests that were refused."},
    {"slo_generation_tokens_total", COUNTER, U64, CLASS(tokens), "of=\"all\"", true,
     "Tokens of requests that ended, by class; of them, those of requests that kept their promise: the goodput."},
    {"slo_generation_tokens_total", COUNTER, U64, CLASS(kept_tokens), "of=\"kept\"", true, NULL},
    {"slo_time_to_first_token_seconds", HISTOGRAM, HISTOGRAM_OF, CLASS(ttft_s), NULL, true,
     "From a request's last byte to its first token, by class."},
    {"slo_inter_token_latency_seconds", HISTOGRAM, HISTOGRAM_OF, CLASS(tpot_s), NULL, true,
     "From each token to the next, by class."},
    {"slo_queue_time_seconds", HISTOGRAM, HISTOGRAM_OF, CLASS(queue_s), NULL, true,
     "From a request's last byte to its turn, by class."},
};

static const char *kind_name(enum metric_kind kind) {
    return kind == COUNTER ? "counter" : kind == GAUGE ? "gauge" : "histogram";
}

/* Where a row's value is: in the metrics, or in those of a class. */
struct metric_source {
    const struct metrics *metrics;
    const void *base;
    const char *class_name; /* NULL: of none */
};

/* {model_name="...",class="...",label} with `more` inside it, too. */
static void write_labels(const struct metric_source *source, const struct metric *row, const char *more,
                         struct text *out) {
    text_adds(out, "{model_name=");
    text_adds_json(out, source->metrics->model_name); /* Prometheus' escapes for quotes, backslashes and newlines are
                                                         JSON's */
    if (source->class_name) {
        text_addf(out, ",class=\"%s\"", source->class_name);
    } else if (row->offset == offsetof(struct metrics, one)) {
        const struct offload_report *offload = &source->metrics->engine.offload;
        text_addf(out, ",policy=\"%s\",why=\"%s\"} ", offload->policy ? offload->policy : "",
                  offload->why ? offload->why : "");
        return;
    }
    text_addf(out, "%s%s%s%s} ", row->label ? "," : "", row->label ? row->label : "", *more ? "," : "", more);
}

static double plain_value(const struct metric_source *source, const struct metric *row) {
    const char *field = (const char *)source->base + row->offset;
    switch (row->type) {
    case U32:
        return *(const uint32_t *)field;
    case U64:
        return (double)*(const uint64_t *)field;
    case SIZE:
        return (double)*(const size_t *)field;
    case DOUBLE:
        return *(const double *)field;
    case HISTOGRAM_OF:
        break;
    }
    CHECK(!"a plain metric has a plain type");
    return 0;
}

static void write_plain(const struct metric_source *source, const struct metric *row, struct text *out) {
    text_addf(out, "metronome:%s", row->name);
    write_labels(source, row, "", out);
    text_addf(out, "%.15g\n", plain_value(source, row));
}

static void write_histogram(const struct metric_source *source, const struct metric *row, struct text *out) {
    const struct histogram *histogram = (const struct histogram *)((const char *)source->base + row->offset);
    uint64_t below = 0;
    for (uint32_t i = 0; i <= histogram->bounds; i++) {
        char bound[40] = "le=\"+Inf\"";
        if (i < histogram->bounds) {
            snprintf(bound, sizeof bound, "le=\"%.10g\"", histogram->upper[i]);
        }
        below += histogram->counts[i];
        text_addf(out, "metronome:%s_bucket", row->name);
        write_labels(source, row, bound, out);
        text_addf(out, "%llu\n", (unsigned long long)below);
    }
    text_addf(out, "metronome:%s_sum", row->name);
    write_labels(source, row, "", out);
    text_addf(out, "%.15g\n", histogram->sum);
    text_addf(out, "metronome:%s_count",
              row->name); /* of the buckets, so that it is the +Inf bucket's whatever races */
    write_labels(source, row, "", out);
    text_addf(out, "%llu\n", (unsigned long long)below);
}

static void write_help(const struct metric *row, struct text *out) {
    if (row->help) {
        text_addf(out, "# HELP metronome:%s %s\n# TYPE metronome:%s %s\n", row->name, row->help, row->name,
                  kind_name(row->kind));
    }
}

static void write_value(const struct metric_source *source, const struct metric *row, struct text *out) {
    if (row->kind == HISTOGRAM) {
        write_histogram(source, row, out);
    } else {
        write_plain(source, row, out);
    }
}

/* Of each class that there is or was. */
static void write_classes(const struct metrics *metrics, struct text *out) {
    for (size_t i = 0; i < sizeof class_table / sizeof class_table[0]; i++) {
        write_help(&class_table[i], out);
        for (uint32_t j = 0; j < metrics->classes->count; j++) {
            struct metric_source source = {metrics, &metrics->by_class[j], metrics->classes->items[j].name};
            write_value(&source, &class_table[i], out);
        }
    }
}

void metrics_derive(struct metrics *metrics) {
    const struct engine_stats *engine = &metrics->engine;
    const struct offload_report *offload = &engine->offload;
    metrics->kv_usage = engine->kv_blocks ? 1 - (double)engine->kv_blocks_free / (double)engine->kv_blocks : 0;
    metrics->layers_offloaded = offload->slabs ? (double)offload->streamed_slabs / offload->slabs : 0;
    metrics->predicted_s = (double)offload->predicted_ns / NS_PER_S;
    metrics->measured_s = (double)offload->measured_ns / NS_PER_S;
    metrics->stall_s = (double)offload->stall_ns / NS_PER_S;
    metrics->total_kv_stall_s = (double)offload->total_kv_stall_ns / NS_PER_S;
    metrics->total_stall_s = (double)offload->total_stall_ns / NS_PER_S;
    metrics->one = 1;
}

void metrics_write(const struct metrics *metrics, struct text *out) {
    text_addf(out,
              "# HELP metronome:build_info Which Metronome this is.\n# TYPE metronome:build_info gauge\n"
              "metronome:build_info{version=\"%s\"} 1\n",
              metrics->version);
    const struct metric_source source = {metrics, metrics, NULL};
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        if (!table[i].engine || metrics->ready) {
            write_help(&table[i], out);
            write_value(&source, &table[i], out);
        }
    }
    if (metrics->ready && metrics->classes) {
        write_classes(metrics, out);
    }
}

/* ---- the endpoint ---- */

static double resident_bytes(void) {
    FILE *file = fopen("/proc/self/statm", "r");
    unsigned long long pages = 0;
    if (file) {
        if (fscanf(file, "%*u %llu", &pages) != 1) {
            pages = 0;
        }
        fclose(file);
    }
    return (double)pages * (double)sysconf(_SC_PAGESIZE);
}

void api_metrics(struct service *service, struct http_exchange *exchange) {
    struct metrics metrics = {.model_name = service->model_name,
                              .version = version_text(),
                              .ready = service->state != SERVICE_LOADING,
                              .http = http_server_counts(service->http),
                              .resident_bytes = resident_bytes(),
                              .start_time_s = (double)service->started_s};
    if (metrics.ready) {
        metrics.invariant = device_info(service->runtime.device).invariant;
        engine_stats(service->runtime.engine, &metrics.engine);
        metrics.classes = &service->classes;
        for (uint32_t i = 0; i < service->classes.count; i++) {
            engine_class_stats(service->runtime.engine, i, &metrics.by_class[i]);
        }
    }
    metrics_derive(&metrics);
    struct text body = {0};
    metrics_write(&metrics, &body);
    http_respond(exchange, body.failed ? 503 : 200, "text/plain; version=0.0.4; charset=utf-8",
                 body.failed ? "" : body.data, body.failed ? 0 : body.bytes);
    text_free(&body);
}
