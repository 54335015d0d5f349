#include "server/options.h"

#include "base/bytes.h"
#include "base/check.h"
#include "base/json.h"
#include "kernels/ops.h"
#include "server/link_schedule.h"
#include "server/slo_config.h"
#include "server/suggest.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define KIB 1024.0
#define MIB (1024 * KIB)
#define GIB (1024 * MIB)
#define TIB (1024 * GIB)
#define FIELD(field) offsetof(struct config, field)

enum { MOST_SLABS = MATMUL_MAX_PARTS / 3 }; /* three products of a layer's slab share a call */

static const char *const devices[] = {"cpu", "cuda", "sim", NULL};
static const char *const isas[] = {"auto", "avx512", "avx2", "scalar", NULL};
static const char *const computes[] = {"int8", "f32", NULL};
static const char *const quantizations[] = {"none", "q8_0", "q4_1", NULL};
static const char *const switches[] = {"on", "off", NULL};
static const char *const all_reduces[] = {"auto", "peer", "nccl", NULL};
static const char *const kv_types[] = {"f16", "bf16", NULL};
static const char *const orders[] = {"deadlines", "fcfs", NULL};
static const char *const policy_names[] = {"none",     "zero-inference", "flexgen", "prefetch-group",
                                           "select-n", "metronome",      NULL};
static const char *const misses[] = {"best_effort", "refuse", NULL};
static const char *const log_levels[] = {"debug", "info", "warn", "error", "silent", NULL};

