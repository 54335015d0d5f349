/* Fuzz target: any bytes as a log of promises. What is accepted is in order, can be explained and makes a trace. */
#include "server/slo_log.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static void must_be_explained(const struct slo_log *log) {
    struct explanation *explanation = calloc(1, sizeof *explanation);
    struct text text = {0};
    if (!explanation || slo_log_explain(log, explanation).code != STATUS_OK) {
        abort();
    }
    explain_write_json(explanation, &text);
    explain_write_text(explanation, &text);
    text_free(&text);
    free(explanation);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    struct slo_log log;
    struct status status = slo_log_read((const char *)data, bytes, &log);
    if (status_failed(&status)) {
        if (status.message[0] == 0 || log.requests) {
            abort(); /* a refusal says why and keeps nothing */
        }
        return 0;
    }
    for (uint32_t i = 1; i < log.count; i++) {
        if (log.requests[i].arrival_ns < log.requests[i - 1].arrival_ns) {
            abort();
        }
    }
    must_be_explained(&log);
    struct trace trace;
    status = slo_log_trace(&log, &trace);
    if (status_failed(&status) != (log.count == 0)) {
        abort();
    }
    if (!status_failed(&status)) {
        trace_free(&trace);
    }
    slo_log_free(&log);
    return 0;
}
