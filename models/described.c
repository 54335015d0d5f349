/* A model made from its description: the tensors that a file of it would have, without their values.
 *
 * Owns: which family's pass stands for what is described. Threads: any. */
#include "models/description.h"
#include "models/model_internal.h"

#include <math.h>
#include <stdlib.h>

/* The family whose pass has these norms, biases and feed-forward matrices. */
static struct status find_family(const struct model_description *d, const struct family **out) {
    const bool learned = d->learned_positions > 0, gated = d->feed_forward_matrices == 3;
    if (learned && d->norm_bias && !gated && d->bias == DESCRIPTION_BIAS_ALL) {
        return family_of_config("opt", out);
    }
    if (!learned && !d->norm_bias && gated && d->shape.rope_pairs > 0) {
        return family_of_config(d->bias == DESCRIPTION_BIAS_QKV ? "qwen2" : "llama", out);
    }
    return status_error(
        STATUS_UNSUPPORTED, "%s: no family is built with %u feed-forward matrices, %s positions and norms with%s bias",
        d->shape.name, d->feed_forward_matrices, learned ? "learned" : "rotary", d->norm_bias ? "" : "out");
}

static struct model_tensor tensor(enum tensor_type type, uint32_t rows, uint32_t columns) {
    return (struct model_tensor){.rows = rows, .columns = columns, .type = type, .file_type = type};
}

static struct model_tensor vector(uint32_t elements) {
    return tensor(TENSOR_F32, 1, elements);
}

static void describe_layer(const struct model_description *d, struct model_tensor out[LAYER_TENSORS]) {
    const struct model_shape *shape = &d->shape;
    const uint32_t query = shape->query_heads * shape->head_dim, kv = shape->kv_heads * shape->head_dim;
    const bool qkv = d->bias != DESCRIPTION_BIAS_NONE, all = d->bias == DESCRIPTION_BIAS_ALL;
    const struct {
        enum layer_tensor matrix, bias;
        uint32_t rows, columns;
        bool has_bias;
    } matrices[] = {
        {LAYER_QUERY, LAYER_QUERY_BIAS, query, shape->width, qkv},
        {LAYER_KEY, LAYER_KEY_BIAS, kv, shape->width, qkv},
        {LAYER_VALUE, LAYER_VALUE_BIAS, kv, shape->width, qkv},
        {LAYER_ATTENTION_OUTPUT, LAYER_ATTENTION_OUTPUT_BIAS, shape->width, query, all},
        {LAYER_UP, LAYER_UP_BIAS, shape->feed_forward, shape->width, all},
        {LAYER_DOWN, LAYER_DOWN_BIAS, shape->width, shape->feed_forward, all},
        {LAYER_GATE, LAYER_GATE_BIAS, shape->feed_forward, shape->width, all},
    };
    const size_t count = sizeof matrices / sizeof matrices[0] - (d->feed_forward_matrices == 3 ? 0 : 1);
    for (size_t i = 0; i < count; i++) {
        out[matrices[i].matrix] = tensor(d->weight_type, matrices[i].rows, matrices[i].columns);
        if (matrices[i].has_bias) {
            out[matrices[i].bias] = vector(matrices[i].rows);
        }
    }
    out[LAYER_ATTENTION_NORM] = out[LAYER_FEED_FORWARD_NORM] = vector(shape->width);
    if (d->norm_bias) {
        out[LAYER_ATTENTION_NORM_BIAS] = out[LAYER_FEED_FORWARD_NORM_BIAS] = vector(shape->width);
    }
}

static void describe_globals(const struct model_description *d, struct model_tensor out[GLOBAL_TENSORS]) {
    const struct model_shape *shape = &d->shape;
    out[GLOBAL_EMBEDDING] = tensor(d->weight_type, shape->vocabulary, shape->width);
    out[GLOBAL_NORM] = vector(shape->width);
    if (!shape->tied_head) {
        out[GLOBAL_HEAD] = out[GLOBAL_EMBEDDING];
    }
    if (d->norm_bias) {
        out[GLOBAL_NORM_BIAS] = vector(shape->width);
    }
    if (d->learned_positions > 0) {
        out[GLOBAL_POSITIONS] = tensor(d->weight_type, shape->context, shape->width);
    }
}

/* Frequencies that nothing on sim reads, so that the pass has what it copies. */
static struct status describe_rope(struct model *model) {
    model->pass.rope[ROPE_GLOBAL] = (struct rope_parameters){.base = 10000, .factor = 1};
    if (model->shape.rope_pairs == 0) {
        return STATUS_SUCCESS;
    }
    model->rope_frequency[ROPE_GLOBAL] = calloc(model->shape.rope_pairs, sizeof(float));
    if (model->rope_frequency[ROPE_GLOBAL] == NULL) {
        return status_error(STATUS_NO_MEMORY, "no memory for %u rope frequencies", model->shape.rope_pairs);
    }
    return shape_rope(&model->pass.rope[ROPE_GLOBAL], NULL, model->shape.rope_pairs, model->rope_frequency[ROPE_GLOBAL],
                      &model->shape.rope_magnitude);
}

static struct status describe(const struct model_description *d, struct model *model) {
    TRY(find_family(d, &model->family));
    model->shape = d->shape;
    model->pass.attention_scale = 1 / sqrtf((float)d->shape.head_dim);
    model->pass.embedding_scale = 1;
    model->pass.head = d->shape.tied_head ? HEAD_TIED : HEAD_OWN;
    TRY(shape_windows(d->shape.layers, 0, 0, &model->pass));
    TRY(describe_rope(model));
    describe_globals(d, model->global);
    model->layers = calloc(d->shape.layers, sizeof *model->layers);
    if (model->layers == NULL) {
        return status_error(STATUS_NO_MEMORY, "no memory for the directory of %u layers", d->shape.layers);
    }
    for (uint32_t i = 0; i < d->shape.layers; i++) {
        describe_layer(d, model->layers[i].tensor);
    }
    return STATUS_SUCCESS;
}

struct status model_open_described(const struct model_description *description, struct model **out) {
    struct model *model = calloc(1, sizeof *model);
    if (model == NULL) {
        return status_error(STATUS_NO_MEMORY, "no memory for a model");
    }
    model->ranks = 1;
    struct status status = describe(description, model);
    model->share = model->shape;
    if (status_failed(&status)) {
        model_close(model);
        return status;
    }
    *out = model;
    return STATUS_SUCCESS;
}
