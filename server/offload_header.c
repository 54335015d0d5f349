#include "server/offload_header.h"

#include "base/clock.h"

bool offload_header_asked(const struct http_head *head) {
    const struct http_slice *value = http_find_header(head, "x-metronome-offload");
    return value && http_slice_equals(*value, "1");
}

static void add_ms(struct text *out, const char *key, uint64_t ns) {
    text_addf(out, ", %s=%.3f", key, (double)ns / (double)NS_PER_MS);
}

void offload_header_write(const struct offload_report *report, struct text *out) {
    text_addf(out, "policy=%s, why=%s, layers=%u, layers_host=%.3f, interval=%.3f", report->policy, report->why,
              report->layers, (double)report->streamed_slabs / report->slabs, report->interval);
    text_addf(out, ", bytes_host=%zu, bytes_streamed=%llu", report->weight_bytes_host,
              (unsigned long long)report->bytes_streamed);
    if (report->deadline_ns != UINT64_MAX && report->deadline_ns > 0) {
        add_ms(out, "deadline_ms", report->deadline_ns);
    }
    add_ms(out, "predicted_ms", report->predicted_ns);
    add_ms(out, "measured_ms", report->measured_ns);
    add_ms(out, "stall_ms", report->stall_ns);
}