static const struct option options[] = {
    {"model", OPTION_PATH, "", "", 0, 0, NULL, FIELD(model),
     "the model: a GGUF file, or a Hugging Face directory (config.json, safetensors, tokenizer.json)"},
    {"quantize", OPTION_CHOICE, "", "none", 0, 0, quantizations, FIELD(quantize),
     "what becomes of weights that the model has as floats, while it is loaded; embedding and head get at least q8_0"},
    {"model_name", OPTION_STRING, "", "", 0, 0, NULL, FIELD(model_name),
     "the id it is served under; empty: the file's name without .gguf"},
    {"chat_template", OPTION_STRING, "", "auto", 0, 0, NULL, FIELD(chat_template),
     "auto: recognised from the model; or a name: chatml, llama2, llama3, mistral, zephyr, gemma, smollm2"},
    {"context", OPTION_INT, "tokens", "0", 0, 16777216, NULL, FIELD(context),
     "longest prompt and completion together; 0: what the model was trained for"},

    {"device", OPTION_CHOICE, "", "cpu", 0, 0, devices, FIELD(device), "where the model runs"},
    {"device_memory", OPTION_BYTES, "bytes", "0", 0, 1024 * TIB, NULL, FIELD(device_memory),
     "for weights, KV cache and workspace together; 0: as needed"},
    {"host_memory", OPTION_BYTES, "bytes", "0", 0, 1024 * TIB, NULL, FIELD(host_memory),
     "pinned host memory; 0: as needed"},
    {"link_gbps", OPTION_FLOAT, "GB/s", "0", 0, 100000, NULL, FIELD(link_gbps),
     "pace of copies between host and device memory on cpu and sim, 10^9 bytes a second; 0: as fast as it goes"},
    {"link_schedule", OPTION_STRING, "", "", 0, 0, NULL, FIELD(link_schedule),
     "changes of link_gbps while the server runs, to show a link that slows: SECONDS:GBPS,SECONDS:GBPS,... counted "
     "from when it was ready; empty: none"},
    {"threads", OPTION_INT, "", "0", 0, 4096, NULL, FIELD(threads), "compute threads on cpu; 0: one for each core"},
    {"tensor_parallel_size", OPTION_INT, "", "1", 1, DEVICE_MOST_RANKS, NULL, FIELD(tensor_parallel_size),
     "devices that share every layer, each with some of its heads and columns: GPUs 0 to n-1 on cuda, parts of the "
     "threads on cpu; device_memory, host_memory and link_gbps are of each"},
    {"isa", OPTION_CHOICE, "", "auto", 0, 0, isas, FIELD(isa), "instruction set on cpu"},
    {"compute", OPTION_CHOICE, "", "int8", 0, 0, computes, FIELD(compute),
     "products with quantized weights: int8 is fast, f32 is exact"},
    {"invariant", OPTION_CHOICE, "", "off", 0, 0, switches, FIELD(invariant),
     "on: on cuda, too, tokens do not depend on what else runs, and own kernels multiply large batches; off: cuBLAS "
     "does, which is faster. cpu and sim are so always"},
    {"cuda_graphs", OPTION_CHOICE, "", "on", 0, 0, switches, FIELD(cuda_graphs),
     "on cuda: an iteration is launched as CUDA graphs; off: kernel by kernel, to compare"},
    {"all_reduce", OPTION_CHOICE, "", "auto", 0, 0, all_reduces, FIELD(all_reduce),
     "what adds up over several GPUs: peer is own kernels that write into each other's memory, with which tokens "
     "depend on what else runs as little as on one; nccl is NCCL; auto: peer where every GPU can, else nccl"},
    {"hardware", OPTION_PATH, "", "", 0, 0, NULL, FIELD(hardware), "the hardware that sim stands for: a JSON file"},

    {"max_sequences", OPTION_INT, "", "64", 1, 65536, NULL, FIELD(max_sequences), "sequences in one iteration"},
    {"max_queue", OPTION_INT, "", "256", 1, 1048576, NULL, FIELD(max_queue),
     "sequences that wait to be admitted; one more is refused with 429"},
    {"max_batch_tokens", OPTION_INT, "tokens", "512", 1, 1048576, NULL, FIELD(max_batch_tokens),
     "tokens in one iteration"},
    {"prefill_chunk", OPTION_INT, "tokens", "0", 0, 1048576, NULL, FIELD(prefill_chunk),
     "most prompt tokens of one sequence in one iteration; 0: max_batch_tokens"},
    {"kv_type", OPTION_CHOICE, "", "f16", 0, 0, kv_types, FIELD(kv_type), "number format of the KV cache"},
    {"kv_tokens", OPTION_INT, "tokens", "0", 0, 1e12, NULL, FIELD(kv_tokens),
     "capacity of the KV cache; 0: what device_memory leaves, or a default"},
    {"prefix_cache", OPTION_CHOICE, "", "on", 0, 0, switches, FIELD(prefix_cache),
     "on: prompts that begin alike share KV blocks, which are kept while nobody needs their place; a request's "
     "cache_salt says who shares with whom"},
    {"seed", OPTION_INT, "", "0", 0, 0x1.0p63, NULL, FIELD(seed), "for requests that bring none"},

    {"scheduler.order", OPTION_CHOICE, "", "deadlines", 0, 0, orders, FIELD(scheduler_order),
     "deadlines: the earliest due first, prompts in chunks that leave the tokens beside them their time; fcfs: first "
     "come, first served, in chunks of prefill_chunk, to compare with"},
    {"slo.ttft_ms", OPTION_FLOAT, "ms", "0", 0, 1e9, NULL, FIELD(slo_ttft_ms), "promised time to first token; 0: none"},
    {"slo.tpot_ms", OPTION_FLOAT, "ms", "0", 0, 1e9, NULL, FIELD(slo_tpot_ms),
     "promised time per output token; 0: none"},
    {"slo.percentile", OPTION_FLOAT, "%", "99", 50, 100, NULL, FIELD(slo_percentile),
     "of the requests with a promise, how many shall keep it: how careful admission is"},
    {"slo.on_miss", OPTION_CHOICE, "", "best_effort", 0, 0, misses, FIELD(slo_on_miss),
     "what becomes of a request whose promise is predicted to be broken: best_effort serves it behind the others, "
     "refuse answers 429"},
    {"slo.classes", OPTION_OBJECT, "", "{}", 0, 0, NULL, FIELD(slo_classes),
     "named promises, NAME: {ttft_ms, tpot_ms, percentile, on_miss: best_effort|refuse|downgrade, downgrade_to}; the "
     "class \"default\" is the options above"},
    {"slo.default_class", OPTION_STRING, "", "default", 0, 0, NULL, FIELD(slo_default_class),
     "the class of requests that name none"},
    {"slo.ttft_min_ms", OPTION_FLOAT, "ms", "0", 0, 1e9, NULL, FIELD(slo_ttft_min_ms),
     "least slo.ttft_ms that a request may ask for"},
    {"slo.ttft_max_ms", OPTION_FLOAT, "ms", "1e9", 0, 1e9, NULL, FIELD(slo_ttft_max_ms),
     "most slo.ttft_ms that a request may ask for"},
    {"slo.tpot_min_ms", OPTION_FLOAT, "ms", "0", 0, 1e9, NULL, FIELD(slo_tpot_min_ms),
     "least slo.tpot_ms that a request may ask for"},
    {"slo.tpot_max_ms", OPTION_FLOAT, "ms", "1e9", 0, 1e9, NULL, FIELD(slo_tpot_max_ms),
     "most slo.tpot_ms that a request may ask for"},
    {"pace", OPTION_CHOICE, "", "off", 0, 0, switches, FIELD(pace),
     "on: streamed tokens are sent no earlier than slo.tpot_ms asks for; a request's \"pace\" says otherwise"},
    {"offload.policy", OPTION_CHOICE, "", "none", 0, 0, policy_names, FIELD(offload_policy),
     "what goes to host memory; none: every layer stays on the device; metronome: as much as slo.tpot_ms and "
     "slo.ttft_ms allow; the others are baselines"},
    {"offload.interval", OPTION_FLOAT, "layers", "0", 0, 65536, NULL, FIELD(offload_interval),
     "one layer in so many is streamed from host memory, come what may (metronome, select-n); 0: the policy decides"},
    {"offload.bus", OPTION_STRING, "", "", 0, 0, NULL, FIELD(offload_bus),
     "name of a link that other engines on this machine use too: they share it by their promises; empty: ours alone"},
    {"offload.slabs", OPTION_INT, "", "0", 0, MOST_SLABS, NULL, FIELD(offload_slabs),
     "pieces that a layer is cut into, each of which may be in host memory; 0: chosen"},
    {"offload.kv_host_memory", OPTION_BYTES, "bytes", "256MiB", 0, 1024 * TIB, NULL, FIELD(offload_kv_host_memory),
     "pinned host memory for KV blocks: those of preempted sequences park there, and with policy metronome those of a "
     "context that is longer than device_memory has room for live there and are streamed; with an eighth of the KV "
     "cache's room or more those of the prefix cache park there, too; 0: none"},
    {"offload.kv_stream_memory", OPTION_BYTES, "bytes", "0", 0, 1024 * TIB, NULL, FIELD(offload_kv_stream_memory),
     "part of offload.kv_host_memory for KV blocks in use, which every layer streams as far as the promises allow, so "
     "that more sequences run at once (metronome); 0: no more than one context needs"},
    {"offload.record", OPTION_PATH, "", "", 0, 0, NULL, FIELD(offload_record),
     "file of what iterations cost here: read instead of measuring at the start, made anew if it is not there or was "
     "measured on something else; empty: always measured"},
    {"offload.percent", OPTION_FLOAT, "%", "0", 0, 100, NULL, FIELD(offload_percent),
     "share of the layers' weights in host memory (flexgen)"},
    {"offload.group", OPTION_INT, "layers", "0", 0, 65536, NULL, FIELD(offload_group),
     "of every so many layers the last are streamed (prefetch-group)"},
    {"offload.group_streamed", OPTION_INT, "layers", "1", 1, 65536, NULL, FIELD(offload_group_streamed),
     "how many of each group are streamed (prefetch-group)"},
    {"offload.prefetch", OPTION_INT, "layers", "1", 1, 65536, NULL, FIELD(offload_prefetch),
     "streamed layers to fetch ahead (prefetch-group)"},

    {"host", OPTION_STRING, "", "127.0.0.1", 0, 0, NULL, FIELD(host), "address to listen on"},
    {"port", OPTION_INT, "", "8080", 0, 65535, NULL, FIELD(port), "port to listen on; 0: any that is free"},
    {"port_file", OPTION_PATH, "", "", 0, 0, NULL, FIELD(port_file), "file to write the port to, once it is open"},
    {"api_key", OPTION_STRING, "", "", 0, 0, NULL, FIELD(api_key),
     "what /v1 asks for as a bearer token; empty: nothing"},
    {"api_key_file", OPTION_PATH, "", "", 0, 0, NULL, FIELD(api_key_file),
     "file whose first line is the api_key, so that it is on no command line"},
    {"max_connections", OPTION_INT, "", "1024", 1, 1048576, NULL, FIELD(max_connections),
     "open connections; one more is refused with 503"},
    {"max_header", OPTION_BYTES, "bytes", "16KiB", 256, MIB, NULL, FIELD(max_header), "a request's line and headers"},
    {"max_body", OPTION_BYTES, "bytes", "4MiB", KIB, GIB, NULL, FIELD(max_body), "a request's body"},
    {"request_timeout_s", OPTION_FLOAT, "s", "60", 0.05, 86400, NULL, FIELD(request_timeout_s),
     "for a client to send a whole request, from its first byte"},
    {"idle_timeout_s", OPTION_FLOAT, "s", "75", 0.05, 86400, NULL, FIELD(idle_timeout_s),
     "for a connection without a request, or with a response that its client does not read"},
    {"drain_timeout_s", OPTION_FLOAT, "s", "30", 0, 86400, NULL, FIELD(drain_timeout_s),
     "for requests in flight to end after SIGTERM"},
    {"max_response", OPTION_BYTES, "bytes", "64MiB", KIB, GIB, NULL, FIELD(max_response),
     "a response that is not streamed"},
    {"stream_buffer", OPTION_BYTES, "bytes", "1MiB", 4 * KIB, GIB, NULL, FIELD(stream_buffer),
     "how far a client may be behind with reading before it loses its request"},
    {"trace_file", OPTION_PATH, "", "", 0, 0, NULL, FIELD(trace_file),
     "file of what happened when, for Perfetto or chrome://tracing; at most 256 MiB; empty: none"},
    {"slo_log", OPTION_PATH, "", "", 0, 0, NULL, FIELD(slo_log),
     "file of requests and what became of their promises, a line each, for metronome explain --log; empty: none"},
    {"log_level", OPTION_CHOICE, "", "info", 0, 0, log_levels, FIELD(log_level), "least level that is logged"},
};

