/* Hyperparameters from the keys of a GGUF file, each checked against its range and against the others.
 *
 * Owns: the names of the keys and their defaults. The extents of tensors are checked against the result in
 * layout_find.c. Threads: any; pure. */
#include "models/model_internal.h"

#include "base/utf8.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { KEY_BYTES = 96 };

/* "llama.block_count" from "block_count". */
static const char *full_key(const struct family *family, const char *suffix, char buffer[KEY_BYTES]) {
    snprintf(buffer, KEY_BYTES, "%s.%s", family->name, suffix);
    return buffer;
}

/* A count of 1 .. most. An absent key gives `fallback`; a fallback of 0 says that the key is required. */
static struct status read_count(const struct gguf *gguf, const struct family *family, const char *suffix,
                                uint32_t fallback, uint32_t most, uint32_t *out) {
    char key[KEY_BYTES];
    uint64_t value = fallback;
    struct status status = gguf_get_u64(gguf, full_key(family, suffix, key), &value);
    if (status_failed(&status) && !(status.code == STATUS_NOT_FOUND && fallback > 0)) {
        status.code = STATUS_INVALID; /* the file is there; a key that it must have is not */
        return status;
    }
    if (value < 1 || value > most) {
        return status_error(STATUS_INVALID, "key '%s': is %llu, must be 1 to %u", key, (unsigned long long)value, most);
    }
    *out = (uint32_t)value;
    return STATUS_SUCCESS;
}

/* A finite number above 0. An absent key gives `fallback`; a fallback of 0 says that the key is required. */
static struct status read_positive(const struct gguf *gguf, const struct family *family, const char *suffix,
                                   double fallback, double *out) {
    char key[KEY_BYTES];
    double value = fallback;
    struct status status = gguf_get_f64(gguf, full_key(family, suffix, key), &value);
    if (status_failed(&status) && !(status.code == STATUS_NOT_FOUND && fallback > 0)) {
        status.code = STATUS_INVALID;
        return status;
    }
    if (!(value > 0) || !isfinite(value)) {
        return status_error(STATUS_INVALID, "key '%s': is %g, must be a finite number above 0", key, value);
    }
    *out = value;
    return STATUS_SUCCESS;
}

static struct status read_heads(const struct gguf *gguf, const struct family *family, struct model_shape *shape) {
    TRY(read_count(gguf, family, "attention.head_count", 0, MOST_HEADS, &shape->query_heads));
    TRY(read_count(gguf, family, "attention.head_count_kv", shape->query_heads, MOST_HEADS, &shape->kv_heads));
    char key[KEY_BYTES];
    if (shape->query_heads % shape->kv_heads != 0) {
        return status_error(STATUS_INVALID, "key '%s': is %u, must divide attention.head_count, which is %u",
                            full_key(family, "attention.head_count_kv", key), shape->kv_heads, shape->query_heads);
    }
    bool divides = shape->width % shape->query_heads == 0;
    uint32_t even_share = divides ? shape->width / shape->query_heads : 0;
    if (!divides && !gguf_has(gguf, full_key(family, "attention.key_length", key))) {
        return status_error(STATUS_INVALID, "key '%s': is %u, must divide embedding_length, which is %u",
                            full_key(family, "attention.head_count", key), shape->query_heads, shape->width);
    }
    uint32_t value_length = 0;
    TRY(read_count(gguf, family, "attention.key_length", even_share, MOST_HEAD_DIM, &shape->head_dim));
    TRY(read_count(gguf, family, "attention.value_length", shape->head_dim, MOST_HEAD_DIM, &value_length));
    if (shape->head_dim % 8 != 0) {
        return status_error(STATUS_UNSUPPORTED, "key '%s': the head size is %u; only multiples of 8 are built",
                            full_key(family, "attention.key_length", key), shape->head_dim);
    }
    if (value_length != shape->head_dim) {
        return status_error(STATUS_UNSUPPORTED, "key '%s': is %u; only the key's length, %u, is built",
                            full_key(family, "attention.value_length", key), value_length, shape->head_dim);
    }
    return STATUS_SUCCESS;
}

