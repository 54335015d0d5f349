/* A model's hyperparameters: read from the keys of its file, each checked against its range and against the others.
 *
 * Owns: the names of the keys, their defaults and ranges, and the arithmetic of rotary scaling. The extents of
 * tensors are checked against the result in layout.c. Threads: any; pure. */
#include "models/model_internal.h"

#include "base/log.h"
#include "base/utf8.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* Nothing near these is built anywhere; beyond them a product of two could pass 64 bits of bytes. */
enum {
    MOST_LAYERS = 4096,
    MOST_WIDTH = 1 << 20,
    MOST_HEADS = 1 << 14,
    MOST_HEAD_DIM = 1 << 12,
    MOST_VOCABULARY = 1 << 24,
    MOST_CONTEXT = 1 << 28,
};

enum { KEY_BYTES = 96 };

/* "llama.block_count" from "block_count". */
static const char *full_key(const struct family *family, const char *suffix, char buffer[KEY_BYTES]) {
    snprintf(buffer, KEY_BYTES, "%s.%s", family->architecture, suffix);
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
    TRY(read_count(gguf, family, "rope.dimension_count", shape->head_dim, MOST_HEAD_DIM, &dimensions));
    if (dimensions % 2 != 0 || dimensions > shape->head_dim) {
        char key[KEY_BYTES];
        return status_error(STATUS_INVALID, "key '%s': is %u, must be even and at most the head size, %u",
                            full_key(family, "rope.dimension_count", key), dimensions, shape->head_dim);
    }
    shape->rope_pairs = dimensions / 2;
    shape->rope_style = family->rope_style;
    shape->rope_magnitude = 1;
    return STATUS_SUCCESS;
}

/* Keys whose meaning the pass does not have. */
static struct status refuse_unbuilt(const struct gguf *gguf, const struct family *family, struct model_shape *shape) {
    char key[KEY_BYTES];
    uint64_t value = 0;
    struct status status = gguf_get_u64(gguf, full_key(family, "expert_count", key), &value);
    if (!status_failed(&status) && value > 0) {
        return status_error(STATUS_UNSUPPORTED, "key '%s': is %llu; mixtures of experts are not built", key,
                            (unsigned long long)value);
    }
    /* Within its window, attention to a window is attention to everything. */
    uint32_t window;
    TRY(read_count(gguf, family, "attention.sliding_window", shape->context, UINT32_MAX, &window));
    if (window < shape->context) {
        log_warn("context cut from %u to %u tokens: sliding windows are not built", shape->context, window);
        shape->context = window;
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

struct status shape_read(const struct gguf *gguf, const struct family *family, struct model_shape *shape) {
    *shape = (struct model_shape){0};
    snprintf(shape->architecture, sizeof shape->architecture, "%s", family->architecture);
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
    TRY(read_positive(gguf, family, "attention.layer_norm_rms_epsilon", 0, &epsilon));
    shape->norm_epsilon = (float)epsilon;
    return refuse_unbuilt(gguf, family, shape);
}

/* ---- rotary frequencies ---- */

struct rope_scaling {
    bool yarn;
    double base, factor; /* factor 1: no scaling */
    double original_context, attention_factor, beta_fast, beta_slow;
};

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

static struct status read_scaling(const struct gguf *gguf, const struct family *family, const struct model_shape *shape,
                                  struct rope_scaling *scaling) {
    bool none;
    *scaling = (struct rope_scaling){.factor = 1};
    TRY(read_positive(gguf, family, "rope.freq_base", 10000, &scaling->base));
    TRY(read_scaling_type(gguf, family, &none, &scaling->yarn));
    if (none) {
        return STATUS_SUCCESS;
    }
    TRY(read_positive(gguf, family, "rope.scale_linear", 1, &scaling->factor)); /* the key's name in old files */
    TRY(read_positive(gguf, family, "rope.scaling.factor", scaling->factor, &scaling->factor));
    TRY(read_positive(gguf, family, "rope.scaling.original_context_length", shape->context,
                      &scaling->original_context));
    TRY(read_positive(gguf, family, "rope.scaling.attn_factor", 1, &scaling->attention_factor));
    TRY(read_positive(gguf, family, "rope.scaling.yarn_beta_fast", 32, &scaling->beta_fast));
    return read_positive(gguf, family, "rope.scaling.yarn_beta_slow", 1, &scaling->beta_slow);
}

/* YaRN, Peng et al. arXiv 2309.00071, section 3.2: the (fractional) pair that turns `turns` times within the
 * original context. */
static double pair_of_turns(const struct rope_scaling *scaling, double dimensions, double turns) {
    return dimensions * log(scaling->original_context / (turns * 2 * M_PI)) / (2 * log(scaling->base));
}

/* The share of a pair's frequency that stays as trained: 1 for the fast pairs, 0 for the slow, a ramp between. */
static double yarn_kept_share(const struct rope_scaling *scaling, double dimensions, double pair) {
    double low = fmax(floor(pair_of_turns(scaling, dimensions, scaling->beta_fast)), 0);
    double high = fmin(ceil(pair_of_turns(scaling, dimensions, scaling->beta_slow)), dimensions - 1);
    double ramp = (pair - low) / fmax(high - low, 0.001);
    return 1 - fmin(fmax(ramp, 0), 1);
}

struct status shape_rope(const struct gguf *gguf, const struct family *family, const float *factors,
                         struct model_shape *shape, float *frequency) {
    struct rope_scaling scaling;
    TRY(read_scaling(gguf, family, shape, &scaling));
    double dimensions = 2.0 * shape->rope_pairs;
    for (uint32_t pair = 0; pair < shape->rope_pairs; pair++) {
        double trained = pow(scaling.base, -2.0 * pair / dimensions);
        if (factors != NULL) {
            if (!(factors[pair] > 0) || !isfinite(factors[pair])) {
                return status_error(STATUS_INVALID, "tensor 'rope_freqs.weight': value %u is %g, must be above 0", pair,
                                    (double)factors[pair]);
            }
            trained /= (double)factors[pair];
        }
        double kept = scaling.yarn ? yarn_kept_share(&scaling, dimensions, pair) : 0;
        frequency[pair] = (float)(trained * (kept + (1 - kept) / scaling.factor));
    }
    if (scaling.yarn) { /* section 3.4: 1 / sqrt(t) */
        shape->rope_magnitude = (float)(scaling.attention_factor * (1 + 0.1 * log(scaling.factor)));
    }
    return STATUS_SUCCESS;
}
