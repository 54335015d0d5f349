/* Hyperparameters from the config.json of a Hugging Face directory, each checked against its range and the others.
 *
 * Owns: the names of its fields and their defaults, in the spellings of transformers before 5 (rope_theta,
 * rope_scaling) and since (rope_parameters). A field that would change the result in a way that is not built is refused
 * by its name. Threads: any; pure. */
#include "models/model_internal.h"

#include "base/json.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const struct json_rules rules = {.depth = 16, .values = 1 << 16, .unique = true};

/* ---- fields ---- */

/* NULL if it is absent or null. */
static const cJSON *field(const cJSON *object, const char *name) {
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, name);
    return item == NULL || cJSON_IsNull(item) ? NULL : item;
}

/* A whole number of 1 .. most. An absent field gives `fallback`; a fallback of 0 says that it is required. */
static struct status read_count(const cJSON *object, const char *name, uint32_t fallback, uint32_t most,
                                uint32_t *out) {
    const cJSON *item = field(object, name);
    if (item == NULL) {
        *out = fallback;
        return fallback > 0 ? STATUS_SUCCESS : status_error(STATUS_INVALID, "%s: is missing", name);
    }
    if (!cJSON_IsNumber(item)) {
        return status_error(STATUS_INVALID, "%s: is %s, must be a whole number", name, json_type_name(item));
    }
    double value = item->valuedouble;
    if (!(value >= 1 && value <= most) || value != floor(value)) {
        return status_error(STATUS_INVALID, "%s: is %g, must be a whole number, 1 to %u", name, value, most);
    }
    *out = (uint32_t)value;
    return STATUS_SUCCESS;
}

/* A finite number above 0. An absent field gives `fallback`; a fallback of 0 says that it is required. */
static struct status read_positive(const cJSON *object, const char *name, double fallback, double *out) {
    const cJSON *item = field(object, name);
    if (item == NULL) {
        *out = fallback;
        return fallback > 0 ? STATUS_SUCCESS : status_error(STATUS_INVALID, "%s: is missing", name);
    }
    if (!cJSON_IsNumber(item) || !(item->valuedouble > 0) || !isfinite(item->valuedouble)) {
        return status_error(STATUS_INVALID, "%s: must be a finite number above 0", name);
    }
    *out = item->valuedouble;
    return STATUS_SUCCESS;
}

static struct status read_bool(const cJSON *object, const char *name, bool fallback, bool *out) {
    const cJSON *item = field(object, name);
    if (item != NULL && !cJSON_IsBool(item)) {
        return status_error(STATUS_INVALID, "%s: is %s, must be true or false", name, json_type_name(item));
    }
    *out = item ? cJSON_IsTrue(item) : fallback;
    return STATUS_SUCCESS;
}

/* ---- what the pass does not do ---- */

static struct status refuse_unbuilt(const cJSON *config, const struct family *family, const struct model_shape *shape) {
    static const struct {
        const char *name;
        bool built;
    } switches[] = {
        {"add_cross_attention", false},
        {"is_encoder_decoder", false},
        {"scale_attn_by_inverse_layer_idx", false},
        {"scale_attn_weights", true},
        {"use_bidirectional_attention", false},
        {"do_layer_norm_before", true},
        {"_remove_final_layer_norm", false},
        {"enable_bias", true},
        {"layer_norm_elementwise_affine", true},
    };
    static const char *const absent[] = {"attn_logit_softcapping", "final_logit_softcapping", "quantization_config"};
    for (size_t i = 0; i < sizeof switches / sizeof switches[0]; i++) {
        bool value = switches[i].built;
        TRY(read_bool(config, switches[i].name, switches[i].built, &value));
        if (value != switches[i].built) {
            return status_error(STATUS_UNSUPPORTED, "%s: is %s, which is not built", switches[i].name,
                                value ? "true" : "false");
        }
    }
    for (size_t i = 0; i < sizeof absent / sizeof absent[0]; i++) {
        if (field(config, absent[i]) != NULL) {
            return status_error(STATUS_UNSUPPORTED, "%s: is set, and not built", absent[i]);
        }
    }
    uint32_t projection;
    double rotary;
    TRY(read_count(config, "word_embed_proj_dim", shape->width, MOST_WIDTH, &projection));
    if (projection != shape->width) {
        return status_error(STATUS_UNSUPPORTED, "word_embed_proj_dim: is %u; only the width, %u, is built", projection,
                            shape->width);
    }
    TRY(read_positive(config, "partial_rotary_factor", 1, &rotary));
    if (rotary != 1) {
        return status_error(STATUS_UNSUPPORTED, "partial_rotary_factor: is %g; only 1 is built", rotary);
    }
    const cJSON *activation = field(config, family->config->activation);
    const char *const *may_be = family->config->must_be;
    const char *is = activation ? cJSON_GetStringValue(activation) : may_be[0];
    if (is == NULL || (strcmp(is, may_be[0]) != 0 && (may_be[1] == NULL || strcmp(is, may_be[1]) != 0))) {
        return status_error(STATUS_UNSUPPORTED, "%s: is \"%.32s\"; \"%s\" is built", family->config->activation,
                            is ? is : "not a string", may_be[0]);
    }
    return STATUS_SUCCESS;
}

