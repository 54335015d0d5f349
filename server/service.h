/* What every endpoint shares: the configuration, what is loaded, where the server is in its life.
 *
 * Owns: the list of completions under way and the routing of the engine's events to them. Its one user outside the
 * endpoints is server.c, which leads it through its life. Threads: the event loop's only. */
#ifndef METRONOME_SERVER_SERVICE_H
#define METRONOME_SERVER_SERVICE_H

#include "scheduler/classes.h"
#include "server/http.h"
#include "server/runtime.h"

enum service_state { SERVICE_LOADING, SERVICE_READY, SERVICE_DRAINING };

struct completion;
struct slo_log_file;
struct event_base;

/* The arguments that the configuration came from. */
struct reload_source {
    int argc;
    const char *const *argv; /* (argc) */
};

struct service {
    struct config *config;
    struct reload_source reload;
    struct event_base *base;
    enum service_state state;
    struct slo_classes classes; /* the engine's own, as they are now */
    struct runtime runtime;     /* from SERVICE_READY on */
    struct status fault;        /* the engine's first failure, after which it takes nothing */
    struct http_server *http;
    char *model_name;
    char *api_key; /* NULL if none is asked for */
    int64_t started_s;
    struct engine_event *events; /* (SERVICE_EVENTS) room for engine_poll() */
    struct completion *completions;
    struct slo_log_file *slo_log; /* NULL: none */
};

#define SERVICE_EVENTS 64

/* ---- api.c: the routes ---- */

/* The two calls of struct http_handler; `context` is the service. */
void api_handle(void *context, struct http_exchange *exchange);
void api_refuse(void *context, struct http_exchange *exchange, int code, const char *message);

/* Ends an exchange with an error object, with Retry-After where trying again may help. */
struct api_error;
void api_respond_error(struct http_exchange *exchange, const struct api_error *error);

/* Ends an exchange with JSON; a text that failed to grow becomes an error. */
struct text;
void api_respond_json(struct http_exchange *exchange, struct text *json);

/* ---- reload.c ---- */

/* Reads the configuration again; what has changed is appended to `report` as JSON. On failure nothing has. */
struct status service_reload(struct service *service, struct text *report);
void api_reload(struct service *service, struct http_exchange *exchange);

/* ---- api_slo.c ---- */

#define SLO_HEADER "X-Metronome-SLO"

/* What a request is promised: by its body, else by its header, else by the default class. */
struct completion_request;
struct slo_choice {
    uint32_t class_index;
    bool asked;       /* the request says something of it */
    bool has_promise; /* other than the class's */
    struct promise promise;
};
struct api_error api_choose_slo(const struct service *service, const struct http_head *head,
                                const struct completion_request *request, struct slo_choice *out);

/* What a request that admission has refused is told: what is short, predicted and promised. */
struct api_error api_slo_refusal(const struct service *service, const struct request *request,
                                 const struct status *status);

/* Appends what became of a request's promise at the door, for the header of that name. */
void api_slo_write(const struct service *service, const struct request *request, struct text *out);

/* ---- api_tokens.c ---- */

/* Tokenizes a prompt with a bound on how far it is worth going; a failure names `param`. */
struct api_error api_encode(const struct service *service, const char *text, size_t bytes, bool bos, const char *param,
                            struct token_list *tokens);

/* The same for a conversation; without a chat template it is an error. */
struct api_error api_encode_chat(const struct service *service, const struct completion_request *request,
                                 struct token_list *tokens);

/* Is this the model that is served? An empty name is. */
struct api_error api_check_model(const struct service *service, const char *model);

void api_tokenize(struct service *service, struct http_exchange *exchange);
void api_detokenize(struct service *service, struct http_exchange *exchange);

/* ---- completion.c ---- */

void api_completions(struct service *service, struct http_exchange *exchange);
void api_chat_completions(struct service *service, struct http_exchange *exchange);

/* Hands the engine's events to their completions: all that are there, or a bounded number of them. */
void service_poll(struct service *service);
void service_poll_all(struct service *service);

/* ---- debug_slo.c ---- */

void api_debug_slo(struct service *service, struct http_exchange *exchange);

/* ---- metrics.c ---- */

void api_metrics(struct service *service, struct http_exchange *exchange);

#endif
