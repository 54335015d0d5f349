/* What an op or a copy costs on a described piece of hardware: pure functions, the only place where `sim` gets a time
 * from, so that a planner that calls them has the simulator's own numbers.
 *
 * A roofline (Williams et al. 2009): an op takes its launch plus the longer of its arithmetic at the rate that large
 * matmuls reach and its bytes of device memory at the bandwidth that streaming kernels reach. Weights are read once an
 * op, as many bytes as the cpu device packs them to; activations are f32. Bytes of biases, gains and ids are not
 * counted beside what they go with. Not modelled: caches, the loss of efficiency of small matmuls that are bound by
 * neither, contention of copies for device memory, clocks that fall as a device gets warm.
 * Threads: any; pure. */
#ifndef METRONOME_KERNELS_SIM_COST_H
#define METRONOME_KERNELS_SIM_COST_H

#include "kernels/ops.h"
#include "kernels/sim/hardware.h"

#include <stddef.h>
#include <stdint.h>

/* A hardware's figures in the units of the sums below. */
struct cost_model {
    double ns_per_byte; /* of device memory */
    double ns_per_f16_flop, ns_per_int8_op, ns_per_f32_flop;
    double ns_per_peer_byte; /* from one device to another */
    uint64_t launch_ns, peer_ns;
    enum compute_mode compute;
};

struct cost_model cost_model(const struct hardware *hardware, enum compute_mode compute);

/* Bytes of a (rows, columns) matrix once packed: device_packed_bytes() of `sim` and of `cpu`. */
size_t cost_packed_bytes(enum tensor_type type, uint32_t rows, uint32_t columns);

/* ---- ops: the arguments of kernels/ops.h that a cost depends on ---- */

/* Every op that does little with many bytes: launch + bytes / bandwidth. */
uint64_t cost_bytes_ns(const struct cost_model *model, double bytes);

uint64_t cost_embed_ns(const struct cost_model *model, enum tensor_type type, uint32_t columns, uint32_t n);
uint64_t cost_add_rows_ns(const struct cost_model *model, uint32_t n, uint32_t dim);
uint64_t cost_rmsnorm_ns(const struct cost_model *model, uint32_t n, uint32_t dim); /* layernorm, too */
uint64_t cost_rmsnorm_add_ns(const struct cost_model *model, uint32_t n, uint32_t dim);

/* `data`, `bias`, `out` and `out_stride` of the parts are not looked at. */
uint64_t cost_matmul_ns(const struct cost_model *model, const struct matmul_part *parts, uint32_t count, uint32_t n);
uint64_t cost_rope_angles_ns(const struct cost_model *model, uint32_t n, uint32_t pairs);
uint64_t cost_rope_ns(const struct cost_model *model, uint32_t n, uint32_t heads, uint32_t head_dim, uint32_t pairs);
uint64_t cost_kv_store_ns(const struct cost_model *model, const struct kv_shape *shape, uint32_t rows);

/* Rows of a segment are taken COST_ATTENTION_ROWS at a time, each such tile reading the keys and values before it
 * once, as FlashAttention-2 does (Dao, arXiv 2307.08691), as far as its rows' windows reach. Takes time in proportion
 * to the segments. */
#define COST_ATTENTION_ROWS 64
uint64_t cost_attention_ns(const struct cost_model *model, const struct kv_shape *shape,
                           const struct kv_segment *segments, uint32_t segment_count, uint32_t query_heads,
                           uint32_t window);

uint64_t cost_gated_ns(const struct cost_model *model, uint32_t n, uint32_t dim);
uint64_t cost_activate_ns(const struct cost_model *model, uint32_t n, uint32_t dim); /* scale, too */
uint64_t cost_gather_ns(const struct cost_model *model, uint32_t n, uint32_t dim);
uint64_t cost_argmax_ns(const struct cost_model *model, uint32_t n, uint32_t vocabulary);

/* What op_sample() reads and writes on `cuda` (kernels/cuda/sample.cu): a row that is drawn takes a pass over its
 * logits to find the largest, where it is not greedy one more to weigh them, and three for each of top_k and top_p; a
 * score two, and a slice for each token that it lists; a change is made and undone. There is a launch that begins rows,
 * and one for all passes, or, of vocabularies that are more than one block's share, for each pass of the row that has
 * most. Not modelled: that rows of a launch that are few have a few of a device's multiprocessors each, so that a pass
 * takes a microsecond of arithmetic; that where rows are many each has one block, and all need but one launch. */
#define COST_SAMPLE_SLICE 1024
#define COST_SAMPLE_SHARE (8 * COST_SAMPLE_SLICE)
uint64_t cost_sample_ns(const struct cost_model *model, const struct sample_row *rows, uint32_t n, uint32_t vocabulary);

/* A sum over `ranks` devices as a ring makes it, Patarasuk and Yuan 2009: each gives its neighbour 2 (ranks - 1) /
 * ranks of the bytes. It has the devices' links to each other to itself, even where those are the link to the host. */
uint64_t cost_all_reduce_ns(const struct cost_model *model, uint32_t ranks, uint32_t n, uint32_t dim);

/* ---- copies ---- */

/* Bytes at a pace, to the nearest nanosecond; UINT64_MAX if that does not fit (or the pace is 0). */
uint64_t cost_transfer_ns(double bytes, double bytes_per_s);

/* A copy that has the link to itself: latency + bytes / pace. */
uint64_t cost_copy_ns(size_t bytes, double link_bytes_per_s, uint64_t latency_ns);

/* A copy inside device memory: every byte is read and written. */
uint64_t cost_device_copy_ns(const struct cost_model *model, size_t bytes);

#endif