/* ---- shape ---- */

static struct status read_heads(const cJSON *config, const struct family *family, struct model_shape *shape) {
    const char *heads = family->config->heads;
    TRY(read_count(config, heads, 0, MOST_HEADS, &shape->query_heads));
    TRY(read_count(config, "num_key_value_heads", shape->query_heads, MOST_HEADS, &shape->kv_heads));
    if (shape->query_heads % shape->kv_heads != 0) {
        return status_error(STATUS_INVALID, "num_key_value_heads: is %u, must divide %s, which is %u", shape->kv_heads,
                            heads, shape->query_heads);
    }
    bool divides = shape->width % shape->query_heads == 0;
    if (!divides && field(config, "head_dim") == NULL) {
        return status_error(STATUS_INVALID, "%s: is %u, must divide the width, which is %u", heads, shape->query_heads,
                            shape->width);
    }
    TRY(read_count(config, "head_dim", divides ? shape->width / shape->query_heads : 0, MOST_HEAD_DIM,
                   &shape->head_dim));
    if (shape->head_dim % 8 != 0) {
        return status_error(STATUS_UNSUPPORTED, "head_dim: is %u; only multiples of 8 are built", shape->head_dim);
    }
    return STATUS_SUCCESS;
}

static struct status read_shape(const cJSON *config, const struct family *family, struct model_shape *shape) {
    const struct config_names *names = family->config;
    snprintf(shape->architecture, sizeof shape->architecture, "%s", family->name);
    TRY(read_count(config, names->layers, 0, MOST_LAYERS, &shape->layers));
    TRY(read_count(config, names->width, 0, MOST_WIDTH / 4, &shape->width));
    /* GPT-2 writes null for four times the width; elsewhere the field is there. */
    TRY(read_count(config, names->feed_forward, family->fused_qkv ? 4 * shape->width : 0, MOST_WIDTH,
                   &shape->feed_forward));
    TRY(read_count(config, names->context, 0, MOST_CONTEXT, &shape->context));
    TRY(read_count(config, "vocab_size", 0, MOST_VOCABULARY, &shape->vocabulary));
    TRY(read_heads(config, family, shape));
    double epsilon = 1e-5;
    if (names->epsilon != NULL) {
        TRY(read_positive(config, names->epsilon, 0, &epsilon));
    }
    shape->norm_epsilon = (float)epsilon;
    shape->rope_style = ROPE_HALVES;
    shape->rope_magnitude = 1;
    shape->rope_pairs = family->learned_positions ? 0 : shape->head_dim / 2;
    return STATUS_SUCCESS;
}

/* ---- rotary embedding ---- */

static struct status read_llama3(const cJSON *object, struct rope_parameters *rope) {
    rope->scaling = ROPE_LLAMA3;
    TRY(read_positive(object, "original_max_position_embeddings", 0, &rope->original_context));
    TRY(read_positive(object, "low_freq_factor", 0, &rope->low_frequency));
    TRY(read_positive(object, "high_freq_factor", 0, &rope->high_frequency));
    if (!(rope->high_frequency > rope->low_frequency)) {
        return status_error(STATUS_INVALID, "high_freq_factor: is %g, must be above low_freq_factor, %g",
                            rope->high_frequency, rope->low_frequency);
    }
    return STATUS_SUCCESS;
}

