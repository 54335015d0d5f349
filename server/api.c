/* The endpoints: one row a route, and the small ones themselves.
 *
 * Owns: who may call what, and when. Threads: the event loop's only. */
#include "server/api_error.h"
#include "server/service.h"
#include "server/text.h"
#include "server/version.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

#define JSON_TYPE "application/json"

static void show_page(struct service *service, struct http_exchange *exchange);
static void show_health(struct service *service, struct http_exchange *exchange);
static void show_version(struct service *service, struct http_exchange *exchange);
static void show_models(struct service *service, struct http_exchange *exchange);

struct route {
    const char *path; /* one that ends with '/' takes everything below it */
    enum http_method method;
    bool needs_model; /* 503 until it is loaded */
    bool generates;   /* 503 while draining */
    void (*handle)(struct service *service, struct http_exchange *exchange);
    const char *help;
};

static const struct route routes[] = {
    {"/v1/completions", HTTP_POST, true, true, api_completions, "a prompt, continued"},
    {"/v1/chat/completions", HTTP_POST, true, true, api_chat_completions, "a conversation, continued"},
    {"/v1/models", HTTP_GET, true, false, show_models, "the model that is served"},
    {"/v1/models/", HTTP_GET, true, false, show_models, NULL},
    {"/tokenize", HTTP_POST, true, false, api_tokenize, "text to token ids"},
    {"/detokenize", HTTP_POST, true, false, api_detokenize, "token ids to text"},
    {"/health", HTTP_GET, false, false, show_health, "200 when ready, 503 while loading or draining, 500 when broken"},
    {"/metrics", HTTP_GET, false, false, api_metrics, "numbers for Prometheus"},
    {"/debug/slo", HTTP_GET, true, false, api_debug_slo, "why promises were missed"},
    {"/admin/reload", HTTP_POST, true, false, api_reload, "reads the configuration again; takes the API key"},
    {"/version", HTTP_GET, false, false, show_version, "which Metronome this is"},
    {"/", HTTP_GET, false, false, show_page, NULL},
};
#define ROUTES (sizeof routes / sizeof routes[0])

/* ---- answering ---- */

void api_respond_error(struct http_exchange *exchange, const struct api_error *error) {
    struct text body = {0};
    api_error_write(error, &body);
    if (api_retry_after(error) > 0) {
        char seconds[16];
        snprintf(seconds, sizeof seconds, "%d", api_retry_after(error));
        http_add_header(exchange, "Retry-After", seconds);
    }
    http_respond(exchange, error->code, JSON_TYPE, body.data ? body.data : "", body.bytes);
    text_free(&body);
}

void api_respond_json(struct http_exchange *exchange, struct text *json) {
    if (json->failed) {
        struct api_error error = api_refusal(503, NULL, "there is no memory for the response");
        api_respond_error(exchange, &error);
    } else {
        http_respond(exchange, 200, JSON_TYPE, json->data, json->bytes);
    }
}

void api_refuse(void *context, struct http_exchange *exchange, int code, const char *message) {
    (void)context;
    struct api_error error = api_refusal(code, NULL, "%s", message);
    api_respond_error(exchange, &error);
}

/* ---- who may call what, and when ---- */

static bool path_matches(const struct route *route, struct http_slice path) {
    size_t bytes = strlen(route->path);
    bool below = bytes > 1 && route->path[bytes - 1] == '/';
    return below ? path.bytes > bytes && memcmp(path.data, route->path, bytes) == 0
                 : http_slice_equals(path, route->path);
}

/* In a time that does not depend on where the first difference is. */
static bool same_secret(struct http_slice given, const char *secret) {
    size_t bytes = strlen(secret);
    unsigned char difference = given.bytes != bytes;
    for (size_t i = 0; i < given.bytes; i++) {
        difference |= (unsigned char)(given.data[i] ^ secret[i % (bytes ? bytes : 1)]);
    }
    return difference == 0;
}

static bool is_admin(const struct http_head *head) {
    return head->path.bytes >= 6 && memcmp(head->path.data, "/admin", 6) == 0;
}

/* As vLLM has it: a key guards /v1 and nothing else, but for what changes the server. */
static bool is_authorized(const struct service *service, const struct http_head *head) {
    static const char prefix[] = "Bearer ";
    bool guarded = head->path.bytes >= 3 && memcmp(head->path.data, "/v1", 3) == 0;
    guarded = guarded || is_admin(head);
    if (!guarded || !service->api_key) {
        return true;
    }
    const struct http_slice *header = http_find_header(head, "authorization");
    if (!header || header->bytes < sizeof prefix - 1 || strncasecmp(header->data, prefix, sizeof prefix - 1) != 0) {
        return false;
    }
    struct http_slice key = {header->data + sizeof prefix - 1, header->bytes - (sizeof prefix - 1)};
    return same_secret(key, service->api_key);
}

