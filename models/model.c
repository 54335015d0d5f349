/* A model's life: opened from its file, loaded onto a device, closed.
 *
 * Owns: struct model. What the keys mean is in shape.c, which tensors there are in layout.c, the pass in forward.c.
 * Threads: as models/model.h says. */
#include "models/model_internal.h"

#include "base/check.h"
#include "base/log.h"

#include <stdlib.h>
#include <string.h>

/* ---- opening ---- */

static struct status make_frequencies(struct model *model) {
    const struct gguf_tensor *tensor = model->global[GLOBAL_ROPE_FACTORS];
    size_t bytes = model->shape.rope_pairs * sizeof(float);
    float *factors = malloc(bytes);
    model->rope_frequency = malloc(bytes);
    if (factors == NULL || model->rope_frequency == NULL) {
        free(factors);
        return status_error(STATUS_NO_MEMORY, "no memory for %zu bytes of rope frequencies", bytes);
    }
    if (tensor != NULL) {
        tensor_dequantize_row(tensor->type, tensor->data, factors, model->shape.rope_pairs);
    }
    struct status status =
        shape_rope(model->gguf, model->family, tensor ? factors : NULL, &model->shape, model->rope_frequency);
    free(factors);
    return status;
}

static struct status read_weights(struct model *model) {
    struct gguf_string architecture;
    struct status status = gguf_get_string(model->gguf, "general.architecture", &architecture);
    if (status_failed(&status)) {
        status.code = STATUS_INVALID; /* what is not found is the key, not the file */
        return status;
    }
    TRY(family_find(architecture, &model->family));
    TRY(shape_read(model->gguf, model->family, &model->shape));
    TRY(layout_find(model));
    return make_frequencies(model);
}

static struct status read_tokenizer(struct model *model) {
    TRY(tokenizer_from_gguf(model->gguf, &model->tokenizer));
    uint32_t tokens = tokenizer_vocabulary(model->tokenizer);
    if (tokens > model->shape.vocabulary) {
        return status_error(STATUS_INVALID, "key 'tokenizer.ggml.tokens': has %u tokens, and the embedding %u rows",
                            tokens, model->shape.vocabulary);
    }
    return STATUS_SUCCESS;
}

static struct status open_file(const char *path, bool tokenizer, struct model **out) {
    struct model *model = calloc(1, sizeof *model);
    if (model == NULL) {
        return status_error(STATUS_NO_MEMORY, "no memory for a model");
    }
    struct status status = gguf_open(path, &model->gguf);
    if (!status_failed(&status)) {
        status = read_weights(model);
        if (!status_failed(&status) && tokenizer) {
            status = read_tokenizer(model);
        }
        const char *slash = strrchr(path, '/');
        status = status_context(status, "%.80s", slash ? slash + 1 : path);
    }
    if (status_failed(&status)) {
        model_close(model);
        return status;
    }
    *out = model;
    return STATUS_SUCCESS;
}

struct status model_open(const char *path, struct model **out) {
    return open_file(path, true, out);
}

struct status model_open_weights(const char *path, struct model **out) {
    return open_file(path, false, out);
}

void model_close(struct model *model) {
    if (model == NULL) {
        return;
    }
    CHECK(model->device == NULL);
    if (model->tokenizer != NULL) {
        tokenizer_destroy(model->tokenizer);
    }
    free(model->rope_frequency);
    free(model->layers);
    gguf_close(model->gguf);
    free(model);
}

const struct model_shape *model_shape(const struct model *model) {
    return &model->shape;
}

const struct tokenizer *model_tokenizer(const struct model *model) {
    return model->tokenizer;
}

struct gguf_string model_chat_template(const struct model *model) {
    struct gguf_string text = {"", 0};
    struct status status = gguf_get_string(model->gguf, "tokenizer.chat_template", &text);
    return status_failed(&status) ? (struct gguf_string){"", 0} : text;
}

/* ---- loading ---- */

size_t model_slab_bytes(const struct model *model, const struct device *device, uint32_t slabs) {
    size_t largest = 64, offset[LAYER_TENSORS];
    for (uint32_t layer = 0; layer < model->shape.layers; layer++) {
        for (uint32_t slab = 0; slab < slabs; slab++) {
            size_t bytes = layout_place_slab(device, &model->layers[layer], slabs, slab, offset);
            largest = bytes > largest ? bytes : largest;
        }
    }
    return largest;
}

size_t model_global_bytes(const struct model *model, const struct device *device) {
    size_t offset[GLOBAL_TENSORS], rope_offset;
    return layout_place_globals(model, device, offset, &rope_offset);
}

struct kv_shape model_kv_shape(const struct model *model, enum kv_type type) {
    return (struct kv_shape){.layers = model->shape.layers,
                             .kv_heads = model->shape.kv_heads,
                             .head_dim = model->shape.head_dim,
                             .type = type};
}

