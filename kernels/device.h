/* A device: memory, streams, events, a clock. The one interface behind which `cpu`, `cuda` and `sim` stand, chosen
 * at run time by name. The decoder's math on it is in kernels/ops.h.
 *
 * The nouns and their meaning are CUDA's. Work on one stream runs in order; streams run beside each other; an event
 * marks a point of one stream that another stream, or the host, can wait for. Every call that takes a stream
 * enqueues and returns. Nothing here allocates after device_prepare() but device_alloc*() themselves.
 *
 * Threads: all calls on one device come from one host thread (the engine's), except device_pack(),
 * device_packed_bytes() and device_info(), which are pure.
 *
 * Errors: set-up returns a `struct status`. An enqueued operation that fails makes its stream fail: everything
 * after it on that stream is skipped, and stream_sync() / event_sync() return the first error. */
#ifndef METRONOME_KERNELS_DEVICE_H
#define METRONOME_KERNELS_DEVICE_H

#include "base/status.h"
#include "kernels/tensor.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct device;
struct stream;
struct event;

/* How a device computes with quantized weights. */
enum compute_mode {
    COMPUTE_INT8, /* activations quantized to int8 per block of 32, integer dot products: the fast path */
    COMPUTE_F32,  /* weights dequantized on the fly, f32 products: the exact path */
};

/* What adds up over GPUs. */
enum all_reduce {
    ALL_REDUCE_AUTO, /* own kernels where every GPU has access to the others' memory, else NCCL */
    ALL_REDUCE_PEER,
    ALL_REDUCE_NCCL,
};

struct device_config {
    const char *name;        /* "cpu", "cuda" or "sim" */
    uint64_t device_memory;  /* bytes of device memory that may be allocated; 0: as much as there is */
    uint64_t host_memory;    /* bytes of pinned host memory that may be allocated; 0: as much as there is */
    double link_bytes_per_s; /* cpu: pace of copies between host and device; 0: unpaced. sim: overrides hardware.
                                cuda: 0 */
    uint32_t threads;        /* cpu: compute threads; 0: one for each core */
    const char *isa;         /* cpu: "auto", "avx512", "avx2" or "scalar"; NULL is auto */
    enum compute_mode compute;
    bool invariant;          /* cuda: rows' results shall not depend on the rows beside them, so own kernels multiply
                                whatever the batch; the other devices are so always */
    uint32_t library_rows;   /* cuda, not `invariant`: from so many rows on cuBLAS multiplies; 0: from where it is
                                estimated to be faster. For tests and measurements */
    uint64_t copy_jitter_ns; /* cpu, sim: delay every copy by a random time up to this, to shake out missing waits */
    uint64_t seed;           /* for the jitter, and for sim's logits */
    const char *hardware;    /* sim: path of the hardware description (JSON) */
    uint32_t ranks;          /* devices that share every layer (tensor parallelism); 0 or 1: one. The budgets, and the
                                link's pace, are of each; `threads` are those of all together */
    uint32_t rank;           /* cuda: which GPU this is; set by the team that opens it */
    enum all_reduce all_reduce; /* cuda, several ranks */
    uint32_t share_values; /* cuda, over peer memory: ranks share the work of sums of so many values and more; 0: of
                              those where it is estimated to be faster. For tests and measurements */
    bool no_graphs;        /* cuda: what stream_repeat_begin() brackets is launched one by one, to compare */
};

#define DEVICE_MOST_RANKS 16

struct device_info {
    const char *name;       /* "cpu" */
    char description[128];  /* "AMD EPYC, avx512_vnni, 2 threads" */
    uint64_t device_memory; /* budget in bytes */
    uint64_t device_used;   /* allocated so far */
    uint64_t host_memory;
    uint64_t host_used;
    double link_bytes_per_s; /* nominal; 0 if unknown */
    const char *isa;         /* cpu: "avx512", "avx2" or "scalar", as chosen; NULL elsewhere */
    uint32_t threads;
    uint32_t ranks;   /* at least 1; memory and link are those of one of them, and they are alike */
    const char *sums; /* of several ranks, what they add up by: "threads", "peer memory", "NCCL"; NULL elsewhere */
    bool invariant;   /* rows' results do not depend on batch, chunk or threads; of cuda known once it is prepared, and
                         false before if it may turn out so */
};

/* Opens a device by name. STATUS_NOT_FOUND for a name that this build does not have (and says which it has),
 * STATUS_DEVICE or STATUS_UNSUPPORTED if it cannot be used here. The caller closes it. */
struct status device_open(const struct device_config *config, struct device **out);
void device_close(struct device *device); /* NULL is allowed; every stream, event and buffer must be gone */

struct device_info device_info(const struct device *device);

/* The largest shapes that ops will meet, so that scratch space is allocated now and never later. */
struct device_limits {
    uint32_t rows;    /* tokens in one iteration */
    uint32_t columns; /* widest input or output of a matmul, the vocabulary not counted */
    uint32_t vocabulary;
    uint32_t logit_rows; /* rows whose logits are taken in one iteration */
    uint32_t sequences;  /* sequences in one iteration */
    uint32_t query_heads, kv_heads, head_dim;
    uint32_t context; /* longest sequence, tokens */
};
struct status device_prepare(struct device *device, const struct device_limits *limits);

/* ---- ranks ----
 * A device may be several (device_config.ranks): each has its share of every layer and of the KV cache, and all do the
 * same at the same time with what is theirs. What is allocated is allocated on each, and an address, of either kind of
 * memory, stands for the same place of every rank's; what the host reads and writes there is rank 0's. Host memory that
 * the device did not allocate is one for all. Sizes, budgets, copies and counts are those of one rank; an event is past
 * when it is on every rank. With one rank the calls below do what they say, which may be nothing. */

