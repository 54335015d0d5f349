/* The tensors of a model, placed and packed for a device.
 *
 * Owns: the order in which tensors lie in a packed layer: one contiguous run, each tensor at a multiple of 64 bytes.
 * Layers may differ in size, since files mix types between layers. What a file has otherwise than devices want it
 * (transposed, to be quantized, unaligned) passes through scratch memory on the way. Threads: any; nothing here is
 * mutable but what the caller passes. */
#include "models/model_internal.h"

#include "base/bytes.h"
#include "base/check.h"
#include "models/quantize.h"

#include <string.h>

enum { ALIGNMENT = 64 };

/* ---- rows, from the file ---- */

/* Values of floats whose columns lie `step` bytes apart, as f32. */
static void gather_floats(enum tensor_type type, const uint8_t *from, size_t step, float *out, size_t count) {
    for (size_t i = 0; i < count; i++) {
        tensor_dequantize_row(type, from + i * step, out + i, 1);
    }
}

/* Row `row` of a tensor of floats as f32, as far as a file has it. */
static void read_row(const struct model_tensor *tensor, uint32_t row, float *out) {
    const uint8_t *from = tensor->data + row * tensor->row_step;
    const uint32_t columns = tensor->columns - tensor->lacking_columns;
    if (tensor->column_step > 0) {
        gather_floats(tensor->file_type, from, tensor->column_step, out, columns);
    } else {
        tensor_dequantize_row(tensor->file_type, from, out, columns);
    }
    for (uint32_t i = 0; tensor->offset != 0 && i < columns; i++) {
        out[i] += tensor->offset;
    }
}

void layout_read_plain(const struct model_tensor *tensor, float *out) {
    for (uint32_t row = 0; row < tensor->rows; row++) {
        read_row(tensor, row, out + (size_t)row * tensor->columns);
    }
}

/* Whether devices can pack a matrix from where it lies. */
static bool lies_ready(const struct model_tensor *tensor) {
    const struct tensor_traits *traits = tensor_traits(tensor->file_type);
    bool aligned = traits->block_elements > 1 || (uintptr_t)tensor->data % traits->block_bytes == 0;
    bool whole = tensor->lacking_rows == 0 && tensor->lacking_columns == 0 &&
                 tensor->row_step == tensor_row_bytes(tensor->file_type, tensor->columns);
    return tensor->type == tensor->file_type && tensor->column_step == 0 && aligned && whole;
}

static size_t scratch_bytes(const struct model_tensor *tensor) {
    return tensor->rows == 0 || lies_ready(tensor)
               ? 0
               : tensor->rows * tensor_row_bytes(tensor->type, tensor->columns) + tensor->columns * sizeof(float);
}

/* One row as its type on the device has it; `values` (columns) is scratch. Bytes of 0 are values of 0 in every type. */
static void convert_row(const struct model_tensor *tensor, uint32_t row, float *values, uint8_t *out) {
    const size_t value_bytes = tensor_traits(tensor->file_type)->block_bytes;
    const uint8_t *from = tensor->data + row * tensor->row_step;
    const uint32_t columns = row < tensor->rows - tensor->lacking_rows ? tensor->columns - tensor->lacking_columns : 0;
    const size_t held = tensor_row_bytes(tensor->type, columns);
    memset(out + held, 0, tensor_row_bytes(tensor->type, tensor->columns) - held);
    if (columns == 0) {
        return;
    }
    if (tensor->file_type == TENSOR_Q5_0) {
        quantize_widen_q5_0(from, out, columns);
    } else if (tensor->type != tensor->file_type) {
        read_row(tensor, row, values);
        quantize_row(tensor->type, values, out, columns);
    } else if (tensor->column_step == 0) {
        memcpy(out, from, held);
    } else {
        for (uint32_t i = 0; i < columns; i++) {
            memcpy(out + i * value_bytes, from + i * tensor->column_step, value_bytes);
        }
    }
}

/* Rows of a matrix as devices pack them: where they lie, or in `scratch`. */
static const void *ready_rows(const struct model_tensor *tensor, uint32_t first, uint32_t count, void *scratch) {
    if (lies_ready(tensor)) {
        return tensor->data + first * tensor->row_step;
    }
    float *values = scratch;
    uint8_t *converted = (uint8_t *)(values + tensor->columns);
    const size_t row_bytes = tensor_row_bytes(tensor->type, tensor->columns);
    for (uint32_t row = 0; row < count; row++) {
        convert_row(tensor, first + row, values, converted + row * row_bytes);
    }
    return converted;
}