static struct status read_rope_pairs(const struct gguf *gguf, const struct family *family, struct model_shape *shape) {
    uint32_t dimensions;
    shape->rope_style = family->rope_style;
    shape->rope_magnitude = 1;
    if (family->learned_positions) {
        return STATUS_SUCCESS;
    }
    TRY(read_count(gguf, family, "rope.dimension_count", shape->head_dim, MOST_HEAD_DIM, &dimensions));
    if (dimensions % 2 != 0 || dimensions > shape->head_dim) {
        char key[KEY_BYTES];
        return status_error(STATUS_INVALID, "key '%s': is %u, must be even and at most the head size, %u",
                            full_key(family, "rope.dimension_count", key), dimensions, shape->head_dim);
    }
    shape->rope_pairs = dimensions / 2;
    return STATUS_SUCCESS;
}

/* Keys whose meaning the pass does not have. */
static struct status refuse_unbuilt(const struct gguf *gguf, const struct family *family) {
    static const char *const softcaps[] = {"attn_logit_softcapping", "final_logit_softcapping"};
    char key[KEY_BYTES];
    uint64_t value = 0;
    struct status status = gguf_get_u64(gguf, full_key(family, "expert_count", key), &value);
    if (!status_failed(&status) && value > 0) {
        return status_error(STATUS_UNSUPPORTED, "key '%s': is %llu; mixtures of experts are not built", key,
                            (unsigned long long)value);
    }
    for (size_t i = 0; i < sizeof softcaps / sizeof softcaps[0]; i++) {
        double cap = 0;
        status = gguf_get_f64(gguf, full_key(family, softcaps[i], key), &cap);
        if (!status_failed(&status) && cap != 0) {
            return status_error(STATUS_UNSUPPORTED, "key '%s': is %g; soft caps are not built", key, cap);
        }
    }
    return STATUS_SUCCESS;
}

/* The name for people; a file without one, or with one that is not text, has none. */
static void read_name(const struct gguf *gguf, struct model_shape *shape) {
    struct gguf_string name;
    struct status status = gguf_get_string(gguf, "general.name", &name);
    if (!status_failed(&status) && utf8_valid(name.data, name.bytes)) {
        size_t bytes = name.bytes < sizeof shape->name ? name.bytes : sizeof shape->name - 1;
        memcpy(shape->name, name.data, utf8_complete_prefix(name.data, bytes));
    }
}

static struct status read_scaling_type(const struct gguf *gguf, const struct family *family, bool *none, bool *yarn) {
    char key[KEY_BYTES];
    struct gguf_string type = {"linear", 6}; /* what a file with a factor and no type means */
    struct status status = gguf_get_string(gguf, full_key(family, "rope.scaling.type", key), &type);
    if (status_failed(&status) && status.code != STATUS_NOT_FOUND) {
        return status;
    }
    *none = type.bytes == 4 && memcmp(type.data, "none", 4) == 0;
    *yarn = type.bytes == 4 && memcmp(type.data, "yarn", 4) == 0;
    if (!*none && !*yarn && !(type.bytes == 6 && memcmp(type.data, "linear", 6) == 0)) {
        return status_error(STATUS_UNSUPPORTED,
                            "key '%s': '%.*s' is not built; built are: none, linear, yarn, and Llama 3's by the "
                            "tensor rope_freqs.weight",
                            key, type.bytes < 32 ? (int)type.bytes : 32, type.data);
    }
    return STATUS_SUCCESS;
}