/* Finds the route; an error if there is none for this path and method. */
static struct api_error find_route(struct http_exchange *exchange, const struct route **found) {
    const struct http_head *head = http_request_head(exchange);
    enum http_method method = head->method == HTTP_HEAD ? HTTP_GET : head->method;
    for (size_t i = 0; i < ROUTES; i++) {
        if (!path_matches(&routes[i], head->path)) {
            continue;
        }
        if (routes[i].method != method) {
            const char *allowed = routes[i].method == HTTP_POST ? "POST" : "GET, HEAD";
            http_add_header(exchange, "Allow", allowed);
            return api_refusal(405, NULL, "%s takes %s", routes[i].path, allowed);
        }
        *found = &routes[i];
        return (struct api_error){0};
    }
    return api_refusal(404, NULL, "there is nothing at %.*s; GET / lists what there is",
                       (int)(head->path.bytes < 100 ? head->path.bytes : 100), head->path.data);
}

static struct api_error check_state(const struct service *service, const struct route *route) {
    if (route->needs_model && service->state == SERVICE_LOADING) {
        return api_refusal(503, NULL, "the model is still being loaded");
    }
    if (route->generates && service->state == SERVICE_DRAINING) {
        return api_refusal(503, NULL, "the server is shutting down and takes no new requests");
    }
    return (struct api_error){0};
}

void api_handle(void *context, struct http_exchange *exchange) {
    struct service *service = context;
    const struct route *route = NULL;
    struct api_error error = {0};
    if (!is_authorized(service, http_request_head(exchange))) {
        http_add_header(exchange, "WWW-Authenticate", "Bearer");
        error = api_refusal(401, "invalid_api_key", "this server asks for its API key: Authorization: Bearer KEY");
    }
    if (error.code == 0) {
        error = find_route(exchange, &route);
    }
    if (error.code == 0 && is_admin(http_request_head(exchange)) && !service->api_key) {
        error = api_refusal(403, NULL, "/admin is closed: it takes a server with an api_key");
    }
    if (error.code == 0) {
        error = check_state(service, route);
    }
    if (error.code) {
        api_respond_error(exchange, &error);
    } else {
        route->handle(service, exchange);
    }
}

/* ---- the small ones ---- */

static void show_page(struct service *service, struct http_exchange *exchange) {
    struct text page = {0};
    text_addf(&page,
              "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>Metronome</title>\n"
              "<style>body{font:16px/1.5 system-ui,sans-serif;max-width:44em;margin:3em auto;padding:0 1em}"
              "td{padding:0 1em 0 0;vertical-align:top}</style>\n"
              "<h1>Metronome %s</h1>\n<table>\n",
              version_text());
    for (size_t i = 0; i < ROUTES; i++) {
        const struct route *route = &routes[i];
        if (route->help && route->method == HTTP_GET) {
            text_addf(&page, "<tr><td>GET<td><a href=\"%s\"><code>%s</code></a><td>%s\n", route->path, route->path,
                      route->help);
        } else if (route->help) {
            text_addf(&page, "<tr><td>POST<td><code>%s</code><td>%s\n", route->path, route->help);
        }
    }
    text_adds(&page, "</table>\n</html>\n");
    (void)service;
    http_respond(exchange, 200, "text/html; charset=utf-8", page.data ? page.data : "", page.bytes);
    text_free(&page);
}

static void show_health(struct service *service, struct http_exchange *exchange) {
    struct api_error error = {0};
    if (service->state == SERVICE_LOADING) {
        error = api_refusal(503, NULL, "loading");
    } else if (status_failed(&service->fault)) {
        error = api_refusal(500, NULL, "the engine has failed: %s", service->fault.message);
    } else if (service->state == SERVICE_DRAINING) {
        error = api_refusal(503, NULL, "draining");
    }
    if (error.code) {
        api_respond_error(exchange, &error);
        return;
    }
    static const char healthy[] = "{\"status\":\"ok\"}";
    http_respond(exchange, 200, JSON_TYPE, healthy, sizeof healthy - 1);
}

static void show_version(struct service *service, struct http_exchange *exchange) {
    (void)service;
    struct text body = {0};
    text_addf(&body, "{\"version\":\"%s\",\"commit\":\"%s\"}", version_text(), version_commit());
    api_respond_json(exchange, &body);
    text_free(&body);
}

static void write_model(const struct service *service, struct text *out) {
    text_adds(out, "{\"id\":");
    text_adds_json(out, service->model_name);
    text_addf(out, ",\"object\":\"model\",\"created\":%lld,\"owned_by\":\"metronome\",\"root\":",
              (long long)service->started_s);
    text_adds_json(out, service->config->model);
    text_addf(out, ",\"parent\":null,\"max_model_len\":%u}", service->runtime.context);
}

static void show_models(struct service *service, struct http_exchange *exchange) {
    static const char prefix[] = "/v1/models/";
    struct http_slice path = http_request_head(exchange)->path;
    struct text body = {0};
    if (path.bytes < sizeof prefix) {
        text_adds(&body, "{\"object\":\"list\",\"data\":[");
        write_model(service, &body);
        text_adds(&body, "]}");
        api_respond_json(exchange, &body);
    } else {
        struct http_slice rest = {path.data + sizeof prefix - 1, path.bytes - (sizeof prefix - 1)};
        char name[512];
        bool decoded = http_decode_percent(rest, name, sizeof name) != SIZE_MAX;
        struct api_error error = decoded ? api_check_model(service, name)
                                         : api_invalid("model", "the model's name in the path is malformed");
        if (error.code) {
            api_respond_error(exchange, &error);
        } else {
            write_model(service, &body);
            api_respond_json(exchange, &body);
        }
    }
    text_free(&body);
}
