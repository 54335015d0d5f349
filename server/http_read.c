/* Reading requests: a head, a body, the handler's turn, and whatever goes wrong on the way.
 *
 * Owns: the states of a connection up to its response. Threads: the event loop's only. */
#include "base/clock.h"
#include "server/http_internal.h"

#include <string.h>

#define BODIES_AT_ONCE 16 /* of the largest size, held for all connections together */

static void begin_exchange(struct connection *connection) {
    connection->state = HANDLING;
    connection->exchange.arrival_ns = clock_now_ns();
    connection_set_deadline(connection, 0);
}

static void refuse(struct connection *connection, struct http_fault fault) {
    const struct http_handler *handler = &connection->server->handler;
    struct http_exchange *exchange = &connection->exchange;
    begin_exchange(connection);
    exchange->close_after = true;
    handler->refuse(handler->context, exchange, fault.code, fault.message);
}

static void set_request_id(struct http_exchange *exchange) {
    struct http_server *server = exchange->connection->server;
    const struct http_slice *given = http_find_header(&exchange->head, "x-request-id");
    bool usable = given && given->bytes > 0 && given->bytes <= HTTP_REQUEST_ID_BYTES;
    for (size_t i = 0; usable && i < given->bytes; i++) {
        usable = given->data[i] > ' ' && given->data[i] < 0x7f;
    }
    if (usable) {
        memcpy(exchange->request_id, given->data, given->bytes);
        exchange->request_id[given->bytes] = 0;
    } else {
        http_new_id(server, exchange->request_id);
    }
}

/* Drops empty lines before a request, as RFC 9112 asks. */
static void skip_empty_lines(struct evbuffer *input) {
    char bytes[2];
    while (evbuffer_copyout(input, bytes, 2) == 2 && bytes[0] == '\r' && bytes[1] == '\n') {
        evbuffer_drain(input, 2);
    }
}

static struct http_fault copy_head(struct http_exchange *exchange, struct evbuffer *input, size_t bytes) {
    const unsigned char *data = evbuffer_pullup(input, (ev_ssize_t)bytes);
    text_clear(&exchange->head_bytes);
    if (data) {
        text_add(&exchange->head_bytes, (const char *)data, bytes);
    }
    evbuffer_drain(input, bytes);
    return data && !exchange->head_bytes.failed
               ? http_parse_head(exchange->head_bytes.data, exchange->head_bytes.bytes, &exchange->head)
               : (struct http_fault){503, "there is no memory for the request"};
}

/* Takes a whole head from the input; false if more must come, or the request has been refused. */
static bool take_head(struct connection *connection) {
    const struct http_limits *limits = &connection->server->limits;
    struct http_exchange *exchange = &connection->exchange;
    struct evbuffer *input = bufferevent_get_input(connection->buffer);
    skip_empty_lines(input);
    size_t held = evbuffer_get_length(input);
    if (held > 0 && !connection->request_begun) {
        connection->request_begun = true;
        connection_set_deadline(connection, limits->request_timeout_s);
    }
    struct evbuffer_ptr end = evbuffer_search(input, "\r\n\r\n", 4, NULL);
    size_t bytes = end.pos < 0 ? held : (size_t)end.pos + 4;
    bool too_large = bytes > limits->max_header;
    if (end.pos < 0 && !too_large) {
        return false;
    }
    exchange->close_after = false;
    exchange->head = (struct http_head){.method = HTTP_OTHER, .minor = 1};
    struct http_fault fault =
        too_large ? (struct http_fault){431, "the request's line and headers are larger than max_header"}
                  : copy_head(exchange, input, bytes);
    set_request_id(exchange);
    if (fault.code == 0 && exchange->head.content_length > limits->max_body) {
        fault = (struct http_fault){413, "the request's body is larger than max_body"};
    }
    if (fault.code) {
        refuse(connection, fault);
        return false;
    }
    return true;
}

static bool begin_body(struct connection *connection) {
    struct http_exchange *exchange = &connection->exchange;
    connection->state = READING_BODY;
    exchange->chunks = (struct http_chunks){0};
    exchange->body = evbuffer_new();
    if (!exchange->body) {
        refuse(connection, (struct http_fault){503, "there is no memory for the request"});
        return false;
    }
    bool comes = exchange->head.chunked || exchange->head.content_length > 0;
    if (exchange->head.expects_continue && comes) {
        static const char go_on[] = "HTTP/1.1 100 Continue\r\n\r\n";
        bufferevent_write(connection->buffer, go_on, sizeof go_on - 1);
    }
    return true;
}

static struct http_fault check_body(const struct connection *connection, size_t more) {
    const struct http_server *server = connection->server;
    if (evbuffer_get_length(connection->exchange.body) + more > server->limits.max_body) {
        return (struct http_fault){413, "the request's body is larger than max_body"};
    }
    if (server->body_bytes + more > BODIES_AT_ONCE * server->limits.max_body) {
        return (struct http_fault){503, "too many large requests are being received at once; try again"};
    }
    return (struct http_fault){0};
}

/* Moves the body's bytes out of the input; *whole when there are no more to come. */
static struct http_fault take_counted(struct connection *connection, bool *whole) {
    struct http_exchange *exchange = &connection->exchange;
    struct evbuffer *input = bufferevent_get_input(connection->buffer);
    size_t left = (size_t)exchange->head.content_length - evbuffer_get_length(exchange->body);
    size_t here = evbuffer_get_length(input) < left ? evbuffer_get_length(input) : left;
    struct http_fault fault = check_body(connection, here);
    if (fault.code == 0 && here > 0) {
        evbuffer_remove_buffer(input, exchange->body, here);
        connection->server->body_bytes += here;
    }
    *whole = here == left;
    return fault;
}