/* Makes these bytes of every rank's pinned host memory what rank 0's are. */
void device_share(struct device *device, const void *host, size_t bytes);

/* The same for `count` entries of a block table, whose addresses become the rank's own. */
void device_share_table(struct device *device, const uint64_t *host, size_t count);

/* Where rank `rank` has what rank 0 has at `host` in pinned host memory: to write what differs from rank to rank. */
void *device_rank_host(const struct device *device, void *host, uint32_t rank);

/* ---- memory ---- */

/* Device addresses may be used in arithmetic and given to ops and copies; only `cpu` lets the host read them. */
struct status device_alloc(struct device *device, size_t bytes, const char *what, void **out);
void device_free(struct device *device, void *address);

/* Pinned host memory, readable and writable by the host. On `sim` it is address space that costs nothing until it
 * is touched. `what` names the use in the error message when the budget is short. */
struct status device_alloc_host(struct device *device, size_t bytes, const char *what, void **out);
void device_free_host(struct device *device, void *address);

/* ---- weights ---- */

/* A matrix may be cut into pieces at any multiple of this many rows: the pieces together take no more bytes than the
 * whole, and a matmul by them (struct matmul_part) gives the same bits. */
#define WEIGHT_ROW_GROUP 16

/* Bytes that a (rows, columns) matrix takes once packed for this device; a multiple of 64. */
size_t device_packed_bytes(const struct device *device, enum tensor_type type, uint32_t rows, uint32_t columns);

/* Packs `rows` file rows at `source` into `packed` (host memory, 64-byte aligned, device_packed_bytes() long).
 * The result may be copied to any 64-byte aligned device address and used as struct weight.data. */
void device_pack(const struct device *device, enum tensor_type type, uint32_t rows, uint32_t columns,
                 const void *source, void *packed);

/* ---- streams and events ---- */

enum stream_kind { STREAM_COMPUTE, STREAM_COPY };

struct status stream_create(struct device *device, enum stream_kind kind, struct stream **out);
void stream_destroy(struct stream *stream); /* waits for its work; NULL is allowed */
struct status stream_sync(struct stream *stream);

enum copy_kind { COPY_HOST_TO_DEVICE, COPY_DEVICE_TO_HOST, COPY_DEVICE_TO_DEVICE };

/* Copies `bytes`; the two host-device kinds cross the link, are paced by it and are counted. */
void stream_copy(struct stream *stream, void *target, const void *source, size_t bytes, enum copy_kind kind);

/* Copies `rows` pieces of `bytes`, `stride` bytes apart in host memory, to one place on the device, where they lie one
 * after another; one copy over the link. */
void stream_copy_rows(struct stream *stream, void *target, const void *source, size_t stride, size_t bytes,
                      uint32_t rows);

/* A copy to the device of one rank alone, from host memory that the device did not allocate. */
void stream_copy_to_rank(struct stream *stream, uint32_t rank, void *target, const void *source, size_t bytes);

/* Brackets work on a stream that comes again and again, much of it with the same arguments, as an iteration does. On
 * `cuda` what is enqueued in between is held back and launched as CUDA graphs, so that the host is no bound to it;
 * elsewhere the brackets mean nothing. The order of things is what it is without them: work goes to the device when the
 * brackets end, or before that when another stream or the host asks for an event that was recorded in between. In
 * between, no memory may be freed that the work uses. They do not nest. */
void stream_repeat_begin(struct stream *stream);
void stream_repeat_end(struct stream *stream);

/* What has been launched since the device was opened; all 0 where nothing is. From the thread that owns the device. */
struct launch_count {
    uint64_t kernels; /* one by one */
    uint64_t graphs;  /* launched, and the operations that were in them: kernels, copies, waits, records */
    uint64_t graph_nodes;
    uint64_t instantiations; /* graphs made */
    uint64_t updates;        /* operations that were changed in a graph before it was launched again */
    uint64_t refusals;       /* graphs that the device would not make or change */
};
struct launch_count device_launch_count(const struct device *device);

/* Bytes and calls that stream_copy() and stream_copy_rows() have put on the link since the device was opened: the only
 * place where streamed bytes are counted. Readable from any thread. */
struct link_count {
    uint64_t host_to_device_bytes, device_to_host_bytes;
    uint64_t host_to_device_copies, device_to_host_copies;
};
struct link_count device_link_count(const struct device *device);

/* Changes the pace of the link from now on: for tests and demonstrations of a link that slows. For cpu and sim; a real
 * link has no pace to set, and asking `cuda` for one is a bug. */
void device_set_link(struct device *device, double link_bytes_per_s);

struct status event_create(struct device *device, struct event **out);
void event_destroy(struct event *event);
void event_record(struct event *event, struct stream *stream); /* the event now means this point of the stream */
void stream_wait(struct stream *stream, struct event *event);  /* later work waits for the last record before this
                                                                  call; an event never recorded is past */
bool event_query(const struct event *event);                   /* is that point past? never blocks */
struct status event_sync(struct event *event);                 /* blocks the host until it is */

/* When the event's point was passed, on device_now_ns()'s clock; the event must be past. Differences of two of them
 * are elapsed device time. */
uint64_t event_time_ns(const struct event *event);

/* The clock that deadlines are kept on: monotonic real time, or sim's virtual time. */
uint64_t device_now_ns(const struct device *device);

/* Lets the clock reach `time_ns`: sleeps on real devices, advances the virtual clock on sim. */
void device_sleep_until_ns(struct device *device, uint64_t time_ns);

#endif