size_t layout_scratch_bytes(const struct model *model) {
    size_t most = 0;
    for (int i = 0; i < GLOBAL_TENSORS; i++) {
        size_t bytes = layout_is_plain_global((enum global_tensor)i) ? 0 : scratch_bytes(&model->global[i]);
        most = bytes > most ? bytes : most;
    }
    for (uint32_t layer = 0; layer < model->shape.layers; layer++) {
        for (int i = 0; i < LAYER_TENSORS; i++) {
            bool vector = layout_is_vector((enum layer_tensor)i);
            for (uint32_t rank = 0; rank < model->ranks && !vector; rank++) {
                const struct model_tensor share = shard_tensor(model, layer, (enum layer_tensor)i, rank);
                const size_t bytes = scratch_bytes(&share);
                most = bytes > most ? bytes : most;
            }
        }
    }
    return most;
}

/* ---- placing and packing ---- */

static size_t plain_bytes(const struct model_tensor *tensor) {
    return bytes_align((size_t)tensor->rows * tensor->columns * sizeof(float), ALIGNMENT);
}

static void pack_plain(const struct model_tensor *tensor, void *packed) {
    memset(packed, 0, plain_bytes(tensor));
    layout_read_plain(tensor, packed);
}

static void pack_rows(const struct device *device, const struct model_tensor *tensor, uint32_t first, uint32_t count,
                      void *packed, void *scratch) {
    device_pack(device, tensor->type, count, tensor->columns, ready_rows(tensor, first, count, scratch), packed);
}

/* ---- how a layer is cut ---- */

static uint64_t groups_of(const struct cut_matrix *matrix) {
    return ((uint64_t)matrix->rows + WEIGHT_ROW_GROUP - 1) / WEIGHT_ROW_GROUP;
}

/* The group of each matrix that a slab begins with, all of them if it is the slab past the last. */
static void first_groups(const struct cut_matrix *matrices, uint32_t count, size_t vector_bytes, uint32_t slabs,
                         uint32_t slab, uint64_t out[LAYER_TENSORS]) {
    CHECK(slabs > 0 && slab <= slabs);
    uint64_t total = vector_bytes;
    uint32_t longest = 0;
    for (uint32_t i = 0; i < count; i++) {
        total += groups_of(&matrices[i]) * matrices[i].group_bytes;
        longest = matrices[i].group_bytes > matrices[longest].group_bytes ? i : longest;
    }
    const uint64_t shared = groups_of(&matrices[longest]);
    uint64_t before = 0; /* bytes of the other matrices in the slabs before; never less than before an earlier slab */
    for (uint32_t s = 1; s <= slab; s++) {
        const uint64_t all = total * s / slabs,
                       rest = vector_bytes + shared * s / slabs * matrices[longest].group_bytes;
        before = all > rest && all - rest > before ? all - rest : before;
    }
    uint64_t at = 0;
    for (uint32_t i = 0; i < count; i++) {
        const uint64_t groups = groups_of(&matrices[i]), bytes = matrices[i].group_bytes;
        if (i == longest) {
            out[i] = shared * slab / slabs;
        } else {
            const uint64_t nearest = before > at && bytes > 0 ? (before - at + bytes / 2) / bytes : 0;
            out[i] = slab == slabs || nearest > groups ? groups : nearest;
            at += groups * bytes;
        }
    }
}

void layout_cut(const struct cut_matrix *matrices, uint32_t count, size_t vector_bytes, uint32_t slabs, uint32_t slab,
                struct row_range *out) {
    CHECK(count > 0 && count <= LAYER_TENSORS && slab < slabs);
    uint64_t first[LAYER_TENSORS], end[LAYER_TENSORS];
    first_groups(matrices, count, vector_bytes, slabs, slab, first);
    first_groups(matrices, count, vector_bytes, slabs, slab + 1, end);
    for (uint32_t i = 0; i < count; i++) {
        const uint64_t from = first[i] * WEIGHT_ROW_GROUP, to = end[i] * WEIGHT_ROW_GROUP;
        const uint64_t rows = to < matrices[i].rows ? to : matrices[i].rows;
        out[i] = (struct row_range){.first = (uint32_t)from, .count = rows > from ? (uint32_t)(rows - from) : 0};
    }
}