#define COUNT (sizeof options / sizeof options[0])
_Static_assert(COUNT <= OPTIONS_MAX, "struct config remembers a source for each option");

size_t option_count(void) {
    return COUNT;
}

const struct option *option_at(size_t index) {
    CHECK(index < COUNT);
    return &options[index];
}

static bool same_name(const char *typed, const char *name) {
    while (*typed && (*typed == *name || (*typed == '-' && *name == '_'))) {
        typed++;
        name++;
    }
    return *typed == *name;
}

const struct option *option_find(const char *name) {
    for (size_t i = 0; i < COUNT; i++) {
        if (same_name(name, options[i].name)) {
            return &options[i];
        }
    }
    return NULL;
}

const char *option_type_name(enum option_type type) {
    static const char *const names[] = {"string", "path", "choice", "int", "float", "bytes", "object"};
    return names[type];
}

/* ---- fields ---- */

static bool is_text(const struct option *option) {
    return option->type == OPTION_STRING || option->type == OPTION_PATH || option->type == OPTION_CHOICE ||
           option->type == OPTION_OBJECT;
}

static void *field_of(const struct config *config, const struct option *option) {
    return (char *)config + option->offset;
}

static struct status out_of_range(const struct option *option, const char *value) {
    char low[16], high[16];
    if (option->type == OPTION_BYTES) {
        bytes_format((uint64_t)option->minimum, low, sizeof low);
        bytes_format((uint64_t)option->maximum, high, sizeof high);
        return status_error(STATUS_INVALID, "%s: %s is out of range; allowed are %s to %s", option->name, value, low,
                            high);
    }
    return status_error(STATUS_INVALID, "%s: %s is out of range; allowed are %.10g to %.10g%s%s", option->name, value,
                        option->minimum, option->maximum, *option->unit ? " " : "", option->unit);
}

