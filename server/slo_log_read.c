/* Reading the log: bytes that anybody may have written. */
#include "server/slo_log.h"

#include "base/json.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define MOST_LINE_BYTES 65536
#define MOST_MS 1e12 /* 30 years */

static const struct json_rules rules = {.depth = 4, .values = 512, .unique = true};

/* ---- fields ---- */

static struct status wrong(const char *name, const char *wanted) {
    return status_error(STATUS_INVALID, "%s: expected %s", name, wanted);
}

static struct status read_number(const cJSON *object, const char *name, double most, bool whole, double *out) {
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, name);
    *out = cJSON_IsNumber(item) ? item->valuedouble : -1;
    if (!(*out >= 0 && *out <= most) || (whole && *out != floor(*out))) {
        return status_error(STATUS_INVALID, "%s: expected a %snumber from 0 to %.15g", name, whole ? "whole " : "",
                            most);
    }
    return STATUS_SUCCESS;
}

static struct status read_count(const cJSON *object, const char *name, double most, uint32_t *out) {
    double number;
    TRY(read_number(object, name, most, true, &number));
    *out = (uint32_t)number;
    return STATUS_SUCCESS;
}

static struct status read_ms(const cJSON *object, const char *name, uint64_t *ns) {
    double number;
    TRY(read_number(object, name, MOST_MS, false, &number));
    *ns = (uint64_t)(number * 1e6 + 0.5);
    return STATUS_SUCCESS;
}

static struct status read_finish(const cJSON *object, enum finish_reason *out) {
    const char *text = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(object, "finish"));
    *out = FINISH_NONE;
    if (text && strcmp(text, "refused") == 0) {
        return STATUS_SUCCESS;
    }
    for (int reason = FINISH_STOP; text && reason <= FINISH_ERROR; reason++) {
        if (strcmp(text, finish_reason_name((enum finish_reason)reason)) == 0) {
            *out = (enum finish_reason)reason;
            return STATUS_SUCCESS;
        }
    }
    return wrong("finish", "stop, length, abort, error or refused");
}

/* {"queue": 1.5}: numbers by cause. */
static struct status read_by_cause(const cJSON *object, const char *name, double most, double out[CAUSES],
                                   double *planned) {
    const cJSON *item, *causes = cJSON_GetObjectItemCaseSensitive(object, name);
    if (!cJSON_IsObject(causes)) {
        return wrong(name, "an object with numbers by cause");
    }
    memset(out, 0, CAUSES * sizeof *out);
    *planned = 0;
    cJSON_ArrayForEach(item, causes) {
        enum cause cause = cause_named(item->string);
        bool is_planned = cause == CAUSES && strcmp(item->string, "planned_copies") == 0;
        if (cause == CAUSES && !is_planned) {
            return status_error(STATUS_INVALID, "%s: there is no cause \"%.40s\"", name, item->string);
        }
        if (!cJSON_IsNumber(item) || !(item->valuedouble >= 0 && item->valuedouble <= most)) {
            return status_error(STATUS_INVALID, "%s: %.40s: expected a number from 0 on", name, item->string);
        }
        *(is_planned ? planned : &out[cause]) = item->valuedouble;
    }
    return STATUS_SUCCESS;
}

static struct status read_worst(const cJSON *line, struct slo_log_request *request) {
    struct late_run *worst = &request->worst;
    double by[CAUSES], planned;
    uint64_t window_ns;
    const char *cause = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(line, "cause"));
    worst->cause = cause ? cause_named(cause) : CAUSES;
    if (worst->cause == CAUSES) {
        return wrong("cause", "the name of a cause");
    }
    TRY(read_ms(line, "late_ms", &worst->late_ns));
    TRY(read_ms(line, "window_ms", &window_ns));
    TRY(read_count(line, "late_token", TRACE_MAX_TOKENS, &worst->first_token));
    TRY(read_count(line, "running", UINT32_MAX, &worst->running));
    TRY(read_count(line, "waiting", UINT32_MAX, &worst->waiting));
    TRY(read_count(line, "kv_blocks_free", UINT32_MAX, &worst->kv_blocks_free));
    TRY(read_by_cause(line, "late_by", TRACE_MAX_TOKENS, by, &planned));
    for (int i = 0; i < CAUSES; i++) {
        request->late_by[i] = (uint32_t)by[i];
    }
    TRY(read_by_cause(line, "spent_ms", MOST_MS, by, &planned));
    for (int i = 0; i < CAUSES; i++) {
        worst->spent.ns[i] = (uint64_t)(by[i] * 1e6 + 0.5);
    }
    worst->spent.planned_ns = (uint64_t)(planned * 1e6 + 0.5);
    worst->latest_token = worst->first_token;
    worst->request = request->id;
    worst->tokens = request->late_tokens;
    worst->begin_ns = request->arrival_ns;
    worst->at_ns = request->arrival_ns + window_ns;
    worst->ttft_ns = request->promise.ttft_ns;
    worst->tpot_ns = request->promise.tpot_ns;
    return STATUS_SUCCESS;
}

