#include "bench/load/sse.h"

#include <stdlib.h>
#include <string.h>

static bool append(struct sse_bytes *to, const char *data, size_t bytes) {
    if (bytes > SSE_MOST_BYTES - to->bytes) {
        return false;
    }
    size_t needed = to->bytes + bytes;
    if (needed > to->capacity) {
        size_t room = to->capacity ? to->capacity : 1024;
        while (room < needed) {
            room *= 2;
        }
        char *grown = realloc(to->data, room);
        if (grown == NULL) {
            return false;
        }
        to->data = grown;
        to->capacity = room;
    }
    if (bytes > 0) {
        memcpy(to->data + to->bytes, data, bytes);
    }
    to->bytes = needed;
    return true;
}

static bool is_field(const char *line, size_t name_bytes, const char *name) {
    return strlen(name) == name_bytes && memcmp(line, name, name_bytes) == 0;
}

/* One line without its end. */
static bool take_line(struct sse_parser *parser, const char *line, size_t bytes, sse_event_fn *event, void *context) {
    if (bytes == 0) {
        if (parser->data.bytes > 1) { /* less the newline after its last line; an empty one is no event */
            event(context, parser->data.data, parser->data.bytes - 1, parser->named_error);
        }
        parser->data.bytes = 0;
        parser->named_error = false;
        return true;
    }
    if (line[0] == ':') {
        return true;
    }
    const char *colon = memchr(line, ':', bytes);
    size_t name_bytes = colon ? (size_t)(colon - line) : bytes;
    const char *value = colon ? colon + 1 : line + bytes;
    size_t value_bytes = (size_t)(line + bytes - value);
    if (value_bytes > 0 && *value == ' ') {
        value++;
        value_bytes--;
    }
    if (is_field(line, name_bytes, "data")) {
        return append(&parser->data, value, value_bytes) && append(&parser->data, "\n", 1);
    }
    if (is_field(line, name_bytes, "event")) {
        parser->named_error = is_field(value, value_bytes, "error");
    } else if (!is_field(line, name_bytes, "id") && !is_field(line, name_bytes, "retry")) {
        parser->strays++;
    }
    return true;
}

static const char *find_end(const char *at, const char *end) {
    while (at < end && *at != '\n' && *at != '\r') {
        at++;
    }
    return at;
}

/* The line from `at` to `end`, and what was kept of it. */
static bool end_line(struct sse_parser *parser, const char *at, const char *end, sse_event_fn *event, void *context) {
    static const char mark[] = "\xEF\xBB\xBF";
    size_t bytes = (size_t)(end - at);
    if (parser->line.bytes > 0) {
        if (!append(&parser->line, at, bytes)) {
            return false;
        }
        at = parser->line.data;
        bytes = parser->line.bytes;
        parser->line.bytes = 0; /* its bytes stay where they are until the next piece */
    }
    if (!parser->begun && bytes >= 3 && memcmp(at, mark, 3) == 0) {
        at += 3;
        bytes -= 3;
    }
    parser->begun = true;
    return take_line(parser, at, bytes, event, context);
}

bool sse_feed(struct sse_parser *parser, const char *piece, size_t bytes, sse_event_fn *event, void *context) {
    const char *at = piece, *end = piece + bytes;
    if (at < end && parser->after_return) {
        at += *at == '\n';
        parser->after_return = false;
    }
    while (at < end) {
        const char *stop = find_end(at, end);
        if (stop == end) {
            return append(&parser->line, at, (size_t)(end - at));
        }
        if (!end_line(parser, at, stop, event, context)) {
            return false;
        }
        at = stop + 1;
        if (*stop == '\r') {
            parser->after_return = at == end;
            at += at < end && *at == '\n';
        }
    }
    return true;
}

bool sse_at_rest(const struct sse_parser *parser) {
    return parser->line.bytes == 0 && parser->data.bytes == 0;
}

void sse_reset(struct sse_parser *parser) {
    struct sse_bytes line = parser->line, data = parser->data;
    line.bytes = data.bytes = 0;
    *parser = (struct sse_parser){.line = line, .data = data};
}

void sse_free(struct sse_parser *parser) {
    free(parser->line.data);
    free(parser->data.data);
    *parser = (struct sse_parser){0};
}
