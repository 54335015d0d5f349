#include "server/http_get.h"

#include <event2/buffer.h>
#include <event2/event.h>
#include <event2/http.h>
#include <event2/keyvalq_struct.h>
#include <stdio.h>
#include <string.h>

enum { TIMEOUT_S = 10, MOST_BYTES = 16 << 20 };

struct answer {
    struct event_base *base;
    struct text *body;
    int code; /* 0: there was none */
};

static void on_answer(struct evhttp_request *request, void *argument) {
    struct answer *answer = argument;
    if (request) {
        answer->code = evhttp_request_get_response_code(request);
        struct evbuffer *buffer = evhttp_request_get_input_buffer(request);
        size_t bytes = evbuffer_get_length(buffer);
        if (bytes > 0) {
            text_add(answer->body, (const char *)evbuffer_pullup(buffer, -1), bytes);
        }
    }
    event_base_loopbreak(answer->base);
}

/* Sends it and waits; false if there was no memory. */
static bool ask(const char *host, uint16_t port, const char *path, const char *accept, struct answer *answer) {
    char name[300];
    struct evhttp_connection *connection = evhttp_connection_base_new(answer->base, NULL, host, port);
    struct evhttp_request *request = evhttp_request_new(on_answer, answer);
    bool made = connection && request;
    if (made) {
        bool bare_ipv6 = strchr(host, ':') != NULL;
        snprintf(name, sizeof name, "%s%s%s:%u", bare_ipv6 ? "[" : "", host, bare_ipv6 ? "]" : "", port);
        struct evkeyvalq *headers = evhttp_request_get_output_headers(request);
        evhttp_connection_set_timeout(connection, TIMEOUT_S);
        evhttp_connection_set_max_body_size(connection, MOST_BYTES);
        evhttp_add_header(headers, "Host", name);
        evhttp_add_header(headers, "Accept", accept);
        evhttp_add_header(headers, "Connection", "close");
        made = evhttp_make_request(connection, request, EVHTTP_REQ_GET, path) == 0; /* it owns the request now */
        if (made) {
            event_base_dispatch(answer->base);
        }
    } else if (request) {
        evhttp_request_free(request);
    }
    if (connection) {
        evhttp_connection_free(connection);
    }
    return made;
}

static struct status ask_uri(const struct evhttp_uri *uri, const char *url, const char *path, const char *accept,
                             struct text *out) {
    const char *scheme = uri ? evhttp_uri_get_scheme(uri) : NULL, *host = uri ? evhttp_uri_get_host(uri) : NULL;
    if (!scheme || strcmp(scheme, "http") != 0 || !host || !*host || strlen(host) > 255) {
        return status_error(STATUS_INVALID, "%.200s: not a URL such as http://127.0.0.1:8080", url);
    }
    int port = evhttp_uri_get_port(uri);
    struct answer answer = {.base = event_base_new(), .body = out};
    bool made = answer.base && ask(host, (uint16_t)(port < 0 ? 80 : port), path, accept, &answer);
    if (answer.base) {
        event_base_free(answer.base);
    }
    if (!made || out->failed) {
        return status_error(STATUS_IO, "%.200s%s cannot be asked", url, path);
    }
    if (answer.code == 0) {
        return status_error(STATUS_IO, "nobody answers at %.200s", url);
    }
    return answer.code == 200
               ? STATUS_SUCCESS
               : status_error(STATUS_IO, "%.200s%s answers with HTTP status %d: %.*s", url, path, answer.code,
                              (int)(out->bytes < 200 ? out->bytes : 200), out->data ? out->data : "");
}

struct status http_get(const char *url, const char *path, const char *accept, struct text *out) {
    struct evhttp_uri *uri = evhttp_uri_parse(url);
    struct status status = ask_uri(uri, url, path, accept, out);
    if (uri) {
        evhttp_uri_free(uri);
    }
    return status;
}
