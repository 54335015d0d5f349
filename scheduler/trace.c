#include "scheduler/trace.h"

#include "base/check.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/random.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_LINE_BYTES (1U << 20)
#define MOONCAKE_PART_TOKENS 512
#define AZURE_HEADER "TIMESTAMP,ContextTokens,GeneratedTokens"

/* ---- growing ---- */

/* A trace under construction, and where its text stands. */
struct reading {
    struct trace *trace;
    uint32_t request_capacity, part_capacity;
    uint64_t line; /* counted from 1 */
};

static bool grow(void **array, uint32_t *capacity, uint32_t needed, size_t element_bytes) {
    if (needed <= *capacity) {
        return true;
    }
    uint32_t room = *capacity < 1024 ? 1024 : *capacity;
    while (room < needed) {
        room = room > UINT32_MAX / 2 ? UINT32_MAX : room * 2;
    }
    void *grown = realloc(*array, room * element_bytes);
    if (grown == NULL) {
        return false;
    }
    *array = grown;
    *capacity = room;
    return true;
}

static struct status add_request(struct reading *reading, const struct trace_request *request) {
    struct trace *trace = reading->trace;
    if (trace->count == TRACE_MAX_REQUESTS) {
        return status_error(STATUS_INVALID, "more than %u requests", TRACE_MAX_REQUESTS);
    }
    if (!grow((void **)&trace->requests, &reading->request_capacity, trace->count + 1, sizeof *request)) {
        return status_error(STATUS_NO_MEMORY, "no memory for %u requests", trace->count + 1);
    }
    trace->requests[trace->count++] = *request;
    return STATUS_SUCCESS;
}

static struct status add_part(struct reading *reading, uint64_t id) {
    struct trace *trace = reading->trace;
    if (trace->part_count == UINT32_MAX ||
        !grow((void **)&trace->parts, &reading->part_capacity, trace->part_count + 1, sizeof id)) {
        return status_error(STATUS_NO_MEMORY, "no memory for %u parts of prompts", trace->part_count);
    }
    trace->parts[trace->part_count++] = id;
    return STATUS_SUCCESS;
}

/* ---- Azure: 2023-11-16 18:15:46.6805900,374,44 ---- */

/* Reads `digits` digits; advances *at. */
static bool read_digits(const char **at, int digits, uint64_t *out) {
    *out = 0;
    for (int i = 0; i < digits; i++, (*at)++) {
        if (**at < '0' || **at > '9') {
            return false;
        }
        *out = *out * 10 + (uint64_t)(**at - '0');
    }
    return true;
}

static bool read_mark(const char **at, char mark) {
    return *(*at)++ == mark;
}

/* Days since 1970-01-01 of a date in the Gregorian calendar. */
static uint64_t days_of(uint64_t year, uint64_t month, uint64_t day) {
    year -= month <= 2;
    uint64_t shifted = month > 2 ? month - 3 : month + 9; /* years begin in March, so that the leap day ends one */
    uint64_t of_era = year % 400 * 365 + year % 400 / 4 - year % 400 / 100 + (153 * shifted + 2) / 5 + day - 1;
    return year / 400 * 146097 + of_era - 719468;
}

static bool read_time(const char **at, uint64_t *ns) {
    uint64_t year, month, day, hour, minute, second, fraction = 0, unit = NS_PER_S;
    if (!read_digits(at, 4, &year) || !read_mark(at, '-') || !read_digits(at, 2, &month) || !read_mark(at, '-') ||
        !read_digits(at, 2, &day) || !read_mark(at, ' ') || !read_digits(at, 2, &hour) || !read_mark(at, ':') ||
        !read_digits(at, 2, &minute) || !read_mark(at, ':') || !read_digits(at, 2, &second)) {
        return false;
    }
    if (**at == '.') {
        for ((*at)++; **at >= '0' && **at <= '9'; (*at)++) {
            unit /= 10; /* digits past the ninth count nothing */
            fraction += (uint64_t)(**at - '0') * unit;
        }
    }
    if (year < 1970 || year > 2200 || month < 1 || month > 12 || day < 1 || day > 31 || hour > 23 || minute > 59 ||
        second > 60) {
        return false;
    }
    *ns = ((days_of(year, month, day) * 24 + hour) * 60 + minute) * 60 * NS_PER_S + second * NS_PER_S + fraction;
    return true;
}