static bool in_range(const struct option *option, double value) {
    return value >= option->minimum && value <= option->maximum;
}

static struct status check_choice(const struct option *option, const char *value) {
    char known[128] = "";
    struct suggestion nearest = suggestion_for(value);
    for (size_t i = 0; option->choices[i]; i++) {
        if (strcmp(option->choices[i], value) == 0) {
            return STATUS_SUCCESS;
        }
        suggestion_offer(&nearest, option->choices[i]);
        strncat(known, i ? ", " : "", sizeof known - strlen(known) - 1);
        strncat(known, option->choices[i], sizeof known - strlen(known) - 1);
    }
    return status_error(STATUS_INVALID, "%s: \"%s\" is not one of %s%s%s%s", option->name, value, known,
                        nearest.best ? "; did you mean \"" : "", nearest.best ? nearest.best : "",
                        nearest.best ? "\"?" : "");
}

static struct status check_object(const struct option *option, const char *value) {
    static const struct json_rules rules = {.depth = 8, .values = 4096, .comments = true, .unique = true};
    cJSON *tree = NULL;
    TRY(status_context(json_parse(value, strlen(value), &rules, &tree), "%s", option->name));
    struct status status = cJSON_IsObject(tree) ? STATUS_SUCCESS
                                                : status_error(STATUS_INVALID, "%s: expected an object, found %s",
                                                               option->name, json_type_name(tree));
    cJSON_Delete(tree);
    return status;
}

