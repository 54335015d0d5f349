/* Chat templates: from messages to the one string that the model was trained on, and to its tokens.
 *
 * Owns: a table with one row a known template, recognised from the text of the model's own (Jinja) template by its
 * marks; nothing is interpreted. An unknown template is an error that names the option to choose one.
 * Threads: any. */
#ifndef METRONOME_MODELS_CHAT_H
#define METRONOME_MODELS_CHAT_H

#include "base/status.h"
#include "models/tokenizer.h"

#include <stdbool.h>
#include <stddef.h>

struct chat_message {
    const char *role; /* "system", "user", "assistant", "tool"; terminated */
    const char *content;
    size_t content_bytes;
};

struct chat_template; /* a row of the table, static */

/* By name ("chatml", "llama2", "llama3", "mistral", "zephyr", "gemma", "smollm2", ...); STATUS_NOT_FOUND lists all. */
struct status chat_template_named(const char *name, const struct chat_template **out);

/* By the text of a model's template (`bytes` may be 0: STATUS_NOT_FOUND, "the model has no chat template"). */
struct status chat_template_recognise(const char *text, size_t bytes, const struct chat_template **out);

const char *chat_template_name(const struct chat_template *chat);

/* The tokens of the prompt, ready for the assistant's turn, appended to `list`: the template's own control tokens
 * become tokens, a spelling of one inside a message stays text. Begins with bos if the template writes it or the model
 * wants one. STATUS_INVALID names the message whose role the template cannot say; STATUS_NO_MEMORY past `limit` ids. */
struct status chat_encode(const struct chat_template *chat, const struct tokenizer *tokenizer,
                          const struct chat_message *messages, size_t count, size_t limit, struct token_list *list);

/* The prompt as text, for tests and for people: chat_encode() is what serves. */
struct chat_prompt {
    char *text; /* owned, terminated: chat_prompt_free() */
    size_t bytes;
    struct text_span *content; /* owned: where the text is a message's own, ascending */
    size_t content_count;
    bool wrote_bos; /* the template wrote bos itself: tokenize without TOKENIZE_BOS */
};

/* `bos` and `eos` are the texts of the model's tokens, "" if it has none. */
struct status chat_render(const struct chat_template *chat, const struct chat_message *messages, size_t count,
                          const char *bos, const char *eos, struct chat_prompt *out);
void chat_prompt_free(struct chat_prompt *prompt);

#endif
