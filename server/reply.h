/* Responses of OpenAI's API: from the engine's events to JSON, whole or in pieces.
 *
 * Owns: what a choice has produced and the client has not been sent. Knows no sockets.
 * Threads: one a reply. */
#ifndef METRONOME_SERVER_REPLY_H
#define METRONOME_SERVER_REPLY_H

#include "models/tokenizer.h"
#include "scheduler/engine.h"
#include "server/api_error.h"
#include "server/openai.h"
#include "server/text.h"

#define REPLY_ID_BYTES 48

/* What all pieces of one response have in common. */
struct reply {
    enum openai_api api;
    char id[REPLY_ID_BYTES]; /* "cmpl-..." or "chatcmpl-..." */
    const char *model;
    int64_t created; /* seconds since 1970 */
    const struct tokenizer *tokenizer;
    bool logprobs;
    bool token_ids;     /* list the ids beside the text */
    bool include_usage; /* in a stream */
};

/* One of a response's choices. The texts hold finished JSON, less the brackets around it. */
struct reply_choice {
    uint32_t index;
    bool begun; /* a chunk of it has been written */
    enum finish_reason finish;
    uint32_t completion_tokens, cached_tokens; /* once it has finished */

    struct text content; /* plain text */
    struct text ids;     /* 17,42 */
    /* For chat `tokens` holds the entries of logprobs.content; for completions the four hold its four arrays. */
    struct text tokens, logprobs, top_logprobs, offsets;
    uint32_t characters; /* so far, for text_offset */

    const uint32_t *prompt; /* (prompt_count) to list with token_ids; NULL: not */
    uint32_t prompt_count;
};
void reply_choice_free(struct reply_choice *choice);

/* Adds what an event made known. */
void reply_take(const struct reply *reply, struct reply_choice *choice, const struct engine_event *event);

/* Bytes that it holds. */
size_t reply_held(const struct reply_choice *choice);

/* Is there something in it that a stream would show? */
bool reply_has_news(const struct reply *reply, const struct reply_choice *choice);

struct reply_usage {
    uint64_t prompt_tokens, completion_tokens, cached_tokens;
};

/* A whole response. */
void reply_write(const struct reply *reply, const struct reply_choice *choices, size_t count,
                 const struct reply_usage *usage, struct text *out);

/* The pieces of a stream, server-sent events as in the HTML standard. reply_write_chunk() empties the choice; chat's
 * first chunk of a choice is preceded by one that carries the role alone. */
void reply_write_chunk(const struct reply *reply, struct reply_choice *choice, struct text *out);
void reply_write_usage_chunk(const struct reply *reply, const struct reply_usage *usage, struct text *out);
void reply_write_error_chunk(const struct api_error *error, struct text *out);
void reply_write_done(struct text *out);

#endif