static struct status read_request(const cJSON *line, struct slo_log_request *out) {
    double id;
    *out = (struct slo_log_request){0};
    TRY(read_number(line, "id", 0x1.0p53, true, &id));
    out->id = (uint64_t)id;
    TRY(read_ms(line, "arrival_ms", &out->arrival_ns));
    TRY(read_count(line, "prompt_tokens", TRACE_MAX_TOKENS, &out->prompt_tokens));
    TRY(read_count(line, "output_tokens", TRACE_MAX_TOKENS, &out->output_tokens));
    TRY(read_ms(line, "ttft_ms", &out->promise.ttft_ns));
    TRY(read_ms(line, "tpot_ms", &out->promise.tpot_ns));
    TRY(read_finish(line, &out->finish));
    TRY(read_count(line, "late_tokens", TRACE_MAX_TOKENS, &out->late_tokens));
    if (cJSON_HasObjectItem(line, "first_ms")) {
        uint64_t first_ns;
        TRY(read_ms(line, "first_ms", &first_ns));
        out->late_first = out->promise.ttft_ns > 0 && first_ns > out->promise.ttft_ns;
    }
    return out->late_tokens > 0 ? read_worst(line, out) : STATUS_SUCCESS;
}

static struct status read_head(const cJSON *line, struct slo_log *out) {
    double version, bytes;
    const cJSON *option, *options = cJSON_GetObjectItemCaseSensitive(line, "options");
    struct status status = read_number(line, "metronome_slo_log", 1, true, &version);
    if (status_failed(&status) || version != 1) {
        return status_error(STATUS_INVALID, "it does not begin as a file of slo_log does");
    }
    TRY(read_count(line, "kv_blocks", UINT32_MAX, &out->state.kv_blocks));
    TRY(read_number(line, "weight_bytes_host", 0x1.0p53, true, &bytes));
    out->state.weight_bytes_host = (uint64_t)bytes;
    if (!cJSON_IsObject(options)) {
        return wrong("options", "an object");
    }
    cJSON_ArrayForEach(option, options) {
        if (!cJSON_IsString(option)) {
            return status_error(STATUS_INVALID, "options: %.60s: expected a string", option->string);
        }
        TRY(status_context(config_set(&out->config, option->string, option->valuestring, SOURCE_FILE), "options"));
    }
    return STATUS_SUCCESS;
}

/* ---- lines ---- */

static struct status add_request(struct slo_log *log, const struct slo_log_request *request, uint32_t *capacity) {
    if (log->count == *capacity) {
        uint32_t wanted = *capacity > 0 ? *capacity * 2 : 256;
        struct slo_log_request *grown =
            *capacity < SLO_LOG_MAX_REQUESTS ? realloc(log->requests, wanted * sizeof *grown) : NULL;
        if (!grown) {
            return status_error(STATUS_NO_MEMORY, "there is no room for more than %u requests", log->count);
        }
        log->requests = grown;
        *capacity = wanted;
    }
    log->requests[log->count++] = *request;
    return STATUS_SUCCESS;
}

static struct status read_line(const char *text, size_t bytes, bool first, struct slo_log *log, uint32_t *capacity) {
    cJSON *line = NULL;
    struct slo_log_request request;
    if (bytes > MOST_LINE_BYTES) {
        return status_error(STATUS_INVALID, "it is longer than %d bytes", MOST_LINE_BYTES);
    }
    TRY(json_parse(text, bytes, &rules, &line));
    struct status status = !cJSON_IsObject(line) ? status_error(STATUS_INVALID, "expected an object")
                           : first               ? read_head(line, log)
                                                 : read_request(line, &request);
    cJSON_Delete(line);
    return status.code != STATUS_OK || first ? status : add_request(log, &request, capacity);
}

static struct status read_lines(const char *text, size_t bytes, struct slo_log *out) {
    uint32_t capacity = 0, number = 0;
    const char *end = text + bytes;
    while (text < end) {
        const char *newline = memchr(text, '\n', (size_t)(end - text));
        if (!newline && number > 0) {
            break; /* whoever wrote it was stopped in the middle of a line */
        }
        size_t length = (size_t)((newline ? newline : end) - text);
        TRY(status_context(read_line(text, length, number == 0, out, &capacity), "line %u", number + 1));
        number++;
        text += length + 1;
    }
    return number > 0 ? STATUS_SUCCESS : status_error(STATUS_INVALID, "it is empty");
}