static struct status set_text(struct config *config, const struct option *option, const char *value) {
    if (option->type == OPTION_CHOICE) {
        TRY(check_choice(option, value));
    }
    if (option->type == OPTION_OBJECT) {
        TRY(check_object(option, value));
    }
    char *copy = strdup(value);
    if (!copy) {
        return status_error(STATUS_NO_MEMORY, "%s: no memory for its value", option->name);
    }
    char **field = field_of(config, option);
    free(*field);
    *field = copy;
    return STATUS_SUCCESS;
}

static struct status set_int(struct config *config, const struct option *option, const char *value) {
    char *end;
    errno = 0;
    unsigned long long number = strtoull(value, &end, 10);
    if (end == value || *end || strspn(value, "0123456789") != strlen(value)) {
        double real = strtod(value, &end);
        if (end != value && *end == 0 && real < 0) {
            return out_of_range(option, value);
        }
        return status_error(STATUS_INVALID, "%s: \"%s\" is not a whole number", option->name, value);
    }
    if (errno == ERANGE || !in_range(option, (double)number)) {
        return out_of_range(option, value);
    }
    *(uint64_t *)field_of(config, option) = number;
    return STATUS_SUCCESS;
}

static struct status set_float(struct config *config, const struct option *option, const char *value) {
    char *end;
    double number = strtod(value, &end);
    if (end == value || *end || !isfinite(number)) {
        return status_error(STATUS_INVALID, "%s: \"%s\" is not a number", option->name, value);
    }
    if (!in_range(option, number)) {
        return out_of_range(option, value);
    }
    *(double *)field_of(config, option) = number;
    return STATUS_SUCCESS;
}

static struct status set_bytes(struct config *config, const struct option *option, const char *value) {
    uint64_t number;
    if (!bytes_parse(value, &number)) {
        return status_error(STATUS_INVALID,
                            "%s: \"%s\" is not a size; write a number of bytes or one with a unit, such as 512MiB",
                            option->name, value);
    }
    if (!in_range(option, (double)number)) {
        return out_of_range(option, value);
    }
    *(uint64_t *)field_of(config, option) = number;
    return STATUS_SUCCESS;
}

static struct status set_option(struct config *config, const struct option *option, const char *value,
                                enum option_source source) {
    struct status status = option->type == OPTION_INT     ? set_int(config, option, value)
                           : option->type == OPTION_FLOAT ? set_float(config, option, value)
                           : option->type == OPTION_BYTES ? set_bytes(config, option, value)
                                                          : set_text(config, option, value);
    if (status.code == STATUS_OK) {
        config->sources[option - options] = (uint8_t)source;
    }
    return status;
}

/* ---- a configuration ---- */

void config_init(struct config *config) {
    *config = (struct config){0};
    for (size_t i = 0; i < COUNT; i++) {
        struct status status = set_option(config, &options[i], options[i].fallback, SOURCE_DEFAULT);
        CHECK(status.code == STATUS_OK);
    }
}

void config_free(struct config *config) {
    for (size_t i = 0; i < COUNT; i++) {
        if (is_text(&options[i])) {
            char **field = field_of(config, &options[i]);
            free(*field);
            *field = NULL;
        }
    }
}

struct status config_set(struct config *config, const char *name, const char *value, enum option_source source) {
    const struct option *option = option_find(name);
    if (option) {
        return set_option(config, option, value, source);
    }
    struct suggestion nearest = suggestion_for(name);
    for (size_t i = 0; i < COUNT; i++) {
        suggestion_offer(&nearest, options[i].name);
    }
    if (nearest.best) {
        return status_error(STATUS_NOT_FOUND, "there is no option %s; did you mean %s?", name, nearest.best);
    }
    return status_error(STATUS_NOT_FOUND, "there is no option %s; `metronome config` lists them", name);
}