/* A count of tokens, up to TRACE_MAX_TOKENS. */
static bool read_count(const char **at, uint32_t *out) {
    uint64_t value = 0;
    const char *first = *at;
    for (; **at >= '0' && **at <= '9' && value <= TRACE_MAX_TOKENS; (*at)++) {
        value = value * 10 + (uint64_t)(**at - '0');
    }
    *out = (uint32_t)value;
    return *at > first && value <= TRACE_MAX_TOKENS;
}

static struct status read_azure_line(struct reading *reading, const char *line) {
    struct trace_request request = {0};
    const char *at = line;
    if (!read_time(&at, &request.arrival_ns)) {
        return status_error(STATUS_INVALID, "TIMESTAMP: \"%.32s\" is not like 2023-11-16 18:15:46.6805900", line);
    }
    if (!read_mark(&at, ',') || !read_count(&at, &request.prompt_tokens) || request.prompt_tokens == 0) {
        return status_error(STATUS_INVALID, "ContextTokens: is not a number from 1 to %u", TRACE_MAX_TOKENS);
    }
    if (!read_mark(&at, ',') || !read_count(&at, &request.output_tokens) || request.output_tokens == 0) {
        return status_error(STATUS_INVALID, "GeneratedTokens: is not a number from 1 to %u", TRACE_MAX_TOKENS);
    }
    if (*at != 0) {
        return status_error(STATUS_INVALID, "\"%.32s\" stands after the last column", at);
    }
    return add_request(reading, &request);
}

/* ---- Mooncake: {"timestamp": 0, "input_length": 6758, "output_length": 500, "hash_ids": [0, 1]} ---- */

static struct status read_number(const cJSON *object, const char *key, double least, double most, double *out) {
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, key);
    if (!cJSON_IsNumber(item) || !(item->valuedouble >= least && item->valuedouble <= most) ||
        item->valuedouble != floor(item->valuedouble)) {
        return status_error(STATUS_INVALID, "%s: is not a whole number from %.0f to %.0f", key, least, most);
    }
    *out = item->valuedouble;
    return STATUS_SUCCESS;
}

static struct status read_parts(struct reading *reading, const cJSON *ids, struct trace_request *request) {
    request->first_part = reading->trace->part_count;
    const cJSON *id;
    cJSON_ArrayForEach(id, ids) {
        if (!cJSON_IsNumber(id) || !(id->valuedouble >= 0 && id->valuedouble < 0x1p53)) {
            return status_error(STATUS_INVALID, "hash_ids: has an id that is not a whole number from 0 to 2^53");
        }
        TRY(add_part(reading, (uint64_t)id->valuedouble));
        request->part_count++;
    }
    if ((uint64_t)request->part_count * MOONCAKE_PART_TOKENS < request->prompt_tokens) {
        return status_error(STATUS_INVALID, "hash_ids: has %u ids of %u tokens each, and input_length is %u",
                            request->part_count, MOONCAKE_PART_TOKENS, request->prompt_tokens);
    }
    return STATUS_SUCCESS;
}

static struct status read_mooncake_object(struct reading *reading, const cJSON *object) {
    struct trace_request request = {0};
    double milliseconds = 0, prompt = 0, output = 0;
    if (!cJSON_IsObject(object)) {
        return status_error(STATUS_INVALID, "is not a JSON object");
    }
    TRY(read_number(object, "timestamp", 0, 1e12, &milliseconds));
    TRY(read_number(object, "input_length", 1, TRACE_MAX_TOKENS, &prompt));
    TRY(read_number(object, "output_length", 1, TRACE_MAX_TOKENS, &output));
    request.arrival_ns = (uint64_t)milliseconds * NS_PER_MS;
    request.prompt_tokens = (uint32_t)prompt;
    request.output_tokens = (uint32_t)output;
    const cJSON *ids = cJSON_GetObjectItemCaseSensitive(object, "hash_ids");
    if (ids != NULL) {
        if (!cJSON_IsArray(ids)) {
            return status_error(STATUS_INVALID, "hash_ids: is not an array");
        }
        TRY(read_parts(reading, ids, &request));
    }
    return add_request(reading, &request);
}

