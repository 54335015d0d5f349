#include "models/description.h"

#include "base/bytes.h"
#include "base/check.h"
#include "kernels/sim/figures.h"
#include "models/model_internal.h"

#include <string.h>

#define COUNT(array) (sizeof(array) / sizeof *(array))
#define ALIGNMENT 64
#define F32 sizeof(float)

/* ---- reading ---- */

/* The file's fields. */
struct fields {
    char name[64], architecture[32], rope[16], bias[16], weight_type[16];
    uint32_t layers, width, feed_forward, query_heads, kv_heads, head_dim, vocabulary, context;
    uint32_t learned_positions, feed_forward_matrices;
    double norm_epsilon;
    bool norm_bias, tied_head;
    uint64_t parameters;
};

#define PLACE(field) offsetof(struct fields, field)
#define LENGTH(field) (sizeof((struct fields *)0)->field - 1)
static const struct figure figures[] = {
    {"name", FIGURE_TEXT, PLACE(name), 1, LENGTH(name)},
    {"architecture", FIGURE_TEXT, PLACE(architecture), 1, LENGTH(architecture)},
    {"layers", FIGURE_U32, PLACE(layers), 1, 1024},
    {"width", FIGURE_U32, PLACE(width), 1, 1 << 20},
    {"feed_forward", FIGURE_U32, PLACE(feed_forward), 1, 1 << 22},
    {"query_heads", FIGURE_U32, PLACE(query_heads), 1, 1024},
    {"kv_heads", FIGURE_U32, PLACE(kv_heads), 1, 1024},
    {"head_dim", FIGURE_U32, PLACE(head_dim), 2, 1024},
    {"vocabulary", FIGURE_U32, PLACE(vocabulary), 1, 1 << 22},
    {"context", FIGURE_U32, PLACE(context), 1, 1 << 24},
    {"norm_epsilon", FIGURE_F64, PLACE(norm_epsilon), 0, 1},
    {"rope", FIGURE_TEXT, PLACE(rope), 1, LENGTH(rope)},
    {"learned_positions", FIGURE_U32, PLACE(learned_positions), 0, 1 << 24},
    {"feed_forward_matrices", FIGURE_U32, PLACE(feed_forward_matrices), 2, 3},
    {"norm_bias", FIGURE_BOOL, PLACE(norm_bias), 0, 0},
    {"bias", FIGURE_TEXT, PLACE(bias), 1, LENGTH(bias)},
    {"tied_head", FIGURE_BOOL, PLACE(tied_head), 0, 0},
    {"weight_type", FIGURE_TEXT, PLACE(weight_type), 1, LENGTH(weight_type)},
    {"parameters", FIGURE_U64, PLACE(parameters), 1, 0x1p50},
};

/* The place of `text` in `choices`. */
static struct status choose(const char *field, const char *text, const char *const *choices, uint32_t count,
                            uint32_t *out) {
    for (uint32_t i = 0; i < count; i++) {
        if (strcmp(choices[i], text) == 0) {
            *out = i;
            return STATUS_SUCCESS;
        }
    }
    return status_error(STATUS_INVALID, "%s: \"%s\" is none of %s, %s, %s", field, text, choices[0], choices[1],
                        choices[2]);
}

static uint64_t count_parameters(const struct model_description *d);

static struct status build(const struct fields *fields, struct model_description *out) {
    static const char *const ropes[] = {"none", "interleaved", "halves"};
    static const char *const biases[] = {"none", "qkv", "all"};
    uint32_t rope = 0, bias = 0;
    TRY(choose("rope", fields->rope, ropes, COUNT(ropes), &rope));
    TRY(choose("bias", fields->bias, biases, COUNT(biases), &bias));
    if (fields->query_heads % fields->kv_heads != 0) {
        return status_error(STATUS_INVALID, "kv_heads: is %u, which does not divide query_heads, %u", fields->kv_heads,
                            fields->query_heads);
    }
    if (rope > 0 && fields->head_dim % 2 != 0) {
        return status_error(STATUS_INVALID, "head_dim: is %u, which a rotary embedding cannot halve", fields->head_dim);
    }
    struct model_description d = {
        .shape = {.layers = fields->layers,
                  .width = fields->width,
                  .feed_forward = fields->feed_forward,
                  .query_heads = fields->query_heads,
                  .kv_heads = fields->kv_heads,
                  .head_dim = fields->head_dim,
                  .vocabulary = fields->vocabulary,
                  .context = fields->context,
                  .rope_pairs = rope > 0 ? fields->head_dim / 2 : 0,
                  .rope_style = rope == 1 ? ROPE_INTERLEAVED : ROPE_HALVES,
                  .rope_magnitude = 1,
                  .norm_epsilon = (float)fields->norm_epsilon,
                  .tied_head = fields->tied_head},
        .learned_positions = fields->learned_positions,
        .feed_forward_matrices = fields->feed_forward_matrices,
        .norm_bias = fields->norm_bias,
        .bias = (enum description_bias)bias,
    };
    memcpy(d.shape.name, fields->name, sizeof fields->name);
    memcpy(d.shape.architecture, fields->architecture, sizeof fields->architecture);
    TRY(description_set_type(&d, fields->weight_type));
    d.shape.parameters = count_parameters(&d);
    if (d.shape.parameters != fields->parameters) {
        return status_error(STATUS_INVALID, "parameters: is %llu, and the shape adds up to %llu",
                            (unsigned long long)fields->parameters, (unsigned long long)d.shape.parameters);
    }
    *out = d;
    return STATUS_SUCCESS;
}

