/* Requests of OpenAI's API: from the bytes of a body to what is to be generated, every field checked.
 *
 * Owns: the fields of /v1/completions and /v1/chat/completions, their types, ranges and defaults. A field that is not
 * known is ignored; one that is known and would ask for what is not built is refused. Tokenizes nothing.
 * Threads: any. */
#ifndef METRONOME_SERVER_OPENAI_H
#define METRONOME_SERVER_OPENAI_H

#include "models/chat.h"
#include "scheduler/engine.h"
#include "server/api_error.h"

#include <cjson/cJSON.h>

#define OPENAI_MAX_N 128
#define OPENAI_MAX_BIASES 1024

enum openai_api { API_COMPLETIONS, API_CHAT };

/* A prompt of /v1/completions: text, or token ids. */
struct prompt_source {
    const char *text; /* NULL if it is ids */
    size_t bytes;
    uint32_t *tokens; /* (token_count) owned */
    size_t token_count;
};

struct completion_request {
    enum openai_api api;
    const char *model;             /* "" if it names none */
    struct prompt_source *prompts; /* (prompt_count) for completions */
    size_t prompt_count;
    struct chat_message *messages; /* (message_count) for chat */
    size_t message_count;
    uint32_t n; /* choices for each prompt */
    bool stream, include_usage, return_token_ids;
    bool has_max_tokens;      /* sampling.max_tokens was given */
    struct sampling sampling; /* its arrays are owned here */
    const char *class_name;   /* of "slo"; NULL if it names none. Into `document` */
    bool has_ttft, has_tpot;  /* "slo" has these times of its own, ... */
    bool has_promise;         /* ... or is an object that names no class: what it leaves out is not promised */
    struct promise promise;
    bool has_pace, pace;    /* "pace" was given: tokens are sent no earlier than they are promised */
    struct cache_salt salt; /* "cache_salt" */

    /* What the pointers above point into. */
    cJSON *document;
    char **joined; /* (message_count) contents put together from parts, or NULL */
};

/* Fills *out, which completion_request_free() empties whether or not there was an error. */
struct api_error completion_request_parse(enum openai_api api, const char *body, size_t bytes,
                                          struct completion_request *out);
void completion_request_free(struct completion_request *request);

/* Frees what only the prompts and messages need, once they are tokenized. */
void completion_request_drop_input(struct completion_request *request);

/* Reads a body into a JSON object under the bounds that every request has. */
struct api_error openai_parse_object(const char *body, size_t bytes, cJSON **out);

/* Reads {"model": ...}: "" if there is none. */
struct api_error openai_read_model(const cJSON *body, const char **model);

/* Reads a list of messages into `request`. */
struct api_error openai_read_messages(const cJSON *body, struct completion_request *request);

/* Reads an array of token ids into a new array; `param` names it. */
struct api_error openai_read_ids(const cJSON *array, const char *param, uint32_t **ids, size_t *count);

#endif