static struct status read_rope(const struct gguf *gguf, const struct family *family, const struct model_shape *shape,
                               struct rope_parameters *rope) {
    bool none, yarn;
    *rope = (struct rope_parameters){.factor = 1};
    TRY(read_positive(gguf, family, "rope.freq_base", 10000, &rope->base));
    TRY(read_scaling_type(gguf, family, &none, &yarn));
    if (none) {
        return STATUS_SUCCESS;
    }
    rope->scaling = yarn ? ROPE_YARN : ROPE_LINEAR;
    TRY(read_positive(gguf, family, "rope.scale_linear", 1, &rope->factor)); /* the key's name in old files */
    TRY(read_positive(gguf, family, "rope.scaling.factor", rope->factor, &rope->factor));
    TRY(read_positive(gguf, family, "rope.scaling.original_context_length", shape->context, &rope->original_context));
    TRY(read_positive(gguf, family, "rope.scaling.attn_factor", 1, &rope->magnitude_factor));
    TRY(read_positive(gguf, family, "rope.scaling.yarn_beta_fast", 32, &rope->beta_fast));
    return read_positive(gguf, family, "rope.scaling.yarn_beta_slow", 1, &rope->beta_slow);
}

static struct status read_pass(const struct gguf *gguf, const struct family *family, const struct model_shape *shape,
                               struct pass *pass) {
    uint32_t window;
    char key[KEY_BYTES];
    if (!family->learned_positions) {
        TRY(read_rope(gguf, family, shape, &pass->rope[ROPE_GLOBAL]));
        pass->local_rope = family->local_base > 0;
        pass->rope[ROPE_LOCAL] = (struct rope_parameters){.base = family->local_base, .factor = 1};
        if (pass->local_rope) {
            TRY(read_positive(gguf, family, "rope.freq_base_swa", family->local_base, &pass->rope[ROPE_LOCAL].base));
        }
    }
    bool windows = gguf_has(gguf, full_key(family, "attention.sliding_window", key));
    if (family->full_every > 0 && !windows) {
        return status_error(STATUS_INVALID, "key '%s': is missing", key);
    }
    TRY(read_count(gguf, family, "attention.sliding_window", MOST_CONTEXT, UINT32_MAX, &window));
    uint32_t full_every = family->full_every;
    if (full_every > 0) {
        TRY(read_count(gguf, family, "attention.sliding_window_pattern", full_every, MOST_LAYERS, &full_every));
    }
    pass->embedding_scale = family->scaled_embedding ? sqrtf((float)shape->width) : 1;
    /* Gemma 3's largest is scaled by the share of a head in the width, which no key says. */
    bool by_width = family->scaled_embedding && shape->layers == 62;
    uint32_t scaled = by_width ? shape->width / shape->query_heads : shape->head_dim;
    pass->attention_scale = 1 / sqrtf((float)scaled);
    return shape_windows(shape->layers, windows ? window : 0, full_every, pass);
}

struct status shape_from_gguf(const struct gguf *gguf, const struct family *family, struct model_shape *shape,
                              struct pass *pass) {
    *shape = (struct model_shape){0};
    *pass = (struct pass){0};
    snprintf(shape->architecture, sizeof shape->architecture, "%s", family->name);
    read_name(gguf, shape);
    TRY(read_count(gguf, family, "block_count", 0, MOST_LAYERS, &shape->layers));
    TRY(read_count(gguf, family, "embedding_length", 0, MOST_WIDTH, &shape->width));
    TRY(read_count(gguf, family, "feed_forward_length", 0, MOST_WIDTH, &shape->feed_forward));
    TRY(read_count(gguf, family, "context_length", 0, MOST_CONTEXT, &shape->context));
    TRY(read_heads(gguf, family, shape));
    TRY(read_rope_pairs(gguf, family, shape));

    /* Files without the key say how large the vocabulary is by the rows of the embedding. */
    const struct gguf_tensor *embedding = gguf_find_tensor(gguf, "token_embd.weight");
    uint64_t rows = embedding && embedding->extent[1] <= MOST_VOCABULARY ? embedding->extent[1] : 0;
    TRY(read_count(gguf, family, "vocab_size", (uint32_t)rows, MOST_VOCABULARY, &shape->vocabulary));

    double epsilon;
    const char *key = family->norm == NORM_RMS ? "attention.layer_norm_rms_epsilon" : "attention.layer_norm_epsilon";
    TRY(read_positive(gguf, family, key, 0, &epsilon));
    shape->norm_epsilon = (float)epsilon;
    TRY(refuse_unbuilt(gguf, family));
    return read_pass(gguf, family, shape, pass);
}
