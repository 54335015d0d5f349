/* What a configuration names, opened: the device, the model on it, the engine that runs it.
 *
 * Owns: all three, and how options become their settings. Threads: opened and closed by one at a time; then its
 * fields are read by any, and the engine's own rules hold. */
#ifndef METRONOME_SERVER_RUNTIME_H
#define METRONOME_SERVER_RUNTIME_H

#include "models/chat.h"
#include "models/model.h"
#include "scheduler/engine.h"
#include "server/options.h"

struct runtime {
    struct device *device;
    struct model *model;
    struct engine *engine;
    const struct tokenizer *tokenizer;
    const struct chat_template *chat; /* NULL if there is none */
    struct status chat_status;        /* and then why */
    uint32_t context;
    uint64_t kv_tokens; /* capacity of the KV cache */
};

/* Opens, loads and prepares everything the configuration asks for; the engine's thread is not started. On failure
 * nothing is left open. */
struct status runtime_open(const struct config *config, struct runtime *out);
/* The same without tokenizer and chat template, for requests of token ids; the model may be the name of a description
 * (configs/models/NAME.json), which runs on `sim`. */
struct status runtime_open_simulated(const struct config *config, struct runtime *out);
void runtime_close(struct runtime *runtime);

/* Opens the model's file and no more: what `tokenize` needs. */
struct status runtime_open_model(const struct config *config, struct runtime *out);

/* The id that the model is served under: model_name, else the file's name without its folder and ".gguf".
 * The caller frees it. */
char *runtime_model_name(const struct config *config);

#endif
