/* The tensors of a model in its files: found by name, and checked against the hyperparameters.
 *
 * Owns: what extents each tensor has to have, and how the two kinds of files differ: in names, in matrices that lie
 * transposed or several in one, in gains that count from 1. What the pass gets is the same. Threads: any. */
#include "models/model_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NAME_BYTES = 160 };

/* What an extent of a tensor has to be. */
enum extent {
    EXTENT_ONE,
    EXTENT_WIDTH,
    EXTENT_QUERY,
    EXTENT_KV,
    EXTENT_HEAD,
    EXTENT_FEED_FORWARD,
    EXTENT_VOCABULARY,
    EXTENT_CONTEXT,
    EXTENT_PAIRS,
};

static const char *const extent_names[] = {
    [EXTENT_ONE] = "1",
    [EXTENT_WIDTH] = "embedding_length",
    [EXTENT_QUERY] = "attention.head_count * head size",
    [EXTENT_KV] = "attention.head_count_kv * head size",
    [EXTENT_HEAD] = "head size",
    [EXTENT_FEED_FORWARD] = "feed_forward_length",
    [EXTENT_VOCABULARY] = "vocab_size",
    [EXTENT_CONTEXT] = "context_length",
    [EXTENT_PAIRS] = "rope.dimension_count / 2",
};

struct tensor_extents {
    enum extent rows, columns; /* rows are EXTENT_ONE: a vector, used as f32 */
};

static const struct tensor_extents global_extents[GLOBAL_TENSORS] = {
    [GLOBAL_EMBEDDING] = {EXTENT_VOCABULARY, EXTENT_WIDTH},
    [GLOBAL_POSITIONS] = {EXTENT_CONTEXT, EXTENT_WIDTH},
    [GLOBAL_NORM] = {EXTENT_ONE, EXTENT_WIDTH},
    [GLOBAL_NORM_BIAS] = {EXTENT_ONE, EXTENT_WIDTH},
    [GLOBAL_HEAD] = {EXTENT_VOCABULARY, EXTENT_WIDTH},
    [GLOBAL_ROPE_FACTORS] = {EXTENT_ONE, EXTENT_PAIRS},
};

static const struct tensor_extents layer_extents[LAYER_TENSORS] = {
    [LAYER_ATTENTION_NORM] = {EXTENT_ONE, EXTENT_WIDTH},
    [LAYER_ATTENTION_NORM_BIAS] = {EXTENT_ONE, EXTENT_WIDTH},
    [LAYER_QUERY] = {EXTENT_QUERY, EXTENT_WIDTH},
    [LAYER_QUERY_BIAS] = {EXTENT_ONE, EXTENT_QUERY},
    [LAYER_QUERY_NORM] = {EXTENT_ONE, EXTENT_HEAD},
    [LAYER_KEY] = {EXTENT_KV, EXTENT_WIDTH},
    [LAYER_KEY_BIAS] = {EXTENT_ONE, EXTENT_KV},
    [LAYER_KEY_NORM] = {EXTENT_ONE, EXTENT_HEAD},
    [LAYER_VALUE] = {EXTENT_KV, EXTENT_WIDTH},
    [LAYER_VALUE_BIAS] = {EXTENT_ONE, EXTENT_KV},
    [LAYER_ATTENTION_OUTPUT] = {EXTENT_WIDTH, EXTENT_QUERY},
    [LAYER_ATTENTION_OUTPUT_BIAS] = {EXTENT_ONE, EXTENT_WIDTH},
    [LAYER_POST_ATTENTION_NORM] = {EXTENT_ONE, EXTENT_WIDTH},
    [LAYER_FEED_FORWARD_NORM] = {EXTENT_ONE, EXTENT_WIDTH},
    [LAYER_FEED_FORWARD_NORM_BIAS] = {EXTENT_ONE, EXTENT_WIDTH},
    [LAYER_GATE] = {EXTENT_FEED_FORWARD, EXTENT_WIDTH},
    [LAYER_GATE_BIAS] = {EXTENT_ONE, EXTENT_FEED_FORWARD},
    [LAYER_UP] = {EXTENT_FEED_FORWARD, EXTENT_WIDTH},
    [LAYER_UP_BIAS] = {EXTENT_ONE, EXTENT_FEED_FORWARD},
    [LAYER_DOWN] = {EXTENT_WIDTH, EXTENT_FEED_FORWARD},
    [LAYER_DOWN_BIAS] = {EXTENT_ONE, EXTENT_WIDTH},
    [LAYER_POST_FEED_FORWARD_NORM] = {EXTENT_ONE, EXTENT_WIDTH},
};

