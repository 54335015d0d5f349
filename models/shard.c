/* A model's weights split over ranks: tensor parallelism, Shoeybi et al. arXiv 1909.08053.
 *
 * Owns: which rows or columns of each tensor are a rank's. Heads go to the ranks in order, keys' and values' heads with
 * the queries that attend to them: queries, keys and values are cut between rows, the matrix after attention between
 * columns; the same with gate, up and down. What comes out of the cut columns is a part of a sum. Norms, embedding and
 * head are everybody's.
 *
 * Every rank's share has the same extents. Where the feed-forward does not divide evenly the last shares have zeros at
 * their end, which add nothing; where there are fewer keys' heads than ranks several ranks have the same one.
 * Threads: any; nothing is mutable here but the model before it is loaded. */
#include "base/check.h"
#include "models/model_internal.h"

#include <stdio.h>
#include <string.h>

enum split { SPLIT_NOT, SPLIT_QUERY, SPLIT_KV, SPLIT_FEED_FORWARD };

static const struct {
    enum split split;
    bool columns; /* of a matrix; the values of a vector lie in columns, too */
} splits[LAYER_TENSORS] = {
    [LAYER_QUERY] = {SPLIT_QUERY, false},
    [LAYER_QUERY_BIAS] = {SPLIT_QUERY, true},
    [LAYER_KEY] = {SPLIT_KV, false},
    [LAYER_KEY_BIAS] = {SPLIT_KV, true},
    [LAYER_VALUE] = {SPLIT_KV, false},
    [LAYER_VALUE_BIAS] = {SPLIT_KV, true},
    [LAYER_ATTENTION_OUTPUT] = {SPLIT_QUERY, true},
    [LAYER_GATE] = {SPLIT_FEED_FORWARD, false},
    [LAYER_GATE_BIAS] = {SPLIT_FEED_FORWARD, true},
    [LAYER_UP] = {SPLIT_FEED_FORWARD, false},
    [LAYER_UP_BIAS] = {SPLIT_FEED_FORWARD, true},
    [LAYER_DOWN] = {SPLIT_FEED_FORWARD, true},
};

/* ---- can it be split so? ---- */

static bool heads_divide(const struct model_shape *shape, uint32_t ranks) {
    const bool kv = shape->kv_heads % ranks == 0 || ranks % shape->kv_heads == 0;
    return shape->query_heads % ranks == 0 && kv;
}

static struct status refuse_heads(const struct model_shape *shape, uint32_t ranks) {
    char possible[64] = "";
    for (uint32_t n = 1; n <= DEVICE_MOST_RANKS; n++) {
        size_t used = strlen(possible);
        if (heads_divide(shape, n)) {
            snprintf(possible + used, sizeof possible - used, "%s%u", used > 0 ? ", " : "", n);
        }
    }
    return status_error(STATUS_INVALID,
                        "tensor_parallel_size %u: the model has %u heads of queries and %u of keys, which do not go to "
                        "so many ranks alike; possible are %s",
                        ranks, shape->query_heads, shape->kv_heads, possible);
}

/* Columns that cannot be parted: the blocks of quantized weights, in the file and on the device. */
static uint32_t block_columns(const struct model_tensor *tensor) {
    if (tensor->rows == 0) {
        return 1;
    }
    const uint32_t file = tensor_traits(tensor->file_type)->block_elements;
    const uint32_t own = tensor_traits(tensor->type)->block_elements;
    return file > own ? file : own;
}

static struct status refuse_blocks(const struct model *model, uint32_t layer, enum layer_tensor i, uint32_t ranks) {
    const struct model_tensor *tensor = &model->layers[layer].tensor[i];
    const struct tensor_names *names = model->gguf ? &gguf_names : model->family->names;
    return status_error(STATUS_INVALID,
                        "tensor_parallel_size %u: layer %u's %s has %u columns in blocks of %u (%s), which are not to "
                        "be cut; use fewer ranks, or weights of a type with smaller blocks",
                        ranks, layer, names->tensor[i], tensor->columns, block_columns(tensor),
                        tensor_traits(tensor->file_type)->name);
}

/* The blocks of every layer's attention output must end where heads do. */
static struct status check_attention(const struct model *model, uint32_t columns, uint32_t ranks) {
    for (uint32_t layer = 0; layer < model->shape.layers; layer++) {
        if (columns % block_columns(&model->layers[layer].tensor[LAYER_ATTENTION_OUTPUT]) != 0) {
            return refuse_blocks(model, layer, LAYER_ATTENTION_OUTPUT, ranks);
        }
    }
    return STATUS_SUCCESS;
}

