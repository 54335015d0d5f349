/* The options: one table, from which the configuration file, the command line, `metronome config` and the checks of
 * types and ranges all come. An option is one row in options.c and one field here.
 *
 * Owns: struct config and its strings. Does not know what an option does.
 * Threads: one while it is filled; then it is read by any. */
#ifndef METRONOME_SERVER_OPTIONS_H
#define METRONOME_SERVER_OPTIONS_H

#include "base/status.h"
#include "server/text.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Where a value came from; a later one overrides. */
enum option_source { SOURCE_DEFAULT, SOURCE_FILE, SOURCE_COMMAND_LINE };

#define OPTIONS_MAX 80

/* Strings are never NULL: "" is unset. */
struct config {
    /* model */
    char *model, *quantize, *model_name, *chat_template;
    uint64_t context;
    /* device */
    char *device, *isa, *compute, *invariant, *cuda_graphs, *all_reduce, *hardware;
    uint64_t device_memory, host_memory, threads, tensor_parallel_size;
    double link_gbps;
    char *link_schedule;
    /* scheduler */
    uint64_t max_sequences, max_queue, max_batch_tokens, prefill_chunk, kv_tokens, seed;
    char *kv_type, *scheduler_order, *prefix_cache;
    double slo_ttft_ms, slo_tpot_ms, slo_percentile;
    char *slo_on_miss, *slo_classes, *slo_default_class;
    double slo_ttft_min_ms, slo_ttft_max_ms, slo_tpot_min_ms, slo_tpot_max_ms; /* that a request may ask for */
    char *pace;
    /* offloading */
    char *offload_policy, *offload_bus;
    char *offload_record;
    double offload_interval, offload_percent;
    uint64_t offload_slabs, offload_group, offload_group_streamed, offload_prefetch, offload_kv_host_memory,
        offload_kv_stream_memory;
    /* server */
    char *host, *port_file, *api_key, *api_key_file, *log_level, *trace_file, *slo_log;
    uint64_t port, max_connections, max_header, max_body, max_response, stream_buffer;
    double request_timeout_s, idle_timeout_s, drain_timeout_s;

    uint8_t sources[OPTIONS_MAX]; /* enum option_source, a row each */
};

enum option_type {
    OPTION_STRING,
    OPTION_PATH,
    OPTION_CHOICE, /* a string, one of `choices` */
    OPTION_INT,
    OPTION_FLOAT,
    OPTION_BYTES,  /* a number, or text with a suffix: "40GiB" */
    OPTION_OBJECT, /* a JSON object, kept as its text */
};

struct option {
    const char *name; /* dotted: "slo.tpot_ms" is {"slo": {"tpot_ms": ...}} */
    enum option_type type;
    const char *unit;     /* "" if it has none */
    const char *fallback; /* the default, as text */
    double minimum, maximum;
    const char *const *choices; /* ends with NULL */
    size_t offset;              /* of its field in struct config */
    const char *help;
};

size_t option_count(void);
const struct option *option_at(size_t index);
const struct option *option_find(const char *name); /* NULL if there is none; '-' counts as '_' */
const char *option_type_name(enum option_type type);

/* Every option at its default. */
void config_init(struct config *config);
void config_free(struct config *config);

/* Sets one option from text. STATUS_NOT_FOUND suggests the nearest name; STATUS_INVALID says the name, the value and
 * what is allowed. */
struct status config_set(struct config *config, const char *name, const char *value, enum option_source source);

/* Reads a configuration: JSON, comments allowed. The first thing that is wrong is refused with its whole path, and
 * the configuration is then to be freed. */
struct status config_read_json(struct config *config, const char *text, size_t bytes);
struct status config_read_file(struct config *config, const char *path);

/* Checks what no single option can: options that need another, and those whose work is not built. */
struct status config_check(const struct config *config);

/* Sets in `to` every option that is set in `from`. */
struct status config_overlay(struct config *to, const struct config *from);

/* Have both the same value? Puts each one's value in the place of the other's. */
bool config_same(const struct config *one, const struct config *other, const struct option *option);
void config_swap(struct config *one, struct config *other, const struct option *option);

bool config_is_set(const struct config *config, const char *name);

/* Appends an option's value as config_set() reads it: nothing is rounded, nothing hidden. */
void config_write(const struct config *config, const struct option *option, struct text *out);

/* Appends an option's value as text, bytes with their unit; a secret as "***". */
void config_show(const struct config *config, const struct option *option, struct text *out);

#endif