static uint32_t extent_value(const struct model_shape *shape, enum extent extent) {
    switch (extent) {
    case EXTENT_ONE:
        return 1;
    case EXTENT_WIDTH:
        return shape->width;
    case EXTENT_QUERY:
        return shape->query_heads * shape->head_dim;
    case EXTENT_KV:
        return shape->kv_heads * shape->head_dim;
    case EXTENT_HEAD:
        return shape->head_dim;
    case EXTENT_FEED_FORWARD:
        return shape->feed_forward;
    case EXTENT_VOCABULARY:
        return shape->vocabulary;
    case EXTENT_CONTEXT:
        return shape->context;
    case EXTENT_PAIRS:
        return shape->rope_pairs;
    }
    return 0;
}

bool layout_is_vector(enum layer_tensor i) {
    return layer_extents[i].rows == EXTENT_ONE;
}

bool layout_is_plain_global(enum global_tensor i) {
    return global_extents[i].rows == EXTENT_ONE || i == GLOBAL_POSITIONS;
}

/* ---- the files, of either kind ---- */

/* A tensor as a file has it. */
struct stored {
    const uint8_t *data;
    size_t bytes;
    enum tensor_type type;
    uint64_t extent[4]; /* as struct gguf_tensor */
};

static const struct tensor_names *names_of(const struct model *model) {
    return model->gguf ? &gguf_names : model->family->names;
}

static size_t stored_count(const struct model *model) {
    return model->gguf ? gguf_tensor_count(model->gguf) : safetensors_count(model->safetensors);
}

static struct status find_stored(const struct model *model, const char *name, bool *found, struct stored *out) {
    if (model->gguf != NULL) {
        const struct gguf_tensor *tensor = gguf_find_tensor(model->gguf, name);
        *found = tensor != NULL;
        if (*found) {
            *out = (struct stored){.data = tensor->data, .bytes = tensor->bytes, .type = tensor->type};
            memcpy(out->extent, tensor->extent, sizeof out->extent);
        }
        return STATUS_SUCCESS;
    }
    const struct safetensors_tensor *tensor = safetensors_find(model->safetensors, name);
    *found = tensor != NULL;
    if (*found && !tensor->readable) {
        return status_error(STATUS_UNSUPPORTED, "tensor '%s': dtype: is %s; built are F32, F16, BF16", name,
                            tensor->type_name);
    }
    if (*found) {
        *out = (struct stored){.data = tensor->data, .bytes = tensor->bytes, .type = tensor->type};
        memcpy(out->extent, tensor->extent, sizeof out->extent);
    }
    return STATUS_SUCCESS;
}

/* ---- one tensor ---- */

/* What is looked for. */
struct wanted {
    char name[NAME_BYTES];
    struct tensor_extents extents;
    uint32_t rows, columns;
    uint32_t file_rows, first_row; /* of the file's tensor, of which ours are `rows` */
    bool transposed, matrix, required;
    float offset;
};