struct status description_parse(const char *text, size_t bytes, struct model_description *out) {
    struct fields fields = {0};
    TRY(figures_parse(text, bytes, figures, COUNT(figures), &fields));
    return build(&fields, out);
}

struct status description_load(const char *path, struct model_description *out) {
    struct fields fields = {0};
    TRY(figures_load(path, figures, COUNT(figures), &fields));
    return status_context(build(&fields, out), "%s", path);
}

/* ---- the tensors of a layer ---- */

struct matrix {
    uint32_t rows, columns;
    bool bias;
};

enum matrix_index { MATRIX_QUERY, MATRIX_KEY, MATRIX_VALUE, MATRIX_OUTPUT, MATRIX_UP, MATRIX_DOWN, MATRIX_GATE };
#define MATRICES_MAX 7

static uint32_t query_width(const struct model_description *d) {
    return d->shape.query_heads * d->shape.head_dim;
}

static uint32_t kv_width(const struct model_description *d) {
    return d->shape.kv_heads * d->shape.head_dim;
}

/* Writes the matrices by matrix_index and returns how many there are; the gate is last and may be absent. */
static uint32_t layer_matrices(const struct model_description *d, struct matrix out[MATRICES_MAX]) {
    const uint32_t width = d->shape.width, feed_forward = d->shape.feed_forward;
    const bool qkv = d->bias != DESCRIPTION_BIAS_NONE, all = d->bias == DESCRIPTION_BIAS_ALL;
    out[MATRIX_QUERY] = (struct matrix){query_width(d), width, qkv};
    out[MATRIX_KEY] = (struct matrix){kv_width(d), width, qkv};
    out[MATRIX_VALUE] = (struct matrix){kv_width(d), width, qkv};
    out[MATRIX_OUTPUT] = (struct matrix){width, query_width(d), all};
    out[MATRIX_UP] = (struct matrix){feed_forward, width, all};
    out[MATRIX_DOWN] = (struct matrix){width, feed_forward, all};
    out[MATRIX_GATE] = (struct matrix){feed_forward, width, all};
    return d->feed_forward_matrices == 3 ? MATRICES_MAX : MATRICES_MAX - 1;
}

/* Vectors of a norm. */
static uint32_t norm_vectors(const struct model_description *d) {
    return d->norm_bias ? 2 : 1;
}

static uint64_t count_parameters(const struct model_description *d) {
    const uint64_t width = d->shape.width;
    struct matrix matrices[MATRICES_MAX];
    uint64_t layer = 2 * norm_vectors(d) * width;
    for (uint32_t i = 0, count = layer_matrices(d, matrices); i < count; i++) {
        layer += (uint64_t)matrices[i].rows * matrices[i].columns + (matrices[i].bias ? matrices[i].rows : 0);
    }
    const uint64_t tables = (d->shape.tied_head ? 1 : 2) * (uint64_t)d->shape.vocabulary + d->learned_positions;
    return d->shape.layers * layer + tables * width + norm_vectors(d) * width;
}