static int by_arrival(const void *a, const void *b) {
    const struct slo_log_request *one = a, *other = b;
    return one->arrival_ns != other->arrival_ns ? (one->arrival_ns < other->arrival_ns ? -1 : 1)
           : one->id != other->id               ? (one->id < other->id ? -1 : 1)
                                                : 0;
}

struct status slo_log_read(const char *text, size_t bytes, struct slo_log *out) {
    *out = (struct slo_log){0};
    config_init(&out->config);
    struct status status = read_lines(text, bytes, out);
    if (status_failed(&status)) {
        slo_log_free(out);
        return status;
    }
    if (out->count > 0) {
        qsort(out->requests, out->count, sizeof *out->requests, by_arrival);
    }
    return STATUS_SUCCESS;
}

struct status slo_log_read_file(const char *path, struct slo_log *out) {
    *out = (struct slo_log){0};
    int file = open(path, O_RDONLY | O_CLOEXEC);
    struct stat info;
    if (file < 0 || fstat(file, &info) != 0) {
        struct status status = status_error(STATUS_IO, "%.120s: %s", path, strerror(errno));
        if (file >= 0) {
            close(file);
        }
        return status;
    }
    size_t bytes = S_ISREG(info.st_mode) && info.st_size > 0 ? (size_t)info.st_size : 0;
    void *text = bytes > 0 ? mmap(NULL, bytes, PROT_READ, MAP_PRIVATE, file, 0) : MAP_FAILED;
    close(file);
    if (text == MAP_FAILED) {
        return status_error(STATUS_INVALID, "%.120s: is empty, or not a file", path);
    }
    struct status status = slo_log_read(text, bytes, out);
    munmap(text, bytes);
    return status_context(status, "%.120s", path);
}

void slo_log_free(struct slo_log *log) {
    config_free(&log->config);
    free(log->requests);
    *log = (struct slo_log){0};
}

/* ---- what is made of it ---- */

static bool is_promised(const struct promise *promise) {
    return promise->ttft_ns > 0 || promise->tpot_ns > 0;
}

struct status slo_log_trace(const struct slo_log *log, struct trace *out) {
    const struct promise usual = {.ttft_ns = (uint64_t)(log->config.slo_ttft_ms * 1e6 + 0.5),
                                  .tpot_ns = (uint64_t)(log->config.slo_tpot_ms * 1e6 + 0.5)};
    *out = (struct trace){.part_tokens = 1, .seed = log->config.seed};
    if (log->count == 0) {
        return status_error(STATUS_INVALID, "the log has no request");
    }
    out->requests = calloc(log->count, sizeof *out->requests);
    out->promises = calloc(log->count, sizeof *out->promises);
    if (!out->requests || !out->promises) {
        trace_free(out);
        return status_error(STATUS_NO_MEMORY, "no memory for %u requests", log->count);
    }
    for (uint32_t i = 0; i < log->count; i++) {
        const struct slo_log_request *request = &log->requests[i];
        out->requests[i].arrival_ns = request->arrival_ns - log->requests[0].arrival_ns;
        out->requests[i].prompt_tokens = request->prompt_tokens > 0 ? request->prompt_tokens : 1;
        out->requests[i].output_tokens = request->output_tokens > 0 ? request->output_tokens : 1;
        out->promises[i] = (struct trace_promise){.own = request->promise.ttft_ns != usual.ttft_ns ||
                                                         request->promise.tpot_ns != usual.tpot_ns,
                                                  .ttft_ns = request->promise.ttft_ns,
                                                  .tpot_ns = request->promise.tpot_ns};
    }
    out->count = log->count;
    return STATUS_SUCCESS;
}

static void count_request(const struct slo_log_request *request, struct explanation *out) {
    bool whole = request->finish == FINISH_STOP || request->finish == FINISH_LENGTH;
    for (int i = 0; i < CAUSES; i++) {
        out->late_tokens[i] += request->late_by[i];
    }
    if (whole && is_promised(&request->promise)) {
        out->promised++;
        out->kept += request->late_tokens == 0;
        out->late_first += request->late_first;
        out->late_later += request->late_tokens > request->late_first;
    }
}

struct status slo_log_explain(const struct slo_log *log, struct explanation *out) {
    struct late_run *runs = calloc((size_t)log->count + 1, sizeof *runs);
    uint32_t count = 0;
    if (!runs) {
        return status_error(STATUS_NO_MEMORY, "no memory for what came late of %u requests", log->count);
    }
    *out = (struct explanation){0};
    for (uint32_t i = log->count; i > 0; i--) {
        count_request(&log->requests[i - 1], out);
        if (log->requests[i - 1].late_tokens > 0) {
            runs[count++] = log->requests[i - 1].worst;
        }
    }
    struct explain_state state = log->state;
    state.config = &log->config;
    explain_rank(runs, count, &state, out);
    free(runs);
    return STATUS_SUCCESS;
}