static struct status read_mooncake_line(struct reading *reading, const char *line) {
    static const struct json_rules rules = {.depth = 4, .values = MAX_LINE_BYTES / 2, .unique = true};
    cJSON *object = NULL;
    TRY(json_parse(line, strlen(line), &rules, &object));
    struct status status = read_mooncake_object(reading, object);
    cJSON_Delete(object);
    return status;
}

/* ---- files ---- */

static int by_arrival(const void *a, const void *b) {
    const struct trace_request *one = a, *other = b;
    if (one->arrival_ns != other->arrival_ns) {
        return one->arrival_ns < other->arrival_ns ? -1 : 1;
    }
    if (one->prompt_tokens != other->prompt_tokens) { /* of the same instant in an order that any sort gives */
        return one->prompt_tokens < other->prompt_tokens ? -1 : 1;
    }
    return one->output_tokens < other->output_tokens ? -1 : one->output_tokens > other->output_tokens;
}

/* In order of arrival, from 0 on. */
static void put_in_order(struct trace *trace) {
    bool ordered = true;
    for (uint32_t i = 1; i < trace->count && ordered; i++) {
        ordered = trace->requests[i].arrival_ns >= trace->requests[i - 1].arrival_ns;
    }
    if (!ordered) {
        qsort(trace->requests, trace->count, sizeof *trace->requests, by_arrival);
    }
    uint64_t first = trace->requests[0].arrival_ns;
    for (uint32_t i = 0; i < trace->count; i++) {
        trace->requests[i].arrival_ns -= first;
    }
}

static struct status read_lines(struct reading *reading, const char *text, size_t bytes, char *line) {
    struct status (*read_line)(struct reading *, const char *) = NULL;
    for (size_t begin = 0, end; begin < bytes; begin = end + 1) {
        const char *newline = memchr(text + begin, '\n', bytes - begin);
        end = newline ? (size_t)(newline - text) : bytes;
        size_t length = end - begin;
        length -= length > 0 && text[end - 1] == '\r';
        reading->line++;
        if (length >= MAX_LINE_BYTES || memchr(text + begin, 0, length)) {
            return status_error(STATUS_INVALID, "is longer than %u bytes, or not text", MAX_LINE_BYTES);
        }
        memcpy(line, text + begin, length);
        line[length] = 0;
        if (length == 0) {
            continue;
        }
        if (read_line == NULL) {
            bool azure = strcmp(line, AZURE_HEADER) == 0;
            if (!azure && line[0] != '{') {
                return status_error(STATUS_INVALID,
                                    "is neither the header %s (Azure's CSV) nor a JSON object (Mooncake's JSONL)",
                                    AZURE_HEADER);
            }
            read_line = azure ? read_azure_line : read_mooncake_line;
            if (azure) {
                continue;
            }
        }
        TRY(read_line(reading, line));
    }
    return STATUS_SUCCESS;
}

struct status trace_read(const char *text, size_t bytes, struct trace *out) {
    *out = (struct trace){.part_tokens = MOONCAKE_PART_TOKENS};
    struct reading reading = {.trace = out};
    char *line = malloc(MAX_LINE_BYTES);
    struct status status = line ? read_lines(&reading, text, bytes, line)
                                : status_error(STATUS_NO_MEMORY, "no memory for a line of %u bytes", MAX_LINE_BYTES);
    free(line);
    if (status_failed(&status)) {
        status = status_context(status, "line %llu", (unsigned long long)reading.line);
    } else if (out->count == 0) {
        status = status_error(STATUS_INVALID, "has no request");
    }
    if (status_failed(&status)) {
        trace_free(out);
        return status;
    }
    put_in_order(out);
    return STATUS_SUCCESS;
}

struct status trace_read_file(const char *path, struct trace *out) {
    *out = (struct trace){0};
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
    struct status status = trace_read(text, bytes, out);
    munmap(text, bytes);
    return status_context(status, "%.120s", path);
}

/* ---- drawing ---- */

