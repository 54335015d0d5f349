/* Fuzz target: any bytes as a stream of server-sent events that a server under load sends. In whatever pieces they
 * come, the events are the same; and whatever an event holds, reading it as a chunk of an answer ends. The first byte
 * says how long the pieces are. */
#include "base/check.h"
#include "base/random.h"
#include "bench/load/sse.h"
#include "bench/load/stream_event.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

struct seen {
    uint64_t events, hash;
};

static void take(void *context, const char *data, size_t bytes, bool named_error) {
    struct seen *seen = context;
    CHECK(bytes > 0);
    seen->events++;
    seen->hash = random_hash(seen->hash, bytes + (named_error ? 1U << 30 : 0));
    for (size_t i = 0; i < bytes; i++) {
        seen->hash = random_hash(seen->hash, (unsigned char)data[i]);
    }
    struct stream_event event = stream_event_read(data, bytes);
    CHECK(event.kind <= EVENT_BROKEN);
    CHECK(event.kind == EVENT_TOKEN || event.kind == EVENT_EMPTY || (!event.finished && !event.has_usage));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    if (bytes == 0) {
        return 0;
    }
    struct sse_parser whole = {0}, pieces = {0};
    struct seen at_once = {0}, in_pieces = {0};
    size_t step = data[0] % 17 + 1;
    const char *text = (const char *)data + 1;
    CHECK(sse_feed(&whole, text, bytes - 1, take, &at_once));
    for (size_t at = 0; at < bytes - 1; at += step) {
        size_t length = bytes - 1 - at < step ? bytes - 1 - at : step;
        CHECK(sse_feed(&pieces, text + at, length, take, &in_pieces));
    }
    CHECK(at_once.events == in_pieces.events && at_once.hash == in_pieces.hash);
    CHECK(whole.strays == pieces.strays && sse_at_rest(&whole) == sse_at_rest(&pieces));
    sse_free(&whole);
    sse_free(&pieces);
    return 0;
}
