/* The tensors of a model: found by name, checked against the hyperparameters, and packed for a device.
 *
 * Owns: the tables of names and extents, and the order in which tensors lie in a packed layer: one contiguous run,
 * each tensor at a multiple of 64 bytes. Layers may differ in size, since files mix types between layers.
 * Threads: any; nothing here is mutable but what the caller passes. */
#include "models/model_internal.h"

#include "base/bytes.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ALIGNMENT = 64, NAME_BYTES = 64 };

/* What an extent of a tensor has to be. */
enum extent { EXTENT_ONE, EXTENT_WIDTH, EXTENT_QUERY, EXTENT_KV, EXTENT_FEED_FORWARD, EXTENT_VOCABULARY, EXTENT_PAIRS };

static const char *const extent_names[] = {
    [EXTENT_ONE] = "1",
    [EXTENT_WIDTH] = "embedding_length",
    [EXTENT_QUERY] = "attention.head_count * head size",
    [EXTENT_KV] = "attention.head_count_kv * head size",
    [EXTENT_FEED_FORWARD] = "feed_forward_length",
    [EXTENT_VOCABULARY] = "vocab_size",
    [EXTENT_PAIRS] = "rope.dimension_count / 2",
};

struct tensor_row {
    const char *name;
    enum extent rows, columns; /* rows are EXTENT_ONE: a vector, used as f32 */
    enum presence presence;
};

static const struct tensor_row global_rows[GLOBAL_TENSORS] = {
    [GLOBAL_EMBEDDING] = {"token_embd.weight", EXTENT_VOCABULARY, EXTENT_WIDTH, PRESENCE_REQUIRED},
    [GLOBAL_NORM] = {"output_norm.weight", EXTENT_ONE, EXTENT_WIDTH, PRESENCE_REQUIRED},
    [GLOBAL_HEAD] = {"output.weight", EXTENT_VOCABULARY, EXTENT_WIDTH, PRESENCE_OPTIONAL},
    [GLOBAL_ROPE_FACTORS] = {"rope_freqs.weight", EXTENT_ONE, EXTENT_PAIRS, PRESENCE_OPTIONAL},
};

/* After "blk.N."; the biases' presence is the family's. */
static const struct tensor_row layer_rows[LAYER_TENSORS] = {
    [LAYER_ATTENTION_NORM] = {"attn_norm.weight", EXTENT_ONE, EXTENT_WIDTH, PRESENCE_REQUIRED},
    [LAYER_QUERY] = {"attn_q.weight", EXTENT_QUERY, EXTENT_WIDTH, PRESENCE_REQUIRED},
    [LAYER_QUERY_BIAS] = {"attn_q.bias", EXTENT_ONE, EXTENT_QUERY, PRESENCE_NONE},
    [LAYER_KEY] = {"attn_k.weight", EXTENT_KV, EXTENT_WIDTH, PRESENCE_REQUIRED},
    [LAYER_KEY_BIAS] = {"attn_k.bias", EXTENT_ONE, EXTENT_KV, PRESENCE_NONE},
    [LAYER_VALUE] = {"attn_v.weight", EXTENT_KV, EXTENT_WIDTH, PRESENCE_REQUIRED},
    [LAYER_VALUE_BIAS] = {"attn_v.bias", EXTENT_ONE, EXTENT_KV, PRESENCE_NONE},
    [LAYER_ATTENTION_OUTPUT] = {"attn_output.weight", EXTENT_WIDTH, EXTENT_QUERY, PRESENCE_REQUIRED},
    [LAYER_FEED_FORWARD_NORM] = {"ffn_norm.weight", EXTENT_ONE, EXTENT_WIDTH, PRESENCE_REQUIRED},
    [LAYER_GATE] = {"ffn_gate.weight", EXTENT_FEED_FORWARD, EXTENT_WIDTH, PRESENCE_REQUIRED},
    [LAYER_UP] = {"ffn_up.weight", EXTENT_FEED_FORWARD, EXTENT_WIDTH, PRESENCE_REQUIRED},
    [LAYER_DOWN] = {"ffn_down.weight", EXTENT_WIDTH, EXTENT_FEED_FORWARD, PRESENCE_REQUIRED},
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
    case EXTENT_FEED_FORWARD:
        return shape->feed_forward;
    case EXTENT_VOCABULARY:
        return shape->vocabulary;
    case EXTENT_PAIRS:
        return shape->rope_pairs;
    }
    return 0;
}

/* ---- finding ---- */

static bool is_vector(const struct tensor_row *row) {
    return row->rows == EXTENT_ONE;
}