static struct status check_stored(const struct wanted *wanted, const struct stored *stored) {
    /* A vector is one row; of several vectors in one, the rows are its values. */
    bool vector = wanted->extents.rows == EXTENT_ONE;
    uint64_t columns = vector ? wanted->file_rows : wanted->transposed ? wanted->file_rows : wanted->columns;
    uint64_t rows = vector ? 1 : wanted->transposed ? wanted->columns : wanted->file_rows;
    if (stored->extent[0] != columns || stored->extent[1] != rows || stored->extent[2] * stored->extent[3] != 1) {
        enum extent first = wanted->transposed ? wanted->extents.rows : wanted->extents.columns;
        enum extent second = wanted->transposed ? wanted->extents.columns : wanted->extents.rows;
        return status_error(STATUS_INVALID, "tensor '%s': is %llu x %llu, must be %llu (%s) x %llu (%s)", wanted->name,
                            (unsigned long long)stored->extent[0], (unsigned long long)stored->extent[1],
                            (unsigned long long)columns, extent_names[first], (unsigned long long)rows,
                            extent_names[second]);
    }
    if (!wanted->matrix && tensor_traits(stored->type)->block_elements != 1) {
        return status_error(STATUS_UNSUPPORTED, "tensor '%s': type: is %s; a vector must be F32, F16 or BF16",
                            wanted->name, tensor_traits(stored->type)->name);
    }
    return STATUS_SUCCESS;
}

/* The type that a matrix of floats has on the device. */
static enum tensor_type device_type(const struct model *model, const struct wanted *wanted, enum tensor_type type) {
    if (type == TENSOR_Q5_0) {
        return TENSOR_Q8_0;
    }
    bool floats = tensor_traits(type)->block_elements == 1;
    if (!wanted->matrix || !floats || model->quantize == QUANTIZE_NONE || wanted->columns % 32 != 0) {
        return type;
    }
    /* A coarser embedding or head is heard in every token: these get 8 bits. */
    bool table = wanted->extents.rows == EXTENT_VOCABULARY;
    return model->quantize == QUANTIZE_Q8_0 || table ? TENSOR_Q8_0 : TENSOR_Q4_1;
}

static struct status find_tensor(const struct model *model, const struct wanted *wanted, struct model_tensor *out) {
    struct stored stored;
    bool found;
    TRY(find_stored(model, wanted->name, &found, &stored));
    *out = (struct model_tensor){0};
    if (!found) {
        return wanted->required ? status_error(STATUS_INVALID, "tensor '%s': is missing", wanted->name)
                                : STATUS_SUCCESS;
    }
    TRY(check_stored(wanted, &stored));
    const bool vector = wanted->extents.rows == EXTENT_ONE;
    const size_t row_bytes = tensor_row_bytes(stored.type, vector ? 1 : stored.extent[0]);
    const size_t value_bytes = tensor_traits(stored.type)->block_bytes;
    *out = (struct model_tensor){
        .rows = wanted->rows,
        .columns = wanted->columns,
        .type = device_type(model, wanted, stored.type),
        .file_type = stored.type,
        .data = stored.data + wanted->first_row * (vector || wanted->transposed ? value_bytes : row_bytes),
        .row_step = vector               ? tensor_row_bytes(stored.type, wanted->columns)
                    : wanted->transposed ? value_bytes
                                         : row_bytes,
        .column_step = wanted->transposed ? row_bytes : 0,
        .offset = wanted->offset,
        .file_data = stored.data,
        .file_bytes = stored.bytes,
    };
    return STATUS_SUCCESS;
}

/* ---- outside layers ---- */

static const char *prefix_of(const struct model *model) {
    const struct tensor_names *names = names_of(model);
    for (size_t i = 0; i < 3 && names->prefixes[i] != NULL; i++) {
        char name[NAME_BYTES];
        struct stored stored;
        bool found = false;
        snprintf(name, sizeof name, "%s%s", names->prefixes[i], names->global[GLOBAL_EMBEDDING]);
        struct status status = find_stored(model, name, &found, &stored);
        if (found || status_failed(&status)) {
            return names->prefixes[i];
        }
    }
    return names->prefixes[0];
}

static bool global_is_required(const struct model *model, enum global_tensor i) {
    switch (i) {
    case GLOBAL_EMBEDDING:
    case GLOBAL_NORM:
        return true;
    case GLOBAL_POSITIONS:
        return model->family->learned_positions;
    case GLOBAL_NORM_BIAS:
        return model->family->norm == NORM_LAYER;
    case GLOBAL_HEAD:
        return model->pass.head == HEAD_OWN;
    default:
        return false;
    }
}

