/* A device that is several of one kind, its ranks (kernels/device.h says what that means): one thread decides, and
 * every call goes to rank after rank, with each rank's own addresses.
 *
 * Owns: the ranks' devices, which address of rank 0's stands for which of the others', and their collective. What is
 * split, and by what, is for those above to know: shapes are those of one rank.
 * For kernels/ only. Threads: as device.h says. */
#ifndef METRONOME_KERNELS_TEAM_TEAM_H
#define METRONOME_KERNELS_TEAM_TEAM_H

#include "kernels/collective.h"
#include "kernels/device_internal.h"

extern const struct backend team_backend;

/* Opens config->ranks devices of a kind. Its errors name the rank. */
struct status team_open(const struct backend *kind, const struct device_config *config, struct device **out);

/* The functions of device.h with these names. */
void team_share(struct device *device, const void *host, size_t bytes);
void team_share_table(struct device *device, const uint64_t *host, size_t count);
void *team_rank_host(const struct device *device, void *host, uint32_t rank);
void team_copy_to_rank(struct stream *stream, uint32_t rank, void *target, const void *source, size_t bytes);

/* ---- for kernels/team/ ---- */

/* What was allocated once on every rank. */
struct team_memory {
    struct team_memory *next;
    size_t bytes;
    uint8_t *at[DEVICE_MOST_RANKS];
};

struct team {
    struct device base;
    uint32_t ranks;
    struct device *rank[DEVICE_MOST_RANKS];
    struct collective *collective;
    struct team_memory *device, *host;
    const struct team_memory *blocks; /* of `device`, the one that KV blocks lie in, once there were any */
};

struct team_stream {
    struct stream base;
    struct stream *rank[DEVICE_MOST_RANKS];
};

static inline struct team *team_of(const struct device *device) {
    return (struct team *)device;
}

/* The device of a rank, to be called next: on this thread, what follows meets it. */
struct device *team_enter(const struct team *team, uint32_t rank);

/* A rank's address for rank 0's; what the team did not allocate is the same for all. */
void *team_address(const struct team *team, const void *address, uint32_t rank);

/* ops.c: the ops, with the signatures of struct backend. */
void team_embed(struct stream *stream, float *out, struct weight table, const uint32_t *ids, uint32_t n);
void team_add_rows(struct stream *stream, float *out, const float *table, uint32_t rows, const uint32_t *ids,
                   uint32_t n, uint32_t dim);
void team_scale(struct stream *stream, float *x, float factor, uint32_t n, uint32_t dim);
void team_rmsnorm(struct stream *stream, float *out, const float *x, const float *gain, float epsilon, uint32_t n,
                  uint32_t dim);
void team_rmsnorm_add(struct stream *stream, float *out, const float *x, const float *gain, float epsilon, uint32_t n,
                      uint32_t dim);
void team_layernorm(struct stream *stream, float *out, const float *x, const float *gain, const float *bias,
                    float epsilon, uint32_t n, uint32_t dim);
void team_matmul(struct stream *stream, const struct matmul_part *parts, uint32_t count, const float *x,
                 size_t x_stride, uint32_t n);
void team_matmul_partial(struct stream *stream, const struct matmul_part *parts, uint32_t count, const float *x,
                         size_t x_stride, uint32_t n);
void team_all_reduce(struct stream *stream, float *x, uint32_t n, uint32_t dim);
void team_rope_angles(struct stream *stream, float *angles, const uint32_t *positions, const float *frequency,
                      float magnitude, uint32_t n, uint32_t pairs);
void team_rope(struct stream *stream, float *x, size_t x_stride, const float *angles, enum rope_style style, uint32_t n,
               uint32_t heads, uint32_t head_dim, uint32_t pairs);
void team_kv_store(struct stream *stream, const struct kv_batch *batch, uint32_t layer, const float *k, size_t k_stride,
                   const float *v, size_t v_stride);
void team_attention(struct stream *stream, float *out, size_t out_stride, const float *q, size_t q_stride,
                    const struct kv_batch *batch, uint32_t layer, uint32_t query_heads, float scale, uint32_t window);
void team_gated(struct stream *stream, enum activation activation, float *out, const float *gate, const float *up,
                uint32_t n, uint32_t dim);
void team_activate(struct stream *stream, enum activation activation, float *out, const float *x, uint32_t n,
                   uint32_t dim);
void team_gather(struct stream *stream, float *out, const float *x, const uint32_t *rows, uint32_t n, uint32_t dim);
void team_argmax(struct stream *stream, uint32_t *out, const float *logits, uint32_t n, uint32_t vocabulary);
void team_sample(struct stream *stream, uint32_t *out, float *logits, const struct sample_batch *batch, uint32_t n,
                 uint32_t vocabulary);

#endif
