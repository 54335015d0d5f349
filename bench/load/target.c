#include "bench/load/target.h"

#include "base/clock.h"
#include "base/json.h"

#include <errno.h>
#include <event2/buffer.h>
#include <event2/event.h>
#include <event2/http.h>
#include <math.h>
#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define MODELS_MOST_BYTES (1 << 20)

/* ---- the URL ---- */

static struct status bad_url(const char *url) {
    return status_error(STATUS_INVALID, "--url: \"%.120s\" is not like http://127.0.0.1:8080", url);
}

static struct status take_prefix(const char *url, const char *path, struct target *target) {
    size_t bytes = strlen(path);
    while (bytes > 0 && path[bytes - 1] == '/') {
        bytes--;
    }
    if (bytes >= 3 && memcmp(path + bytes - 3, "/v1", 3) == 0) {
        bytes -= 3;
    }
    if (bytes >= sizeof target->prefix || strcspn(path, " \t\r\n?#") < bytes) {
        return bad_url(url);
    }
    memcpy(target->prefix, path, bytes);
    target->prefix[bytes] = 0;
    return STATUS_SUCCESS;
}

static struct status take_port(const char *url, const char *text, size_t bytes, struct target *target) {
    unsigned long port = 0;
    for (size_t i = 0; i < bytes; i++) {
        if (text[i] < '0' || text[i] > '9' || port > UINT16_MAX) {
            return bad_url(url);
        }
        port = port * 10 + (unsigned long)(text[i] - '0');
    }
    if (port == 0 || port > UINT16_MAX) {
        return bad_url(url);
    }
    target->port = (uint16_t)port;
    return STATUS_SUCCESS;
}

struct status target_parse(const char *url, struct target *target) {
    static const char scheme[] = "http://";
    if (strncmp(url, "https://", 8) == 0) {
        return status_error(STATUS_UNSUPPORTED, "--url: https is not built; name the server's own http:// port, or a "
                                                "proxy that ends TLS");
    }
    if (strncmp(url, scheme, sizeof scheme - 1) != 0) {
        return bad_url(url);
    }
    const char *host = url + sizeof scheme - 1, *path = host + strcspn(host, "/"), *end;
    if (*host == '[') {
        const char *bracket = memchr(host, ']', (size_t)(path - host));
        if (!bracket || (bracket + 1 != path && bracket[1] != ':')) {
            return bad_url(url);
        }
        host++;
        end = bracket;
    } else {
        const char *colon = memchr(host, ':', (size_t)(path - host));
        end = colon ? colon : path;
    }
    size_t host_bytes = (size_t)(end - host);
    if (host_bytes == 0 || host_bytes >= sizeof target->host || strcspn(host, " @\t\r\n?#") < (size_t)(path - host)) {
        return bad_url(url);
    }
    memcpy(target->host, host, host_bytes);
    target->host[host_bytes] = 0;
    const char *after = *end == ']' ? end + 1 : end;
    target->port = 80;
    if (*after == ':') {
        TRY(take_port(url, after + 1, (size_t)(path - after - 1), target));
    }
    snprintf(target->authority, sizeof target->authority, *end == ']' ? "[%s]:%u" : "%s:%u", target->host,
             target->port);
    return take_prefix(url, path, target);
}

/* ---- its address ---- */

/* Whether a connection comes about in time; the reason is left in errno. */
static bool answers(const struct addrinfo *info, int timeout_ms) {
    int error = 0, one = socket(info->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    socklen_t size = sizeof error;
    if (one < 0) {
        return false;
    }
    if (connect(one, info->ai_addr, info->ai_addrlen) != 0) {
        struct pollfd wait = {.fd = one, .events = POLLOUT};
        error = errno;
        if (error == EINPROGRESS) {
            error = poll(&wait, 1, timeout_ms) == 1 ? 0 : ETIMEDOUT;
            if (error == 0 && getsockopt(one, SOL_SOCKET, SO_ERROR, &error, &size) != 0) {
                error = errno;
            }
        }
    }
    close(one);
    errno = error;
    return error == 0;
}

static struct status find_address(struct target *target, double timeout_s) {
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM}, *infos = NULL;
    char service[8];
    snprintf(service, sizeof service, "%u", target->port);
    int wrong = getaddrinfo(target->host, service, &hints, &infos);
    if (wrong != 0) {
        return status_error(STATUS_IO, "%.120s: %s", target->host, gai_strerror(wrong));
    }
    int reason = 0;
    for (const struct addrinfo *info = infos; info && !target->address[0]; info = info->ai_next) {
        if (!answers(info, (int)(fmin(timeout_s, 10) * 1000))) {
            reason = errno;
        } else if (getnameinfo(info->ai_addr, info->ai_addrlen, target->address, sizeof target->address, NULL, 0,
                               NI_NUMERICHOST) != 0) {
            target->address[0] = 0;
        }
    }
    freeaddrinfo(infos);
    return target->address[0]
               ? STATUS_SUCCESS
               : status_error(STATUS_IO, "%.120s: %s; is a server running there?", target->authority, strerror(reason));
}

