/* Writing responses: status line and headers, whole bodies, streams. Threads: the event loop's only. */
#include "base/check.h"
#include "server/http_internal.h"

#include <string.h>

static const char *reason_phrase(int code) {
    static const struct {
        int code;
        const char *phrase;
    } phrases[] = {
        {200, "OK"},
        {400, "Bad Request"},
        {401, "Unauthorized"},
        {404, "Not Found"},
        {405, "Method Not Allowed"},
        {408, "Request Timeout"},
        {413, "Content Too Large"},
        {417, "Expectation Failed"},
        {429, "Too Many Requests"},
        {431, "Request Header Fields Too Large"},
        {500, "Internal Server Error"},
        {501, "Not Implemented"},
        {503, "Service Unavailable"},
        {505, "HTTP Version Not Supported"},
    };
    for (size_t i = 0; i < sizeof phrases / sizeof phrases[0]; i++) {
        if (phrases[i].code == code) {
            return phrases[i].phrase;
        }
    }
    return "Unknown";
}

static struct evbuffer *output_of(const struct http_exchange *exchange) {
    return bufferevent_get_output(exchange->connection->buffer);
}

void http_add_header(struct http_exchange *exchange, const char *name, const char *value) {
    text_addf(&exchange->headers, "%s: %s\r\n", name, value);
}

/* The status line and every header but the one that frames the body. */
static void write_head(struct http_exchange *exchange, int code, const char *content_type) {
    struct http_server *server = exchange->connection->server;
    struct evbuffer *output = output_of(exchange);
    exchange->close_after |= !exchange->head.keep_alive || server->draining;
    server->counts.responses[code / 100]++;
    char date[64];
    evutil_date_rfc1123(date, sizeof date, NULL);
    evbuffer_add_printf(output, "HTTP/1.1 %d %s\r\nDate: %s\r\nContent-Type: %s\r\nX-Request-Id: %s\r\n", code,
                        reason_phrase(code), date, content_type, exchange->request_id);
    if (exchange->close_after) {
        evbuffer_add_printf(output, "Connection: close\r\n");
    } else if (exchange->head.minor == 0) {
        evbuffer_add_printf(output, "Connection: keep-alive\r\n");
    }
    if (exchange->headers.bytes > 0) {
        evbuffer_add(output, exchange->headers.data, exchange->headers.bytes);
    }
}

void http_respond(struct http_exchange *exchange, int code, const char *content_type, const char *body, size_t bytes) {
    CHECK(exchange->connection->state == HANDLING && !exchange->streaming);
    write_head(exchange, code, content_type);
    struct evbuffer *output = output_of(exchange);
    evbuffer_add_printf(output, "Content-Length: %zu\r\n\r\n", bytes);
    if (exchange->head.method != HTTP_HEAD) {
        evbuffer_add(output, body, bytes);
    }
    exchange_end(exchange);
}

void http_stream_begin(struct http_exchange *exchange, int code, const char *content_type) {
    CHECK(exchange->connection->state == HANDLING && !exchange->streaming);
    exchange->streaming = true;
    exchange->chunked = exchange->head.minor >= 1;
    exchange->close_after |= !exchange->chunked; /* the end of the connection is then the end of the body */
    write_head(exchange, code, content_type);
    const char *framing = exchange->chunked ? "Transfer-Encoding: chunked\r\n\r\n" : "\r\n";
    evbuffer_add(output_of(exchange), framing, strlen(framing));
}

bool http_stream_write(struct http_exchange *exchange, const char *data, size_t bytes) {
    struct connection *connection = exchange->connection;
    CHECK(connection->state == HANDLING && exchange->streaming);
    if (bytes == 0) {
        return true; /* a chunk of none would end the stream */
    }
    struct evbuffer *output = output_of(exchange);
    bool held = !exchange->chunked || evbuffer_add_printf(output, "%zx\r\n", bytes) > 0;
    held = held && evbuffer_add(output, data, bytes) == 0;
    held = held && (!exchange->chunked || evbuffer_add(output, "\r\n", 2) == 0);
    bool behind = connection_unsent(connection) > connection->server->limits.stream_buffer;
    if (held && !behind) {
        return true;
    }
    connection->server->counts.slow_readers += behind;
    connection_drop(connection, false);
    return false;
}

void http_stream_end(struct http_exchange *exchange) {
    CHECK(exchange->connection->state == HANDLING && exchange->streaming);
    if (exchange->chunked) {
        evbuffer_add(output_of(exchange), "0\r\n\r\n", 5);
    }
    exchange_end(exchange);
}