static bool global_is_wanted(const struct model *model, enum global_tensor i) {
    return global_is_required(model, i) || (i == GLOBAL_HEAD && model->pass.head == HEAD_IF_THERE) ||
           (i == GLOBAL_ROPE_FACTORS && model->shape.rope_pairs > 0);
}

static struct status find_global(struct model *model, const char *prefix, enum global_tensor i) {
    const char *name = names_of(model)->global[i];
    if (name == NULL || !global_is_wanted(model, i)) {
        return STATUS_SUCCESS;
    }
    struct wanted wanted = {
        .extents = global_extents[i], .matrix = !layout_is_plain_global(i), .required = global_is_required(model, i)};
    wanted.rows = extent_value(&model->shape, wanted.extents.rows);
    wanted.columns = extent_value(&model->shape, wanted.extents.columns);
    wanted.file_rows = wanted.extents.rows == EXTENT_ONE ? wanted.columns : wanted.rows;
    if (i == GLOBAL_POSITIONS && model->gguf == NULL) {
        wanted.first_row = model->family->skipped_positions;
        wanted.file_rows += wanted.first_row;
    }
    wanted.offset = i == GLOBAL_NORM && model->gguf == NULL && model->family->offset_gain ? 1 : 0;
    snprintf(wanted.name, sizeof wanted.name, "%s%s", i == GLOBAL_HEAD ? "" : prefix, name);
    return find_tensor(model, &wanted, &model->global[i]);
}

/* ---- layers ---- */

static bool is_gain(enum layer_tensor i) {
    return i == LAYER_ATTENTION_NORM || i == LAYER_QUERY_NORM || i == LAYER_KEY_NORM ||
           i == LAYER_POST_ATTENTION_NORM || i == LAYER_FEED_FORWARD_NORM || i == LAYER_POST_FEED_FORWARD_NORM;
}

/* Queries, keys and values in one tensor: which of its rows are `i`'s, and its name. */
static const char *fuse(const struct model *model, enum layer_tensor i, struct wanted *wanted) {
    const uint32_t query = extent_value(&model->shape, EXTENT_QUERY), kv = extent_value(&model->shape, EXTENT_KV);
    const bool bias = i == LAYER_QUERY_BIAS || i == LAYER_KEY_BIAS || i == LAYER_VALUE_BIAS;
    if (!bias && i != LAYER_QUERY && i != LAYER_KEY && i != LAYER_VALUE) {
        return names_of(model)->tensor[i];
    }
    wanted->file_rows = query + 2 * kv;
    wanted->first_row = i == LAYER_QUERY || i == LAYER_QUERY_BIAS ? 0
                        : i == LAYER_KEY || i == LAYER_KEY_BIAS   ? query
                                                                  : query + kv;
    if (model->gguf != NULL) {
        return bias ? "attn_qkv.bias" : "attn_qkv.weight";
    }
    return names_of(model)->tensor[bias ? LAYER_QUERY_BIAS : LAYER_QUERY];
}

static struct status find_layer_tensor(struct model *model, const char *prefix, uint32_t layer, enum layer_tensor i) {
    const struct family *family = model->family;
    const bool required = (family->required & TENSOR_BIT(i)) != 0;
    if (!required && (family->optional & TENSOR_BIT(i)) == 0) {
        return STATUS_SUCCESS; /* refused with every other tensor that nothing claims */
    }
    struct wanted wanted = {.extents = layer_extents[i], .matrix = !layout_is_vector(i), .required = required};
    wanted.rows = extent_value(&model->shape, wanted.extents.rows);
    wanted.columns = extent_value(&model->shape, wanted.extents.columns);
    wanted.file_rows = wanted.matrix ? wanted.rows : wanted.columns;
    wanted.transposed = wanted.matrix && family->transposed && model->gguf == NULL;
    wanted.offset = is_gain(i) && family->offset_gain && model->gguf == NULL ? 1 : 0;
    const char *name = family->fused_qkv ? fuse(model, i, &wanted) : names_of(model)->tensor[i];
    snprintf(wanted.name, sizeof wanted.name, "%s%s%u.%s", prefix, names_of(model)->layer, layer, name);
    return find_tensor(model, &wanted, &model->layers[layer].tensor[i]);
}