struct status config_overlay(struct config *to, const struct config *from) {
    struct status status = STATUS_SUCCESS;
    struct text value = {0};
    for (size_t i = 0; i < COUNT && status.code == STATUS_OK; i++) {
        if (from->sources[i] != SOURCE_DEFAULT) {
            text_clear(&value);
            config_write(from, &options[i], &value);
            const char *string = text_string(&value);
            status = string ? config_set(to, options[i].name, string, (enum option_source)from->sources[i])
                            : status_error(STATUS_NO_MEMORY, "%s: no memory for its value", options[i].name);
        }
    }
    text_free(&value);
    return status;
}

bool config_is_set(const struct config *config, const char *name) {
    const struct option *option = option_find(name);
    CHECK(option);
    return config->sources[option - options] != SOURCE_DEFAULT;
}

void config_write(const struct config *config, const struct option *option, struct text *out) {
    const void *field = field_of(config, option);
    if (option->type == OPTION_FLOAT) {
        text_addf(out, "%.17g", *(const double *)field);
    } else if (is_text(option)) {
        text_adds(out, *(char *const *)field);
    } else {
        text_addf(out, "%llu", (unsigned long long)*(const uint64_t *)field);
    }
}

static size_t field_bytes(const struct option *option) {
    return is_text(option) ? sizeof(char *) : option->type == OPTION_FLOAT ? sizeof(double) : sizeof(uint64_t);
}

bool config_same(const struct config *one, const struct config *other, const struct option *option) {
    const void *a = field_of(one, option), *b = field_of(other, option);
    return is_text(option) ? strcmp(*(char *const *)a, *(char *const *)b) == 0 : memcmp(a, b, field_bytes(option)) == 0;
}

void config_swap(struct config *one, struct config *other, const struct option *option) {
    char *a = field_of(one, option), *b = field_of(other, option), kept[sizeof(uint64_t)];
    const size_t bytes = field_bytes(option), row = (size_t)(option - options);
    memcpy(kept, a, bytes);
    memcpy(a, b, bytes);
    memcpy(b, kept, bytes);
    uint8_t source = one->sources[row];
    one->sources[row] = other->sources[row];
    other->sources[row] = source;
}

void config_show(const struct config *config, const struct option *option, struct text *out) {
    const void *field = field_of(config, option);
    char size[16];
    switch (option->type) {
    case OPTION_INT:
        text_addf(out, "%llu", (unsigned long long)*(const uint64_t *)field);
        break;
    case OPTION_FLOAT:
        text_addf(out, "%.10g", *(const double *)field);
        break;
    case OPTION_BYTES:
        text_adds(out, bytes_format(*(const uint64_t *)field, size, sizeof size));
        break;
    case OPTION_STRING:
    case OPTION_PATH:
    case OPTION_CHOICE:
    case OPTION_OBJECT: {
        const char *value = *(char *const *)field;
        text_adds(out, option->offset == FIELD(api_key) && *value ? "***" : value);
        break;
    }
    }
}

/* ---- what no single option can check ---- */

struct status config_check(const struct config *config) {
    if (*config->api_key && *config->api_key_file) {
        return status_error(STATUS_INVALID, "api_key and api_key_file: set one of them, not both");
    }
    struct link_schedule schedule;
    TRY(link_schedule_parse(config->link_schedule, &schedule));
    if (schedule.count > 0 && strcmp(config->device, "cuda") == 0) {
        return status_error(STATUS_INVALID, "link_schedule: the link of cuda is what it is; cpu and sim have a pace");
    }
    struct slo_classes classes;
    TRY(slo_config_read(config, &classes));
    for (uint32_t i = 0; i < classes.count; i++) {
        TRY(status_context(slo_check_range(config, &classes.items[i].promise), "class %s", classes.items[i].name));
    }
    bool prefetch_group = strcmp(config->offload_policy, "prefetch-group") == 0;
    if (prefetch_group && config->offload_group < config->offload_group_streamed) {
        return status_error(STATUS_INVALID,
                            "offload.group %llu: prefetch-group streams offload.group_streamed %llu of "
                            "them, which is more; set offload.group to at least that",
                            (unsigned long long)config->offload_group,
                            (unsigned long long)config->offload_group_streamed);
    }
    return STATUS_SUCCESS;
}