/* A standard normal number, by Box and Muller. */
static double draw_normal(struct random_state *random) {
    double radius = sqrt(-2 * log(1 - random_unit(random)));
    return radius * cos(2 * M_PI * random_unit(random));
}

/* A gamma-distributed number of mean 1 (Marsaglia and Tsang 2000; below shape 1 by their power of a uniform). */
static double draw_gap(struct random_state *random, double shape) {
    double k = shape < 1 ? shape + 1 : shape, d = k - 1.0 / 3, c = 1 / sqrt(9 * d);
    for (;;) {
        double x = draw_normal(random), v = 1 + c * x;
        v = v * v * v;
        if (v > 0 && log(1 - random_unit(random)) < 0.5 * x * x + d - d * v + d * log(v)) {
            double power = shape < 1 ? pow(1 - random_unit(random), 1 / shape) : 1;
            return d * v * power / shape;
        }
    }
}

static uint32_t draw_length(struct random_state *random, uint32_t mean, double deviation) {
    if (deviation > 0) {
        double length = mean * exp(deviation * draw_normal(random) - deviation * deviation / 2);
        return length < 1 ? 1 : length < TRACE_MAX_TOKENS ? (uint32_t)(length + 0.5) : TRACE_MAX_TOKENS;
    }
    uint32_t least = mean / 2 > 0 ? mean / 2 : 1;
    return least + (uint32_t)random_below(random, (uint64_t)(mean - least) * 2 + 1);
}

struct status trace_draw(const struct trace_shape *shape, struct trace *out) {
    CHECK(shape->count > 0 && shape->count <= TRACE_MAX_REQUESTS && shape->rate >= 0.001 && shape->burstiness >= 0.01);
    CHECK(shape->prompt_tokens > 0 && shape->prompt_tokens <= TRACE_MAX_TOKENS / 2);
    CHECK(shape->output_tokens > 0 && shape->output_tokens <= TRACE_MAX_TOKENS / 2);
    CHECK(shape->prompt_deviation <= 2 && shape->output_deviation <= 2);
    *out = (struct trace){.part_tokens = MOONCAKE_PART_TOKENS, .seed = shape->seed};
    out->requests = calloc(shape->count, sizeof *out->requests);
    if (out->requests == NULL) {
        return status_error(STATUS_NO_MEMORY, "no memory for %u requests", shape->count);
    }
    struct random_state random;
    random_seed(&random, shape->seed);
    double seconds = 0;
    for (uint32_t i = 0; i < shape->count; i++) {
        out->requests[i] = (struct trace_request){
            .arrival_ns = (uint64_t)(seconds * 1e9),
            .prompt_tokens = draw_length(&random, shape->prompt_tokens, shape->prompt_deviation),
            .output_tokens = draw_length(&random, shape->output_tokens, shape->output_deviation)};
        seconds += draw_gap(&random, shape->burstiness) / shape->rate;
    }
    out->count = shape->count;
    return STATUS_SUCCESS;
}

void trace_free(struct trace *trace) {
    free(trace->requests);
    free(trace->parts);
    free(trace->promises);
    *trace = (struct trace){0};
}

/* ---- what is done with one ---- */

double trace_rate(const struct trace *trace) {
    uint64_t span = trace->requests[trace->count - 1].arrival_ns;
    return span > 0 ? (double)(trace->count - 1) * 1e9 / (double)span : 0;
}

void trace_keep(struct trace *trace, uint32_t count) {
    CHECK(count > 0);
    trace->count = count < trace->count ? count : trace->count;
}

void trace_prompt(const struct trace *trace, uint32_t index, uint32_t vocabulary, uint32_t *ids) {
    CHECK(index < trace->count && vocabulary > 0 && trace->part_tokens > 0);
    const struct trace_request *request = &trace->requests[index];
    uint64_t alone = random_hash(~trace->seed, index);
    for (uint32_t i = 0; i < request->prompt_tokens; i++) {
        uint32_t part = i / trace->part_tokens;
        uint64_t source =
            part < request->part_count ? random_hash(trace->seed, trace->parts[request->first_part + part]) : alone;
        uint32_t place = part < request->part_count ? i % trace->part_tokens : i;
        ids[i] = (uint32_t)(random_hash(source, place) % vocabulary);
    }
}