static struct status check_tensor(const struct model_shape *shape, const struct tensor_row *row,
                                  const struct gguf_tensor *tensor, const char *name) {
    uint32_t rows = extent_value(shape, row->rows), columns = extent_value(shape, row->columns);
    if (tensor->extent[0] != columns || tensor->extent[1] != rows || tensor->extent[2] * tensor->extent[3] != 1) {
        return status_error(STATUS_INVALID, "tensor '%s': is %llu x %llu, must be %u (%s) x %u (%s)", name,
                            (unsigned long long)tensor->extent[0], (unsigned long long)tensor->extent[1], columns,
                            extent_names[row->columns], rows, extent_names[row->rows]);
    }
    if (is_vector(row) && tensor_traits(tensor->type)->block_elements != 1) {
        return status_error(STATUS_UNSUPPORTED, "tensor '%s': type: is %s; a vector must be F32, F16 or BF16", name,
                            tensor_traits(tensor->type)->name);
    }
    return STATUS_SUCCESS;
}

static struct status find_tensor(const struct model *model, const struct tensor_row *row, enum presence presence,
                                 const char *name, const struct gguf_tensor **out) {
    const struct gguf_tensor *tensor = gguf_find_tensor(model->gguf, name);
    if (tensor == NULL && presence == PRESENCE_REQUIRED) {
        return status_error(STATUS_INVALID, "tensor '%s': is missing", name);
    }
    if (tensor != NULL && presence == PRESENCE_NONE) {
        tensor = NULL; /* refused with every other tensor that nothing claims */
    }
    if (tensor != NULL) {
        TRY(check_tensor(&model->shape, row, tensor, name));
    }
    *out = tensor;
    return STATUS_SUCCESS;
}

static enum presence layer_presence(const struct model *model, enum layer_tensor i) {
    bool qkv_bias = i == LAYER_QUERY_BIAS || i == LAYER_KEY_BIAS || i == LAYER_VALUE_BIAS;
    return qkv_bias ? model->family->qkv_bias : layer_rows[i].presence;
}

static bool is_claimed(const struct model *model, const struct gguf_tensor *tensor) {
    for (int i = 0; i < GLOBAL_TENSORS; i++) {
        if (model->global[i] == tensor) {
            return true;
        }
    }
    for (uint32_t layer = 0; layer < model->shape.layers; layer++) {
        for (int i = 0; i < LAYER_TENSORS; i++) {
            if (model->layers[layer].tensor[i] == tensor) {
                return true;
            }
        }
    }
    return false;
}

static struct status refuse_unclaimed(const struct model *model, size_t claimed) {
    for (size_t i = 0; claimed < gguf_tensor_count(model->gguf) && i <= claimed; i++) {
        const struct gguf_tensor *tensor = gguf_tensor_at(model->gguf, i);
        if (!is_claimed(model, tensor)) {
            return status_error(STATUS_UNSUPPORTED, "tensor '%.*s': is not part of the family '%s' as it is built",
                                tensor->name.bytes < 64 ? (int)tensor->name.bytes : 64, tensor->name.data,
                                model->family->architecture);
        }
    }
    return STATUS_SUCCESS;
}

static void count_tensor(struct model *model, const struct gguf_tensor *tensor, size_t *claimed) {
    if (tensor != NULL) {
        (*claimed)++;
        model->shape.parameters += tensor->extent[0] * tensor->extent[1];
    }
}

struct status layout_find(struct model *model) {
    size_t claimed = 0;
    for (int i = 0; i < GLOBAL_TENSORS; i++) {
        const struct tensor_row *row = &global_rows[i];
        TRY(find_tensor(model, row, row->presence, row->name, &model->global[i]));
        count_tensor(model, model->global[i], &claimed);
    }
    model->shape.tied_head = model->global[GLOBAL_HEAD] == NULL;

    /* A layer has at least one tensor, so a lying block_count ends here and not in a large allocation. */
    if (model->shape.layers > gguf_tensor_count(model->gguf)) {
        return status_error(STATUS_INVALID, "key '%s.block_count': is %u, and the file has only %zu tensors",
                            model->family->architecture, model->shape.layers, gguf_tensor_count(model->gguf));
    }
    model->layers = calloc(model->shape.layers, sizeof *model->layers);
    if (model->layers == NULL) {
        return status_error(STATUS_NO_MEMORY, "no memory for the directory of %u layers", model->shape.layers);
    }
    for (uint32_t layer = 0; layer < model->shape.layers; layer++) {
        for (int i = 0; i < LAYER_TENSORS; i++) {
            char name[NAME_BYTES];
            snprintf(name, sizeof name, "blk.%u.%s", layer, layer_rows[i].name);
            TRY(find_tensor(model, &layer_rows[i], layer_presence(model, (enum layer_tensor)i), name,
                            &model->layers[layer].tensor[i]));
            count_tensor(model, model->layers[layer].tensor[i], &claimed);
        }
    }
    return refuse_unclaimed(model, claimed);
}