static struct status read_yarn(const cJSON *object, uint32_t context, struct rope_parameters *rope) {
    static const char *const unbuilt[] = {"mscale", "mscale_all_dim", "truncate"};
    rope->scaling = ROPE_YARN;
    for (size_t i = 0; i < sizeof unbuilt / sizeof unbuilt[0]; i++) {
        if (field(object, unbuilt[i]) != NULL && !cJSON_IsTrue(field(object, unbuilt[i]))) {
            return status_error(STATUS_UNSUPPORTED, "%s: is set, and not built", unbuilt[i]);
        }
    }
    rope->magnitude_factor = 1;
    if (field(object, "attention_factor") != NULL) {
        TRY(read_positive(object, "attention_factor", 0, &rope->magnitude));
    }
    TRY(read_positive(object, "original_max_position_embeddings", context, &rope->original_context));
    TRY(read_positive(object, "beta_fast", 32, &rope->beta_fast));
    return read_positive(object, "beta_slow", 1, &rope->beta_slow);
}

/* `object` is rope_scaling or rope_parameters. */
static struct status read_scaling(const cJSON *object, uint32_t context, struct rope_parameters *rope) {
    const cJSON *item = field(object, "rope_type") ? field(object, "rope_type") : field(object, "type");
    const char *type = item ? cJSON_GetStringValue(item) : "default";
    if (type != NULL && strcmp(type, "default") == 0) {
        return STATUS_SUCCESS;
    }
    bool linear = type != NULL && strcmp(type, "linear") == 0, yarn = type != NULL && strcmp(type, "yarn") == 0;
    if (!linear && !yarn && (type == NULL || strcmp(type, "llama3") != 0)) {
        return status_error(STATUS_UNSUPPORTED, "rope_type: is \"%.32s\"; built are: default, linear, llama3, yarn",
                            type ? type : "not a string");
    }
    TRY(read_positive(object, "factor", 0, &rope->factor));
    rope->scaling = ROPE_LINEAR;
    return linear ? STATUS_SUCCESS : yarn ? read_yarn(object, context, rope) : read_llama3(object, rope);
}

static struct status check_object(const cJSON *item, const char *name) {
    return cJSON_IsObject(item)
               ? STATUS_SUCCESS
               : status_error(STATUS_INVALID, "%s: is %s, must be an object", name, json_type_name(item));
}

/* Since transformers 5: one object, or in families with two kinds of layers one for each. */
static struct status read_rope_parameters(const cJSON *object, const struct family *family, uint32_t context,
                                          struct pass *pass) {
    const cJSON *global = object, *local = NULL;
    TRY(check_object(object, "rope_parameters"));
    if (family->local_base > 0) {
        global = field(object, "full_attention");
        local = field(object, "sliding_attention");
        if (!cJSON_IsObject(global) || !cJSON_IsObject(local)) {
            return status_error(STATUS_INVALID, "rope_parameters: must have full_attention and sliding_attention");
        }
        TRY(read_positive(local, "rope_theta", family->local_base, &pass->rope[ROPE_LOCAL].base));
        TRY(status_context(read_scaling(local, context, &pass->rope[ROPE_LOCAL]), "sliding_attention"));
        if (pass->rope[ROPE_LOCAL].scaling == ROPE_YARN) {
            return status_error(STATUS_UNSUPPORTED, "sliding_attention: rope_type: yarn is not built for windows");
        }
    }
    double rotary;
    TRY(read_positive(global, "partial_rotary_factor", 1, &rotary));
    if (rotary != 1) {
        return status_error(STATUS_UNSUPPORTED, "partial_rotary_factor: is %g; only 1 is built", rotary);
    }
    TRY(read_positive(global, "rope_theta", 10000, &pass->rope[ROPE_GLOBAL].base));
    return read_scaling(global, context, &pass->rope[ROPE_GLOBAL]);
}

static struct status read_rope(const cJSON *config, const struct family *family, uint32_t context, struct pass *pass) {
    pass->rope[ROPE_GLOBAL] = pass->rope[ROPE_LOCAL] = (struct rope_parameters){.factor = 1};
    pass->local_rope = family->local_base > 0;
    const cJSON *parameters = field(config, "rope_parameters"), *scaling = field(config, "rope_scaling");
    if (parameters != NULL) {
        return status_context(read_rope_parameters(parameters, family, context, pass), "rope_parameters");
    }
    TRY(read_positive(config, "rope_theta", 10000, &pass->rope[ROPE_GLOBAL].base));
    if (pass->local_rope) {
        TRY(read_positive(config, "rope_local_base_freq", family->local_base, &pass->rope[ROPE_LOCAL].base));
    }
    if (scaling == NULL) {
        return STATUS_SUCCESS;
    }
    TRY(check_object(scaling, "rope_scaling"));
    return status_context(read_scaling(scaling, context, &pass->rope[ROPE_GLOBAL]), "rope_scaling");
}