size_t layout_place_slab(const struct device *device, const struct model_tensor tensors[LAYER_TENSORS], uint32_t slabs,
                         uint32_t slab, struct slab_piece piece[LAYER_TENSORS]) {
    struct cut_matrix matrices[LAYER_TENSORS] = {0};
    struct row_range rows[LAYER_TENSORS];
    size_t vector_bytes = 0, bytes = 0;
    for (int i = 0; i < LAYER_TENSORS; i++) {
        const struct model_tensor *tensor = &tensors[i];
        if (tensor->rows > 0 && layout_is_vector((enum layer_tensor)i)) {
            vector_bytes += plain_bytes(tensor);
        } else if (tensor->rows > 0) {
            matrices[i] = (struct cut_matrix){
                .rows = tensor->rows,
                .group_bytes = device_packed_bytes(device, tensor->type, WEIGHT_ROW_GROUP, tensor->columns)};
        }
    }
    layout_cut(matrices, LAYER_TENSORS, vector_bytes, slabs, slab, rows);
    for (int i = 0; i < LAYER_TENSORS; i++) {
        const bool vector = layout_is_vector((enum layer_tensor)i);
        piece[i] = (struct slab_piece){.offset = bytes, .first = rows[i].first, .count = rows[i].count};
        if (vector && slab == 0) {
            piece[i].count = tensors[i].rows;
            bytes += tensors[i].rows > 0 ? plain_bytes(&tensors[i]) : 0;
        } else if (rows[i].count > 0) {
            bytes += device_packed_bytes(device, tensors[i].type, rows[i].count, tensors[i].columns);
        }
    }
    return bytes;
}

void layout_pack_slab(const struct device *device, const struct model_tensor tensors[LAYER_TENSORS],
                      const struct slab_piece piece[LAYER_TENSORS], void *packed, void *scratch) {
    for (int i = 0; i < LAYER_TENSORS; i++) {
        uint8_t *target = (uint8_t *)packed + piece[i].offset;
        if (piece[i].count > 0 && layout_is_vector((enum layer_tensor)i)) {
            pack_plain(&tensors[i], target);
        } else if (piece[i].count > 0) {
            pack_rows(device, &tensors[i], piece[i].first, piece[i].count, target, scratch);
        }
    }
}

size_t layout_global_bytes(const struct model *model, const struct device *device, enum global_tensor i) {
    const struct model_tensor *tensor = &model->global[i];
    if (tensor->rows == 0 || i == GLOBAL_ROPE_FACTORS) {
        return 0;
    }
    return layout_is_plain_global(i) ? plain_bytes(tensor)
                                     : device_packed_bytes(device, tensor->type, tensor->rows, tensor->columns);
}

void layout_pack_global(const struct model *model, const struct device *device, enum global_tensor i, void *packed,
                        void *scratch) {
    const struct model_tensor *tensor = &model->global[i];
    if (layout_is_plain_global(i)) {
        pack_plain(tensor, packed);
    } else {
        pack_rows(device, tensor, 0, tensor->rows, packed, scratch);
    }
}

size_t layout_place_globals(const struct model *model, const struct device *device, size_t offset[GLOBAL_TENSORS],
                            size_t rope_offset[ROPE_KINDS]) {
    size_t bytes = 0;
    for (int i = 0; i < GLOBAL_TENSORS; i++) {
        offset[i] = bytes;
        bytes += layout_global_bytes(model, device, (enum global_tensor)i);
    }
    for (int kind = 0; kind < ROPE_KINDS; kind++) {
        rope_offset[kind] = bytes;
        bool used = kind == ROPE_GLOBAL || model->pass.local_rope;
        bytes += used ? bytes_align(model->shape.rope_pairs * sizeof(float), ALIGNMENT) : 0;
    }
    return bytes;
}

struct weight layout_weight(const struct model_tensor *tensor, uint32_t rows, const void *data) {
    return (struct weight){.data = data, .type = tensor->type, .rows = rows, .columns = tensor->columns};
}
