/* Fuzz target: any bytes as a trace of requests. What is accepted is in order and has prompts that can be written. */
#include "scheduler/trace.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    struct trace trace;
    struct status status = trace_read((const char *)data, bytes, &trace);
    if (status_failed(&status)) {
        if (status.message[0] == 0 || trace.requests) {
            abort(); /* a refusal says why and keeps nothing */
        }
        return 0;
    }
    uint32_t *ids = calloc(4096, sizeof *ids);
    for (uint32_t i = 0; ids && i < trace.count; i++) {
        if (i > 0 && trace.requests[i].arrival_ns < trace.requests[i - 1].arrival_ns) {
            abort();
        }
        if (trace.requests[i].prompt_tokens <= 4096) {
            trace_prompt(&trace, i, 97, ids);
        }
    }
    free(ids);
    trace_free(&trace);
    return 0;
}
