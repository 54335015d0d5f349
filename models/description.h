/* A model without its weights: the shape that configs/models/NAME.json describes, what its layers weigh, and what an
 * iteration of it costs on described hardware.
 *
 * It stands in for a file of weights where a plan is made for a model that nobody has downloaded. Families whose pass
 * is not built (opt: LayerNorm, learned positions, two feed-forward matrices, biases everywhere) can be described, too:
 * their ops are counted as the nearest ones that there are. The parameters that the shape adds up to are checked
 * against the published number. Threads: any; values only. */
#ifndef METRONOME_MODELS_DESCRIPTION_H
#define METRONOME_MODELS_DESCRIPTION_H

#include "base/status.h"
#include "kernels/sim/cost.h"
#include "models/model.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Which matrices have a bias. */
enum description_bias {
    DESCRIPTION_BIAS_NONE,
    DESCRIPTION_BIAS_QKV,
    DESCRIPTION_BIAS_ALL,
};

struct model_description {
    struct model_shape shape;       /* rope_pairs is 0 for a model with learned positions */
    enum tensor_type weight_type;   /* of every matrix, the embedding and the head too */
    uint32_t learned_positions;     /* rows of the table of positions; 0: there is none */
    uint32_t feed_forward_matrices; /* 3: gate, up and down; 2: up and down */
    bool norm_bias;                 /* norms have a bias beside their gain */
    enum description_bias bias;
};

/* Reads and checks a description; errors name the field. */
struct status description_load(const char *path, struct model_description *out);
struct status description_parse(const char *text, size_t bytes, struct model_description *out);

/* Gives every matrix the type of that name ("Q4_0"). STATUS_INVALID if there is no such type or if its blocks do not
 * divide the matrices' columns. */
struct status description_set_type(struct model_description *description, const char *name);

/* model_slab_bytes(), model_global_bytes() and model_kv_shape() of such a model on `sim` and `cpu`. With one slab:
 * the bytes of a packed layer. */
size_t description_slab_bytes(const struct model_description *description, uint32_t slabs);
size_t description_global_bytes(const struct model_description *description);
struct kv_shape description_kv_shape(const struct model_description *description, enum kv_type type);

/* A model of that shape without weights or tokenizer, which model_load() takes to `sim` only: the engine runs it as any
 * other. The caller closes it. STATUS_UNSUPPORTED if no family is built whose pass has what is described. */
struct status model_open_described(const struct model_description *description, struct model **out);

/* ---- what an iteration costs: the sums of the ops that forward_run() enqueues, equal to `sim`'s to the nanosecond
 * ---- */

/* The rows of an iteration, as struct kv_batch has them, and those of them whose logits are wanted: in the last layer
 * only these go on once keys and values are stored. */
struct description_rows {
    const struct kv_segment *segments;
    uint32_t segment_count;
    const struct kv_segment *wanted; /* segments of wanted rows alone; positions count, first_row does not */
    uint32_t wanted_count;
    const struct sample_row *samples; /* how the token of each wanted row is drawn; NULL: the likeliest of all */
};

/* One layer: any but the last, and the last. */
uint64_t description_layer_ns(const struct model_description *description, const struct cost_model *cost,
                              const struct description_rows *rows);
uint64_t description_last_layer_ns(const struct model_description *description, const struct cost_model *cost,
                                   const struct description_rows *rows);

/* What comes before the first layer and after the last. */
uint64_t description_begin_ns(const struct model_description *description, const struct cost_model *cost,
                              const struct description_rows *rows);
uint64_t description_end_ns(const struct model_description *description, const struct cost_model *cost,
                            const struct description_rows *rows);

#endif