struct status description_set_type(struct model_description *description, const char *name) {
    for (int i = 0; i < TENSOR_TYPES; i++) {
        const struct tensor_traits *traits = tensor_traits((enum tensor_type)i);
        if (strcmp(traits->name, name) != 0) {
            continue;
        }
        const uint32_t columns[] = {description->shape.width, query_width(description),
                                    description->shape.feed_forward};
        for (size_t k = 0; k < COUNT(columns); k++) {
            if (columns[k] % traits->block_elements != 0) {
                return status_error(STATUS_INVALID, "weight_type: %s has blocks of %u, which do not divide %u columns",
                                    name, traits->block_elements, columns[k]);
            }
        }
        description->weight_type = (enum tensor_type)i;
        return STATUS_SUCCESS;
    }
    return status_error(STATUS_INVALID, "weight_type: \"%.16s\" is no type of tensor; such as F16, Q8_0, Q4_0", name);
}

/* ---- sizes ---- */

static size_t vector_bytes(size_t elements) {
    return bytes_align(elements * F32, ALIGNMENT);
}

static size_t slab_bytes(const struct model_description *d, uint32_t slabs, uint32_t slab) {
    struct matrix matrices[MATRICES_MAX];
    struct cut_matrix cut[MATRICES_MAX];
    struct row_range rows[MATRICES_MAX];
    const uint32_t count = layer_matrices(d, matrices);
    size_t vectors = 2 * norm_vectors(d) * vector_bytes(d->shape.width);
    for (uint32_t i = 0; i < count; i++) {
        cut[i] = (struct cut_matrix){.rows = matrices[i].rows,
                                     .group_bytes =
                                         cost_packed_bytes(d->weight_type, WEIGHT_ROW_GROUP, matrices[i].columns)};
        vectors += matrices[i].bias ? vector_bytes(matrices[i].rows) : 0;
    }
    layout_cut(cut, count, vectors, slabs, slab, rows);
    size_t bytes = slab == 0 ? vectors : 0;
    for (uint32_t i = 0; i < count; i++) {
        bytes += cost_packed_bytes(d->weight_type, rows[i].count, matrices[i].columns);
    }
    return bytes;
}

size_t description_slab_bytes(const struct model_description *description, uint32_t slabs) {
    size_t largest = 0;
    for (uint32_t slab = 0; slab < slabs; slab++) {
        size_t bytes = slab_bytes(description, slabs, slab);
        largest = bytes > largest ? bytes : largest;
    }
    return largest;
}

size_t description_global_bytes(const struct model_description *d) {
    const size_t table = cost_packed_bytes(d->weight_type, d->shape.vocabulary, d->shape.width);
    return (d->shape.tied_head ? 1 : 2) * table +
           cost_packed_bytes(d->weight_type, d->learned_positions, d->shape.width) +
           norm_vectors(d) * vector_bytes(d->shape.width) + vector_bytes(d->shape.rope_pairs);
}

struct kv_shape description_kv_shape(const struct model_description *description, enum kv_type type) {
    const struct model_shape *shape = &description->shape;
    return (struct kv_shape){
        .layers = shape->layers, .kv_heads = shape->kv_heads, .head_dim = shape->head_dim, .type = type};
}

/* ---- costs ---- */

static uint32_t count_rows(const struct kv_segment *segments, uint32_t count) {
    uint32_t rows = 0;
    for (uint32_t i = 0; i < count; i++) {
        rows += segments[i].rows;
    }
    return rows;
}

/* The product of `n` rows with `count` matrices from `first` on; `accumulate` as struct matmul_part has it. */
static uint64_t product_ns(const struct model_description *d, const struct cost_model *cost, enum matrix_index first,
                           uint32_t count, bool accumulate, uint32_t n) {
    struct matrix matrices[MATRICES_MAX];
    struct matmul_part parts[MATRICES_MAX] = {0};
    layer_matrices(d, matrices);
    for (uint32_t i = 0; i < count; i++) {
        const struct matrix *matrix = &matrices[first + i];
        parts[i].weight = (struct weight){.type = d->weight_type, .rows = matrix->rows, .columns = matrix->columns};
        parts[i].accumulate = accumulate;
    }
    return cost_matmul_ns(cost, parts, count, n);
}

/* Up, and gate beside it if there is one. */
static uint64_t up_ns(const struct model_description *d, const struct cost_model *cost, uint32_t n) {
    struct weight weight = {.type = d->weight_type, .rows = d->shape.feed_forward, .columns = d->shape.width};
    struct matmul_part parts[2] = {{.weight = weight}, {.weight = weight}};
    return cost_matmul_ns(cost, parts, d->feed_forward_matrices - 1, n);
}

static uint64_t activation_ns(const struct model_description *d, const struct cost_model *cost, uint32_t n) {
    const uint32_t dim = d->shape.feed_forward;
    return d->feed_forward_matrices == 3 ? cost_gated_ns(cost, n, dim) : cost_activate_ns(cost, n, dim);
}