/* ---- its model ---- */

struct asking {
    struct target *target;
    struct event_base *base;
    struct status status;
};

static struct status read_models(const char *text, size_t bytes, struct target *target) {
    static const struct json_rules rules = {.depth = 32, .values = 1U << 16};
    cJSON *answer = NULL;
    struct status status = json_parse(text, bytes, &rules, &answer);
    if (status_failed(&status)) {
        return status_context(status, "/v1/models");
    }
    const cJSON *data = cJSON_GetObjectItemCaseSensitive(answer, "data");
    const cJSON *id = cJSON_GetObjectItemCaseSensitive(cJSON_IsArray(data) ? data->child : NULL, "id");
    if (!cJSON_IsString(id) || strlen(id->valuestring) >= sizeof target->model) {
        status = status_error(STATUS_INVALID, "/v1/models names no model; give one with --model NAME");
    } else {
        snprintf(target->model, sizeof target->model, "%s", id->valuestring);
    }
    cJSON_Delete(answer);
    return status;
}

static void on_models(struct evhttp_request *request, void *context) {
    struct asking *asking = context;
    int code = request ? evhttp_request_get_response_code(request) : 0;
    if (code != HTTP_OK) {
        asking->status =
            code ? status_error(STATUS_IO, "/v1/models: HTTP %d; give a model with --model NAME", code)
                 : status_error(STATUS_IO, "/v1/models: %.120s gave no answer that is HTTP", asking->target->authority);
    } else {
        struct evbuffer *body = evhttp_request_get_input_buffer(request);
        size_t bytes = evbuffer_get_length(body);
        const char *text = bytes > 0 ? (const char *)evbuffer_pullup(body, -1) : "";
        asking->status = text ? read_models(text, bytes, asking->target)
                              : status_error(STATUS_NO_MEMORY, "no memory for the answer of /v1/models");
    }
    event_base_loopbreak(asking->base);
}

static struct status ask_model(struct target *target, double timeout_s) {
    struct asking asking = {.target = target, .status = status_error(STATUS_NO_MEMORY, "no memory for a request")};
    struct timeval timeout = {.tv_sec = (time_t)ceil(fmin(timeout_s, 60))};
    char path[320];
    asking.base = event_base_new();
    struct evhttp_connection *connection =
        asking.base ? evhttp_connection_base_new(asking.base, NULL, target->address, target->port) : NULL;
    struct evhttp_request *request = connection ? evhttp_request_new(on_models, &asking) : NULL;
    if (request != NULL) {
        snprintf(path, sizeof path, "%s/v1/models", target->prefix);
        evhttp_connection_set_timeout_tv(connection, &timeout);
        evhttp_connection_set_max_body_size(connection, MODELS_MOST_BYTES);
        if (target_add_headers(target, request) &&
            evhttp_make_request(connection, request, EVHTTP_REQ_GET, path) == 0) {
            event_base_dispatch(asking.base);
        }
    }
    if (connection != NULL) {
        evhttp_connection_free(connection);
    }
    if (asking.base != NULL) {
        event_base_free(asking.base);
    }
    return asking.status;
}

struct status target_find(struct target *target, double timeout_s) {
    TRY(find_address(target, timeout_s));
    return target->model[0] ? STATUS_SUCCESS : ask_model(target, timeout_s);
}

/* ---- requests ---- */

void target_path(const struct target *target, char path[320]) {
    snprintf(path, 320, "%s/v1/%scompletions", target->prefix, target->completions ? "" : "chat/");
}

bool target_add_headers(const struct target *target, struct evhttp_request *request) {
    struct evkeyvalq *headers = evhttp_request_get_output_headers(request);
    char bearer[sizeof target->key + 8];
    snprintf(bearer, sizeof bearer, "Bearer %s", target->key);
    return evhttp_add_header(headers, "Host", target->authority) == 0 &&
           evhttp_add_header(headers, "User-Agent", "metronome-bench") == 0 &&
           evhttp_add_header(headers, "Accept", "text/event-stream, application/json") == 0 &&
           (!target->key[0] || evhttp_add_header(headers, "Authorization", bearer) == 0);
}
