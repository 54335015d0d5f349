/* Chat templates: from messages to the one string that the model was trained on.
 *
 * Owns: a table with one row a known template, recognised from the text of the model's own (Jinja) template by its
 * marks; nothing is interpreted. An unknown template is an error that names the option to choose one.
 * Threads: any. */
#ifndef METRONOME_MODELS_CHAT_H
#define METRONOME_MODELS_CHAT_H

#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>

struct chat_message {
    const char *role; /* "system", "user", "assistant", "tool"; terminated */
    const char *content;
    size_t content_bytes;
};

struct chat_template; /* a row of the table, static */

/* By name ("chatml", "llama2", "llama3", "mistral", "zephyr", "gemma", "smollm2"); STATUS_NOT_FOUND lists the names. */
struct status chat_template_named(const char *name, const struct chat_template **out);

/* By the text of a model's template (`bytes` may be 0: STATUS_NOT_FOUND, "the model has no chat template"). */
struct status chat_template_recognise(const char *text, size_t bytes, const struct chat_template **out);

const char *chat_template_name(const struct chat_template *chat);

/* Writes the prompt, ready for the assistant's turn, to a malloc'd string that the caller frees. `bos` is the text
 * of the model's bos token ("" if none): templates that spell it write it, and the caller then tokenizes without
 * TOKENIZE_BOS (*wrote_bos says so). A role that the template cannot say is STATUS_INVALID with the role's name. */
struct status chat_render(const struct chat_template *chat, const struct chat_message *messages, size_t count,
                          const char *bos, char **out, size_t *out_bytes, bool *wrote_bos);

#endif
