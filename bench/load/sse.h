/* Server-sent events out of a stream of bytes, as WHATWG's HTML has them (section 9.2.6, parsing an event stream).
 *
 * Owns: the line and the event that are begun and not ended, up to SSE_MOST_BYTES each. Knows nothing of what events
 * hold. Threads: one owner a parser. */
#ifndef METRONOME_BENCH_LOAD_SSE_H
#define METRONOME_BENCH_LOAD_SSE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SSE_MOST_BYTES (1U << 20) /* of a line, and of an event's data */

struct sse_bytes {
    char *data; /* (capacity), owned */
    size_t bytes, capacity;
};

struct sse_parser {
    struct sse_bytes line; /* begun in an earlier piece; empty while lines end within one */
    struct sse_bytes data; /* of the event so far, with a newline after each of its lines */
    bool named_error;      /* the event is called "error" */
    bool after_return;     /* the last byte was \r: a \n that follows belongs to it */
    bool begun;            /* a byte-order mark may stand at the very beginning only */
    uint32_t strays;       /* lines that are none of an event stream: no known field, no comment */
};

/* One whole event. `data` is borrowed until the call returns and is never empty; `named_error` is said of an event with
 * the line "event: error". */
typedef void sse_event_fn(void *context, const char *data, size_t bytes, bool named_error);

/* Takes the next piece of the stream and calls `event` for every event that ends in it. False: a line or an event is
 * longer than SSE_MOST_BYTES, or memory is short; only sse_reset() and sse_free() may follow. */
bool sse_feed(struct sse_parser *parser, const char *piece, size_t bytes, sse_event_fn *event, void *context);

/* Whether the stream could end here: no line and no event is begun. */
bool sse_at_rest(const struct sse_parser *parser);

/* Makes it ready for another stream and keeps its memory. A parser of zeros is ready, too. */
void sse_reset(struct sse_parser *parser);
void sse_free(struct sse_parser *parser);

#endif