/* ---- placing and packing ---- */

static size_t packed_bytes(const struct device *device, const struct tensor_row *row,
                           const struct gguf_tensor *tensor) {
    if (tensor == NULL) {
        return 0;
    }
    if (is_vector(row)) {
        return bytes_align(tensor->extent[0] * sizeof(float), ALIGNMENT);
    }
    return device_packed_bytes(device, tensor->type, (uint32_t)tensor->extent[1], (uint32_t)tensor->extent[0]);
}

static void pack(const struct device *device, const struct tensor_row *row, const struct gguf_tensor *tensor,
                 void *packed) {
    if (tensor == NULL) {
        return;
    }
    if (is_vector(row)) {
        memset(packed, 0, packed_bytes(device, row, tensor));
        tensor_dequantize_row(tensor->type, tensor->data, packed, tensor->extent[0]);
    } else {
        device_pack(device, tensor->type, (uint32_t)tensor->extent[1], (uint32_t)tensor->extent[0], tensor->data,
                    packed);
    }
}

struct row_range layout_slab_rows(uint32_t rows, uint32_t slabs, uint32_t slab) {
    uint64_t groups = ((uint64_t)rows + WEIGHT_ROW_GROUP - 1) / WEIGHT_ROW_GROUP;
    uint64_t first = groups * slab / slabs * WEIGHT_ROW_GROUP, end = groups * (slab + 1) / slabs * WEIGHT_ROW_GROUP;
    end = end < rows ? end : rows;
    return (struct row_range){.first = (uint32_t)first, .count = first < end ? (uint32_t)(end - first) : 0};
}

size_t layout_place_slab(const struct device *device, const struct layer_layout *layer, uint32_t slabs, uint32_t slab,
                         size_t offset[LAYER_TENSORS]) {
    size_t bytes = 0;
    for (int i = 0; i < LAYER_TENSORS; i++) {
        const struct gguf_tensor *tensor = layer->tensor[i];
        offset[i] = bytes;
        if (tensor == NULL || (is_vector(&layer_rows[i]) && slab > 0)) {
            continue;
        }
        if (is_vector(&layer_rows[i])) {
            bytes += packed_bytes(device, &layer_rows[i], tensor);
            continue;
        }
        struct row_range rows = layout_slab_rows((uint32_t)tensor->extent[1], slabs, slab);
        if (rows.count > 0) {
            bytes += device_packed_bytes(device, tensor->type, rows.count, (uint32_t)tensor->extent[0]);
        }
    }
    return bytes;
}

void layout_pack_slab(const struct device *device, const struct layer_layout *layer, uint32_t slabs, uint32_t slab,
                      const size_t offset[LAYER_TENSORS], void *packed) {
    for (int i = 0; i < LAYER_TENSORS; i++) {
        const struct gguf_tensor *tensor = layer->tensor[i];
        uint8_t *target = (uint8_t *)packed + offset[i];
        if (tensor == NULL || (is_vector(&layer_rows[i]) && slab > 0)) {
            continue;
        }
        if (is_vector(&layer_rows[i])) {
            pack(device, &layer_rows[i], tensor, target);
            continue;
        }
        struct row_range rows = layout_slab_rows((uint32_t)tensor->extent[1], slabs, slab);
        if (rows.count > 0) {
            const uint8_t *source = tensor->data;
            source += rows.first * tensor_row_bytes(tensor->type, tensor->extent[0]);
            device_pack(device, tensor->type, rows.count, (uint32_t)tensor->extent[0], source, target);
        }
    }
}

size_t layout_global_bytes(const struct model *model, const struct device *device, enum global_tensor i) {
    return i == GLOBAL_ROPE_FACTORS ? 0 : packed_bytes(device, &global_rows[i], model->global[i]);
}

void layout_pack_global(const struct model *model, const struct device *device, enum global_tensor i, void *packed) {
    pack(device, &global_rows[i], model->global[i], packed);
}

size_t layout_place_globals(const struct model *model, const struct device *device, size_t offset[GLOBAL_TENSORS],
                            size_t *rope_offset) {
    size_t bytes = 0;
    for (int i = 0; i < GLOBAL_TENSORS; i++) {
        offset[i] = bytes;
        bytes += layout_global_bytes(model, device, (enum global_tensor)i);
    }
    *rope_offset = bytes;
    return bytes + bytes_align(model->shape.rope_pairs * sizeof(float), ALIGNMENT);
}

struct weight layout_weight(const struct gguf_tensor *tensor, uint32_t rows, const void *data) {
    return (struct weight){.data = data, .type = tensor->type, .rows = rows, .columns = (uint32_t)tensor->extent[0]};
}