/* ---- windows ---- */

/* layer_types says of each layer whether it has a window. */
static struct status read_layer_types(const cJSON *types, uint32_t layers, struct pass *pass) {
    if (!cJSON_IsArray(types) || (uint32_t)cJSON_GetArraySize(types) != layers) {
        return status_error(STATUS_INVALID, "layer_types: must be a list of %u", layers);
    }
    uint32_t layer = 0;
    const cJSON *item;
    cJSON_ArrayForEach(item, types) {
        const char *type = cJSON_GetStringValue(item);
        bool full = type != NULL && strcmp(type, "full_attention") == 0;
        if (!full && (type == NULL || strcmp(type, "sliding_attention") != 0)) {
            return status_error(STATUS_UNSUPPORTED,
                                "layer_types: %u is \"%.32s\"; built are: full_attention, sliding_attention", layer,
                                type ? type : "not a string");
        }
        if (!full && pass->window[layer] == 0) {
            return status_error(STATUS_INVALID, "layer_types: %u is sliding_attention, and sliding_window is missing",
                                layer);
        }
        pass->window[layer++] *= !full;
    }
    return STATUS_SUCCESS;
}

static struct status read_windows(const cJSON *config, const struct family *family, uint32_t layers,
                                  struct pass *pass) {
    const cJSON *types = field(config, "layer_types");
    bool used = true;
    uint32_t window = 0, full_every = types != NULL ? 0 : family->full_every, first = 0;
    TRY(read_bool(config, "use_sliding_window", true, &used));
    if (used && field(config, "sliding_window") != NULL) {
        TRY(read_count(config, "sliding_window", 0, UINT32_MAX, &window));
    }
    if (family->full_every > 0 && window == 0) {
        return status_error(STATUS_INVALID, "sliding_window: is missing");
    }
    if (full_every > 0) {
        TRY(read_count(config, "_sliding_window_pattern", full_every, MOST_LAYERS, &full_every));
        TRY(read_count(config, "sliding_window_pattern", full_every, MOST_LAYERS, &full_every));
    }
    TRY(shape_windows(layers, window, full_every, pass));
    if (types != NULL) {
        return read_layer_types(types, layers, pass);
    }
    const cJSON *none_before = field(config, "max_window_layers"); /* Qwen2 */
    if (none_before != NULL && cJSON_IsNumber(none_before) && none_before->valuedouble > 0) {
        TRY(read_count(config, "max_window_layers", 0, UINT32_MAX, &first));
    }
    for (uint32_t layer = 0; layer < layers && layer < first; layer++) {
        pass->window[layer] = 0;
    }
    return STATUS_SUCCESS;
}

/* ---- all of it ---- */

static struct status read_config(const cJSON *config, const struct family **family, struct model_shape *shape,
                                 struct pass *pass) {
    bool tied = false;
    double scaled_by;
    TRY(check_object(config, "the file"));
    const cJSON *type = field(config, "model_type");
    if (!cJSON_IsString(type)) {
        return status_error(STATUS_INVALID, "model_type: is missing");
    }
    TRY(family_of_config(type->valuestring, family));
    TRY(read_shape(config, *family, shape));
    TRY(refuse_unbuilt(config, *family, shape));
    if (!(*family)->learned_positions) {
        TRY(read_rope(config, *family, shape->context, pass));
    }
    TRY(read_positive(config, "query_pre_attn_scalar", shape->head_dim, &scaled_by));
    pass->attention_scale = (float)(1 / sqrt(scaled_by));
    pass->embedding_scale = (*family)->scaled_embedding ? sqrtf((float)shape->width) : 1;
    TRY(read_bool(config, "tie_word_embeddings", (*family)->config->tied, &tied));
    pass->head = tied ? HEAD_TIED : HEAD_OWN;
    return read_windows(config, *family, shape->layers, pass);
}

struct status shape_from_config(const char *text, size_t bytes, const struct family **family, struct model_shape *shape,
                                struct pass *pass) {
    cJSON *config = NULL;
    *shape = (struct model_shape){0};
    *pass = (struct pass){0};
    struct status status = json_parse(text, bytes, &rules, &config);
    if (!status_failed(&status)) {
        status = read_config(config, family, shape, pass);
        cJSON_Delete(config);
    }
    return status_context(status, "config.json");
}