/* What a load in progress holds. */
struct loading {
    struct model *model;
    struct device *device;
    struct offload *offload;
    struct stream *stream;
    void *packed; /* host memory for one layer or one global tensor */
    size_t slab_bytes, layer_bytes;
    struct progress bar;
    uint64_t done; /* bytes of the file */
};

static void finish_tensor(struct loading *loading, const struct gguf_tensor *tensor) {
    if (tensor != NULL) {
        gguf_forget(loading->model->gguf, tensor);
        loading->done += tensor->bytes;
        progress_update(&loading->bar, loading->done);
    }
}

static struct status send_global(struct loading *loading, size_t offset, const void *data, size_t bytes) {
    stream_copy(loading->stream, loading->model->globals + offset, data, bytes, COPY_HOST_TO_DEVICE);
    return stream_sync(loading->stream);
}

static struct status load_globals(struct loading *loading) {
    struct model *model = loading->model;
    for (int i = 0; i < GLOBAL_TENSORS; i++) {
        size_t bytes = layout_global_bytes(model, loading->device, (enum global_tensor)i);
        if (bytes > 0) {
            layout_pack_global(model, loading->device, (enum global_tensor)i, loading->packed);
            TRY(send_global(loading, model->global_offset[i], loading->packed, bytes));
        }
        finish_tensor(loading, model->global[i]);
    }
    return send_global(loading, model->rope_offset, model->rope_frequency, model->shape.rope_pairs * sizeof(float));
}

static struct status load_layers(struct loading *loading) {
    struct model *model = loading->model;
    for (uint32_t i = 0; i < model->shape.layers; i++) {
        struct layer_layout *layer = &model->layers[i];
        layer->offset = model->offsets + (size_t)i * model->slabs * LAYER_TENSORS;
        for (uint32_t slab = 0; slab < model->slabs; slab++) {
            size_t *offset = layer->offset + (size_t)slab * LAYER_TENSORS;
            layout_place_slab(loading->device, layer, model->slabs, slab, offset);
            layout_pack_slab(loading->device, layer, model->slabs, slab, offset,
                             (uint8_t *)loading->packed + slab * loading->slab_bytes);
        }
        struct status status = offload_store_layer(loading->offload, i, loading->packed);
        if (status_failed(&status)) {
            return status_context(status, "layer %u", i);
        }
        for (int j = 0; j < LAYER_TENSORS; j++) {
            finish_tensor(loading, layer->tensor[j]);
        }
    }
    return STATUS_SUCCESS;
}

static size_t largest_piece(const struct loading *loading) {
    size_t largest = loading->layer_bytes;
    for (int i = 0; i < GLOBAL_TENSORS; i++) {
        size_t bytes = layout_global_bytes(loading->model, loading->device, (enum global_tensor)i);
        largest = bytes > largest ? bytes : largest;
    }
    return largest;
}

static struct status load_everything(struct loading *loading) {
    struct model *model = loading->model;
    size_t bytes = layout_place_globals(model, loading->device, model->global_offset, &model->rope_offset);
    size_t piece = largest_piece(loading);
    void *globals = NULL;
    TRY(device_alloc(loading->device, bytes, "weights outside layers (embedding, norm, head)", &globals));
    model->globals = globals;
    TRY(stream_create(loading->device, STREAM_COPY, &loading->stream));
    loading->packed = aligned_alloc(64, piece);
    if (loading->packed == NULL) {
        return status_error(STATUS_NO_MEMORY, "no host memory to pack %zu bytes of weights", piece);
    }
    memset(loading->packed, 0, loading->layer_bytes); /* a smaller slab leaves the end of its place as it is */
    uint64_t total = 0;
    for (size_t i = 0; i < gguf_tensor_count(model->gguf); i++) {
        total += gguf_tensor_at(model->gguf, i)->bytes;
    }
    progress_begin(&loading->bar, "loading weights", total);
    TRY(load_globals(loading));
    TRY(load_layers(loading));
    progress_end(&loading->bar);
    return STATUS_SUCCESS;
}

struct status model_load(struct model *model, struct device *device, struct offload *offload) {
    CHECK(model->device == NULL);
    model->device = device;
    model->slabs = offload_slabs(offload);
    struct loading loading = {.model = model,
                              .device = device,
                              .offload = offload,
                              .slab_bytes = model_slab_bytes(model, device, model->slabs)};
    loading.layer_bytes = model->slabs * loading.slab_bytes;
    model->offsets = calloc((size_t)model->shape.layers * model->slabs * LAYER_TENSORS, sizeof *model->offsets);
    struct status status =
        model->offsets == NULL
            ? status_error(STATUS_NO_MEMORY, "no memory for the layout of %u slabs a layer", model->slabs)
            : load_everything(&loading);
    stream_destroy(loading.stream);
    free(loading.packed);
    if (status_failed(&status)) {
        model_unload(model);
    }
    return status;
}

void model_unload(struct model *model) {
    if (model->device == NULL) {
        return;
    }
    if (model->globals != NULL) {
        device_free(model->device, model->globals);
    }
    free(model->offsets);
    model->offsets = NULL;
    model->globals = NULL;
    model->device = NULL;
}
