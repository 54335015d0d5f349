/* GET /debug/slo: why promises were missed lately, as JSON, or in words for who accepts text/plain. Threads: the event
 * loop's only. */
#include "server/api_error.h"
#include "server/explain.h"
#include "server/service.h"

#include <stdlib.h>
#include <string.h>

static bool wants_text(const struct http_exchange *exchange) {
    const struct http_slice *accept = http_find_header(http_request_head(exchange), "accept");
    return accept && memmem(accept->data, accept->bytes, "text/plain", strlen("text/plain")) != NULL;
}

static void explain_engine(const struct service *service, struct late_run *runs, struct explanation *out) {
    struct engine_stats stats;
    engine_stats(service->runtime.engine, &stats);
    *out = (struct explanation){.promised = stats.promised,
                                .kept = stats.kept,
                                .late_first = stats.late_first,
                                .late_later = stats.late_later,
                                .now_ns = device_now_ns(service->runtime.device)};
    memcpy(out->late_tokens, stats.late_tokens, sizeof out->late_tokens);
    struct explain_state state = explain_state_of(service->config, service->runtime.engine);
    uint32_t count = engine_late_runs(service->runtime.engine, runs, LATE_RUNS);
    explain_rank(runs, count, &state, out);
}

void api_debug_slo(struct service *service, struct http_exchange *exchange) {
    struct late_run *runs = calloc(LATE_RUNS, sizeof *runs);
    struct explanation *explanation = calloc(1, sizeof *explanation);
    struct text body = {0};
    if (!runs || !explanation) {
        struct api_error error = api_refusal(503, NULL, "there is no memory for the response");
        api_respond_error(exchange, &error);
    } else {
        explain_engine(service, runs, explanation);
        if (wants_text(exchange)) {
            explain_write_text(explanation, &body);
            http_respond(exchange, body.failed ? 503 : 200, "text/plain; charset=utf-8", body.failed ? "" : body.data,
                         body.failed ? 0 : body.bytes);
        } else {
            explain_write_json(explanation, &body);
            api_respond_json(exchange, &body);
        }
    }
    text_free(&body);
    free(explanation);
    free(runs);
}