static struct http_fault take_chunks(struct connection *connection, bool *whole) {
    struct http_exchange *exchange = &connection->exchange;
    struct evbuffer *input = bufferevent_get_input(connection->buffer);
    struct http_fault fault = {0};
    while (fault.code == 0 && exchange->chunks.state != CHUNK_DONE && evbuffer_get_length(input) > 0) {
        size_t contiguous = evbuffer_get_contiguous_space(input), used;
        const char *data = (const char *)evbuffer_pullup(input, (ev_ssize_t)contiguous);
        struct http_slice payload;
        fault = http_chunks_take(&exchange->chunks, data, contiguous, &used, &payload);
        if (fault.code == 0 && payload.bytes > 0) {
            fault = check_body(connection, payload.bytes);
        }
        if (fault.code == 0 && payload.bytes > 0) {
            evbuffer_add(exchange->body, payload.data, payload.bytes);
            connection->server->body_bytes += payload.bytes;
        }
        evbuffer_drain(input, used);
    }
    *whole = exchange->chunks.state == CHUNK_DONE;
    return fault;
}

static bool take_body(struct connection *connection) {
    bool whole = false;
    struct http_fault fault =
        connection->exchange.head.chunked ? take_chunks(connection, &whole) : take_counted(connection, &whole);
    if (fault.code) {
        refuse(connection, fault);
        return false;
    }
    return whole;
}

/* Goes as far as the bytes that are there allow. */
void connection_advance(struct connection *connection) {
    const struct http_handler *handler = &connection->server->handler;
    struct evbuffer *input = bufferevent_get_input(connection->buffer);
    connection->advancing = true;
    bool going = true;
    while (going) {
        switch (connection->state) {
        case READING_HEAD:
            /* A client that sends requests and reads no responses must not fill our memory with them. */
            going = connection_unsent(connection) <= connection->server->limits.stream_buffer &&
                    take_head(connection) && begin_body(connection);
            break;
        case READING_BODY:
            going = take_body(connection);
            if (going) {
                begin_exchange(connection);
                handler->handle(handler->context, &connection->exchange);
            }
            break;
        case LINGERING:
            evbuffer_drain(input, evbuffer_get_length(input));
            going = false;
            break;
        case CLOSING:
        case HANDLING:
        case DEAD:
            going = false;
            break;
        }
    }
    connection->advancing = false;
    if (connection->state == CLOSING && connection_unsent(connection) == 0) {
        connection_linger(connection);
    }
}

/* ---- what the loop tells: its callbacks, set in http.c ---- */

void connection_on_read(struct bufferevent *buffer, void *argument) {
    (void)buffer;
    connection_advance(argument);
}

void connection_on_resume(evutil_socket_t fd, short events, void *argument) {
    (void)fd;
    (void)events;
    struct connection *connection = argument;
    if (connection->state != DEAD) {
        connection_advance(connection);
    }
}

void connection_on_written(struct bufferevent *buffer, void *argument) {
    (void)buffer;
    connection_advance(argument);
}

static void on_end_of_input(struct connection *connection) {
    struct evbuffer *input = bufferevent_get_input(connection->buffer);
    connection->input_ended = true;
    switch (connection->state) {
    case READING_HEAD:
        if (evbuffer_get_length(input) > 0 && connection_unsent(connection) == 0) {
            set_request_id(&connection->exchange);
            refuse(connection, (struct http_fault){400, "the request ends inside its headers"});
        } else if (connection_unsent(connection) > 0) {
            connection->state = CLOSING; /* the client may have shut its side only: it gets its last response */
        } else {
            connection_drop(connection, true);
        }
        break;
    case READING_BODY:
        refuse(connection, (struct http_fault){400, "the request ends inside its body"});
        break;
    case CLOSING:
        break;
    case HANDLING:
    case LINGERING:
    case DEAD:
        connection_drop(connection, true);
        break;
    }
}

void connection_on_event(struct bufferevent *buffer, short events, void *argument) {
    (void)buffer;
    struct connection *connection = argument;
    if ((events & BEV_EVENT_TIMEOUT) && (events & BEV_EVENT_WRITING)) {
        connection->server->counts.slow_readers++;
        connection_drop(connection, true);
    } else if (events & BEV_EVENT_ERROR) {
        connection_drop(connection, true);
    } else if (events & BEV_EVENT_EOF) {
        on_end_of_input(connection);
    }
}

void connection_on_deadline(evutil_socket_t fd, short events, void *argument) {
    (void)fd;
    (void)events;
    struct connection *connection = argument;
    bool begun = (connection->state == READING_HEAD && connection->request_begun) || connection->state == READING_BODY;
    if (!begun && connection->state == READING_HEAD && connection_unsent(connection) > 0) {
        connection_begin_reading(
            connection); /* a slow reader is not an idle one; the buffer's write timeout watches it */
        return;
    }
    if (!begun) {
        connection_drop(connection, true);
        return;
    }
    connection->server->counts.timeouts++;
    if (connection->state == READING_HEAD) {
        connection->exchange.head = (struct http_head){.method = HTTP_OTHER, .minor = 1};
        set_request_id(&connection->exchange);
    }
    refuse(connection, (struct http_fault){408, "the request took longer to arrive than request_timeout_s"});
}