/* ---- what is left over ---- */

static bool is_claimed(const struct model *model, const void *data) {
    for (int i = 0; i < GLOBAL_TENSORS; i++) {
        if (model->global[i].rows > 0 && model->global[i].file_data == data) {
            return true;
        }
    }
    for (uint32_t layer = 0; layer < model->shape.layers; layer++) {
        for (int i = 0; i < LAYER_TENSORS; i++) {
            const struct model_tensor *tensor = &model->layers[layer].tensor[i];
            if (tensor->rows > 0 && tensor->file_data == data) {
                return true;
            }
        }
    }
    return false;
}

/* What training programs saved beside the weights: causal masks and rotary frequencies, both computed here; and the
 * copy of the embedding that a tied head is. */
static bool is_redundant(const struct model *model, const char *name) {
    static const char *const endings[] = {".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq"};
    size_t length = strlen(name);
    for (size_t i = 0; i < sizeof endings / sizeof endings[0]; i++) {
        size_t ending = strlen(endings[i]);
        if (length > ending && strcmp(name + length - ending, endings[i]) == 0) {
            return true;
        }
    }
    return model->pass.head == HEAD_TIED && strcmp(name, "lm_head.weight") == 0;
}

static struct status refuse_unclaimed(const struct model *model) {
    for (size_t i = 0; i < stored_count(model); i++) {
        const struct gguf_tensor *tensor = model->gguf ? gguf_tensor_at(model->gguf, i) : NULL;
        const char *name = tensor ? tensor->name.data : safetensors_at(model->safetensors, i)->name;
        size_t bytes = tensor ? tensor->name.bytes : strlen(name);
        const void *data = tensor ? tensor->data : safetensors_at(model->safetensors, i)->data;
        if (is_claimed(model, data) || (tensor == NULL && is_redundant(model, name))) {
            continue;
        }
        return status_error(STATUS_UNSUPPORTED, "tensor '%.*s': is not part of the family '%s' as it is built",
                            bytes < 64 ? (int)bytes : 64, name, model->family->name);
    }
    return STATUS_SUCCESS;
}

/* ---- all of them ---- */

static void count_parameters(struct model_shape *shape, const struct model_tensor *tensor) {
    shape->parameters += (uint64_t)tensor->rows * tensor->columns;
}

struct status layout_find(struct model *model) {
    const char *prefix = prefix_of(model);
    for (int i = 0; i < GLOBAL_TENSORS; i++) {
        TRY(find_global(model, prefix, (enum global_tensor)i));
        count_parameters(&model->shape, &model->global[i]);
    }
    model->shape.tied_head = model->global[GLOBAL_HEAD].rows == 0;

    /* A layer has at least one tensor, so a lying count of layers ends here and not in a large allocation. */
    if (model->shape.layers > stored_count(model)) {
        char key[NAME_BYTES];
        snprintf(key, sizeof key, "key '%s.block_count'", model->family->name);
        return status_error(STATUS_INVALID, "%s: is %u, and there are only %zu tensors",
                            model->gguf ? key : model->family->config->layers, model->shape.layers,
                            stored_count(model));
    }
    model->layers = calloc(model->shape.layers, sizeof *model->layers);
    if (model->layers == NULL) {
        return status_error(STATUS_NO_MEMORY, "no memory for the directory of %u layers", model->shape.layers);
    }
    for (uint32_t layer = 0; layer < model->shape.layers; layer++) {
        for (int i = 0; i < LAYER_TENSORS; i++) {
            TRY(find_layer_tensor(model, prefix, layer, (enum layer_tensor)i));
            count_parameters(&model->shape, &model->layers[layer].tensor[i]);
        }
    }
    return refuse_unclaimed(model);
}