static uint64_t rope_ns(const struct model_description *d, const struct cost_model *cost, uint32_t heads, uint32_t n) {
    return d->shape.rope_pairs ? cost_rope_ns(cost, n, heads, d->shape.head_dim, d->shape.rope_pairs) : 0;
}

/* What follows once keys and values are stored. */
static uint64_t rest_of_layer_ns(const struct model_description *d, const struct cost_model *cost,
                                 const struct kv_segment *segments, uint32_t count) {
    const struct kv_shape kv = description_kv_shape(d, KV_F16);
    const uint32_t n = count_rows(segments, count);
    return cost_attention_ns(cost, &kv, segments, count, d->shape.query_heads, 0) +
           product_ns(d, cost, MATRIX_OUTPUT, 1, true, n) + cost_rmsnorm_ns(cost, n, d->shape.width) +
           up_ns(d, cost, n) + activation_ns(d, cost, n) + product_ns(d, cost, MATRIX_DOWN, 1, true, n);
}

uint64_t description_layer_ns(const struct model_description *d, const struct cost_model *cost,
                              const struct description_rows *rows) {
    const struct kv_shape kv = description_kv_shape(d, KV_F16);
    const uint32_t n = count_rows(rows->segments, rows->segment_count);
    return cost_rmsnorm_ns(cost, n, d->shape.width) + product_ns(d, cost, MATRIX_QUERY, 3, false, n) +
           rope_ns(d, cost, d->shape.query_heads, n) + rope_ns(d, cost, d->shape.kv_heads, n) +
           cost_kv_store_ns(cost, &kv, n) + rest_of_layer_ns(d, cost, rows->segments, rows->segment_count);
}

/* The gathers of the wanted rows: residual, its norm, angles. */
static uint64_t gathers_ns(const struct model_description *d, const struct cost_model *cost, uint32_t wanted) {
    const uint64_t angles_ns = d->shape.rope_pairs ? cost_gather_ns(cost, wanted, d->shape.rope_pairs * 2) : 0;
    return 2 * cost_gather_ns(cost, wanted, d->shape.width) + angles_ns;
}

uint64_t description_last_layer_ns(const struct model_description *d, const struct cost_model *cost,
                                   const struct description_rows *rows) {
    const struct kv_shape kv = description_kv_shape(d, KV_F16);
    const uint32_t n = count_rows(rows->segments, rows->segment_count);
    const uint32_t wanted = count_rows(rows->wanted, rows->wanted_count);
    if (wanted == n) {
        return description_layer_ns(d, cost, rows);
    }
    uint64_t ns = cost_rmsnorm_ns(cost, n, d->shape.width) + product_ns(d, cost, MATRIX_KEY, 2, false, n) +
                  rope_ns(d, cost, d->shape.kv_heads, n) + cost_kv_store_ns(cost, &kv, n);
    if (wanted > 0) {
        ns += gathers_ns(d, cost, wanted) + product_ns(d, cost, MATRIX_QUERY, 1, false, wanted) +
              rope_ns(d, cost, d->shape.query_heads, wanted) +
              rest_of_layer_ns(d, cost, rows->wanted, rows->wanted_count);
    }
    return ns;
}

uint64_t description_begin_ns(const struct model_description *d, const struct cost_model *cost,
                              const struct description_rows *rows) {
    const uint32_t n = count_rows(rows->segments, rows->segment_count);
    const uint64_t angles_ns = d->shape.rope_pairs ? cost_rope_angles_ns(cost, n, d->shape.rope_pairs) : 0;
    const uint64_t positions_ns =
        d->learned_positions ? cost_embed_ns(cost, d->weight_type, d->shape.width, n) : 0; /* a second table */
    return cost_embed_ns(cost, d->weight_type, d->shape.width, n) + angles_ns + positions_ns;
}

uint64_t description_end_ns(const struct model_description *d, const struct cost_model *cost,
                            const struct description_rows *rows) {
    const uint32_t n = count_rows(rows->wanted, rows->wanted_count);
    if (n == 0) {
        return 0;
    }
    struct matmul_part head = {
        .weight = {.type = d->weight_type, .rows = d->shape.vocabulary, .columns = d->shape.width}};
    return cost_rmsnorm_ns(cost, n, d->shape.width) + cost_matmul_ns(cost, &head, 1, n) +
           (rows->samples ? cost_sample_ns(cost, rows->samples, n, d->shape.vocabulary)
                          : cost_argmax_ns(cost, n, d->shape.vocabulary));
}
