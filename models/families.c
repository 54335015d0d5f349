/* The families of models that the one forward pass serves: a family is a row.
 *
 * Owns: the table. A new family adds a row, and to forward.c only what no row yet says. Threads: any; constants. */
#include "models/model_internal.h"

#include <stdio.h>
#include <string.h>

static const struct family families[] = {
    /* Llama 2 and 3, Mistral, SmolLM2 and others of the shape: RMS norm, rotary pairs side by side, grouped queries,
     * SwiGLU. Touvron et al. arXiv 2302.13971, Grattafiori et al. arXiv 2407.21783. */
    {.architecture = "llama", .rope_style = ROPE_INTERLEAVED, .qkv_bias = PRESENCE_OPTIONAL},
};
enum { FAMILIES = sizeof families / sizeof families[0] };

struct status family_find(struct gguf_string architecture, const struct family **out) {
    char built[128] = "";
    for (size_t i = 0; i < FAMILIES; i++) {
        const char *name = families[i].architecture;
        if (architecture.bytes == strlen(name) && memcmp(architecture.data, name, architecture.bytes) == 0) {
            *out = &families[i];
            return STATUS_SUCCESS;
        }
        size_t used = strlen(built);
        snprintf(built + used, sizeof built - used, "%s%s", i > 0 ? ", " : "", name);
    }
    return status_error(STATUS_UNSUPPORTED, "key 'general.architecture': '%.*s' is not built; built are: %s",
                        architecture.bytes < 32 ? (int)architecture.bytes : 32, architecture.data, built);
}
