#include "server/trace_file.h"

#include "base/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SPANS_AT_ONCE = 512, ENGINE_PROCESS = 1, REQUESTS_PROCESS = 2 };

struct trace_file {
    FILE *file;
    char *path;
    uint64_t begin_ns; /* times are counted from here; 0: nothing was written yet */
    uint64_t bytes;
    uint64_t dropped; /* spans, as was said in the log */
    bool ended;       /* no more is written */
    struct span spans[SPANS_AT_ONCE];
};

__attribute__((format(printf, 2, 3))) static void put(struct trace_file *trace, const char *format, ...) {
    if (trace->ended) {
        return;
    }
    va_list arguments;
    va_start(arguments, format);
    int bytes = vfprintf(trace->file, format, arguments);
    va_end(arguments);
    if (bytes < 0) {
        log_warn("trace_file %s: %s; it ends here", trace->path, strerror(errno));
        trace->ended = true;
    } else {
        trace->bytes += (uint64_t)bytes;
    }
}

struct status trace_file_open(const char *path, struct trace_file **out) {
    struct trace_file *trace = calloc(1, sizeof *trace);
    char *copy = strdup(path);
    if (!trace || !copy) {
        free(trace);
        free(copy);
        return status_error(STATUS_NO_MEMORY, "trace_file: no memory for its spans");
    }
    *trace = (struct trace_file){.path = copy, .file = fopen(path, "w")};
    if (!trace->file) {
        struct status status = status_error(STATUS_IO, "trace_file %s: %s", path, strerror(errno));
        free(copy);
        free(trace);
        return status;
    }
    static const char *const processes[] = {"engine", "requests"};
    put(trace, "[");
    for (int i = 0; i < 2; i++) {
        put(trace, "%s{\"ph\":\"M\",\"pid\":%d,\"name\":\"process_name\",\"args\":{\"name\":\"%s\"}}", i ? ",\n" : "\n",
            ENGINE_PROCESS + i, processes[i]);
    }
    put(trace, ",\n{\"ph\":\"M\",\"pid\":%d,\"tid\":1,\"name\":\"thread_name\",\"args\":{\"name\":\"iterations\"}}",
        ENGINE_PROCESS);
    *out = trace;
    return STATUS_SUCCESS;
}

static double us(const struct trace_file *trace, uint64_t ns) {
    return ns > trace->begin_ns ? (double)(ns - trace->begin_ns) / 1e3 : 0;
}

static void put_details(struct trace_file *trace, const struct span *span) {
    const unsigned long long count = span->count;
    switch (span->kind) {
    case SPAN_ITERATION:
        put(trace, ",\"args\":{\"rows\":%llu,\"prompt_rows\":%u,\"running\":%u}", count, span->detail, span->more);
        break;
    case SPAN_DEVICE:
        put(trace, ",\"args\":{\"weight_bytes_copied\":%llu}", count);
        break;
    case SPAN_REQUEST:
        put(trace, ",\"args\":{\"tokens\":%llu,\"late_tokens\":%u}", count, span->detail);
        break;
    case SPAN_PREFILL:
        put(trace, ",\"args\":{\"tokens\":%llu,\"from\":%u}", count, span->detail);
        break;
    case SPAN_DECODE:
        put(trace, ",\"args\":{\"token\":%llu}", count + 1);
        break;
    default:
        break;
    }
}

static void put_span(struct trace_file *trace, const struct span *span) {
    const bool request = span->request > 0;
    if (span->kind == SPAN_WAIT) { /* a request's first */
        put(trace,
            ",\n{\"ph\":\"M\",\"pid\":%d,\"tid\":%llu,\"name\":\"thread_name\",\"args\":{\"name\":\"request %llu\"}}",
            REQUESTS_PROCESS, (unsigned long long)span->request, (unsigned long long)span->request);
    }
    double begin = us(trace, span->begin_ns), end = us(trace, span->end_ns);
    put(trace, ",\n{\"ph\":\"X\",\"pid\":%d,\"tid\":%llu,\"name\":\"%s\",\"ts\":%.3f,\"dur\":%.3f",
        request ? REQUESTS_PROCESS : ENGINE_PROCESS, request ? (unsigned long long)span->request : 1,
        span_name(span->kind), begin, end > begin ? end - begin : 0);
    put_details(trace, span);
    put(trace, "}");
    if (span->kind == SPAN_DEVICE && span->count > 0) {
        put(trace, ",\n{\"ph\":\"C\",\"pid\":%d,\"name\":\"weights copied\",\"ts\":%.3f,\"args\":{\"MB\":%.3f}}",
            ENGINE_PROCESS, begin, (double)span->count / 1e6);
    }
}

/* The earliest time in a batch: spans come in the order of their ends. */
static uint64_t earliest(const struct span *spans, uint32_t count) {
    uint64_t least = UINT64_MAX;
    for (uint32_t i = 0; i < count; i++) {
        least = spans[i].begin_ns < least ? spans[i].begin_ns : least;
    }
    return least;
}

void trace_file_drain(struct trace_file *trace, struct engine *engine) {
    uint64_t dropped = 0;
    uint32_t count;
    bool drained = false;
    do {
        count = engine_timeline(engine, trace->spans, SPANS_AT_ONCE, &dropped);
        if (count > 0 && trace->begin_ns == 0) {
            trace->begin_ns = earliest(trace->spans, count);
        }
        drained = drained || count > 0;
        for (uint32_t i = 0; i < count && !trace->ended; i++) {
            put_span(trace, &trace->spans[i]);
        }
        if (!trace->ended && trace->bytes > TRACE_FILE_MOST) {
            log_warn("trace_file %s: it has %llu MiB and ends here", trace->path,
                     (unsigned long long)(TRACE_FILE_MOST >> 20));
            put(trace, "\n]\n");
            trace->ended = true;
        }
    } while (count == SPANS_AT_ONCE);
    if (dropped > trace->dropped) {
        log_warn("trace_file %s: %llu spans were lost, for more happened than could be written", trace->path,
                 (unsigned long long)(dropped - trace->dropped));
        trace->dropped = dropped;
    }
    if (!trace->ended && drained && fflush(trace->file) != 0) {
        log_warn("trace_file %s: %s; it ends here", trace->path, strerror(errno));
        trace->ended = true;
    }
}

void trace_file_close(struct trace_file *trace) {
    if (!trace) {
        return;
    }
    put(trace, "\n]\n");
    if (fclose(trace->file) != 0 && !trace->ended) {
        log_warn("trace_file %s: %s", trace->path, strerror(errno));
    }
    free(trace->path);
    free(trace);
}