/* A rank's part of the feed-forward: whole blocks of every layer's, zeros at the end counted. */
static struct status share_feed_forward(const struct model *model, uint32_t ranks, uint32_t *out) {
    const uint32_t all = model->shape.feed_forward;
    uint32_t unit = 1, widest = 0;
    for (uint32_t layer = 0; layer < model->shape.layers; layer++) {
        const uint32_t columns = block_columns(&model->layers[layer].tensor[LAYER_DOWN]); /* 1, 32 or 256 */
        widest = columns > unit ? layer : widest;
        unit = columns > unit ? columns : unit;
    }
    const uint32_t blocks = all / unit;
    if (blocks < ranks) {
        return refuse_blocks(model, widest, LAYER_DOWN, ranks);
    }
    *out = (blocks + ranks - 1) / ranks * unit;
    return STATUS_SUCCESS;
}

/* ---- shares ---- */

/* What a split counts in: of the whole model, of a rank, and the first of a rank's. */
struct share {
    uint32_t all, own, first;
};

static struct share share_of(const struct model *model, enum split split, uint32_t rank) {
    const struct model_shape *whole = &model->shape, *own = &model->share;
    const uint32_t dim = whole->head_dim;
    switch (split) {
    case SPLIT_QUERY:
        return (struct share){whole->query_heads * dim, own->query_heads * dim, rank * own->query_heads * dim};
    case SPLIT_KV: {
        const uint32_t head = (uint32_t)((uint64_t)rank * whole->kv_heads / model->ranks);
        return (struct share){whole->kv_heads * dim, own->kv_heads * dim, head * dim};
    }
    case SPLIT_FEED_FORWARD:
        return (struct share){whole->feed_forward, own->feed_forward, rank * own->feed_forward};
    case SPLIT_NOT:
        break;
    }
    CHECK(false);
    return (struct share){0};
}

struct model_tensor shard_tensor(const struct model *model, uint32_t layer, enum layer_tensor i, uint32_t rank) {
    struct model_tensor tensor = model->layers[layer].tensor[i];
    if (tensor.rows == 0 || splits[i].split == SPLIT_NOT || model->ranks == 1) {
        return tensor;
    }
    const struct share share = share_of(model, splits[i].split, rank);
    const uint32_t left = share.first < share.all ? share.all - share.first : 0;
    const uint32_t lacking = share.own > left ? share.own - left : 0;
    const uint32_t first = lacking < share.own ? share.first : 0; /* nothing of it is read */
    if (splits[i].columns) {
        tensor.lacking_columns = lacking;
        tensor.data += tensor.column_step > 0 ? first * tensor.column_step : tensor_row_bytes(tensor.file_type, first);
    } else {
        tensor.lacking_rows = lacking;
        tensor.data += first * tensor.row_step;
    }
    return tensor;
}

struct status model_split(struct model *model, uint32_t ranks) {
    CHECK(ranks > 0 && ranks <= DEVICE_MOST_RANKS && model->device == NULL);
    if (ranks == model->ranks) {
        return STATUS_SUCCESS;
    }
    CHECK(model->ranks == 1); /* once */
    const struct model_shape *whole = &model->shape;
    struct model_shape share = *whole;
    if (!heads_divide(whole, ranks)) {
        return refuse_heads(whole, ranks);
    }
    share.query_heads = whole->query_heads / ranks;
    share.kv_heads = whole->kv_heads > ranks ? whole->kv_heads / ranks : 1;
    TRY(check_attention(model, share.query_heads * share.head_dim, ranks));
    TRY(share_feed_forward(model, ranks, &share.feed_forward));
    model->whole_bytes = model_weight_bytes(model);
    model->share = share;
    model->ranks = ranks;
    for (uint32_t layer = 0; layer < whole->layers; layer++) {
        for (int i = 0; i < LAYER_TENSORS; i++) {
            struct model_tensor *tensor = &model->layers[layer].tensor[i];
            if (tensor->rows > 0 && splits[i].split != SPLIT_NOT) {
                const uint32_t own = share_of(model, splits[i].split, 0).own;
                *(splits[i].columns ? &tensor->columns : &tensor->rows) = own;
            }
        }
    }
    return STATUS_SUCCESS;
}
