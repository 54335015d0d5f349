/* Every op of kernels/ops.h, alone, on a device at hand, against what that machine can do at most.
 *
 * Owns the device of a run, and what its ops read and write; tells how long a call takes, and how long it would take if
 * nothing but the machine's limit held it. Which calls are made is in bench/ops_cases.c. Threads: one. */
#ifndef METRONOME_BENCH_OPS_BENCH_H
#define METRONOME_BENCH_OPS_BENCH_H

#include "base/random.h"
#include "bench/cublas_limit.h"
#include "kernels/ops.h"
#include "models/model.h"

/* What is asked for. */
struct ops_order {
    struct device_config device; /* cpu or cuda */
    struct model_shape shape;    /* whose matrices, heads and vocabulary */
    enum tensor_type type;       /* of its layers' matrices */
    uint64_t seed;
    bool quick; /* every call once: shows that it works and says nothing about speed */
};

enum ops_arithmetic { OPS_INT8, OPS_F32, OPS_ARITHMETICS };

/* One op with its sizes, and how fast it is. */
struct ops_row {
    const char *op;
    char shape[64];
    uint32_t rows;                    /* of activations */
    double bytes, operations;         /* that a call must move at least, and does; a multiply-add is two */
    double least_s, median_s, spread; /* of a call; spread: between the quartiles, as a share of the median */
    double memory_s, arithmetic_s;    /* what bytes and operations take at least; NAN: not known */
};

/* The machine. */
struct ops_limits {
    struct ops_level {
        size_t bytes; /* that are read over and over; those of cuda are copied inside the device */
        double bytes_per_s;
    } level[8]; /* (levels) ascending */
    uint32_t levels;
    double operations_per_s[OPS_ARITHMETICS]; /* 0: not known */
    double launch_s;                          /* of a call that has next to nothing to do */
};

struct ops_report {
    char device[128];
    bool cublas; /* it is what arithmetic is held against */
    struct ops_limits limits;
    struct ops_row *rows; /* (count), freed by ops_report_free() */
    uint32_t count, capacity;
};

/* What holds a call: the longest of its bytes, its operations, and a call with nothing to do. */
enum ops_limit { OPS_MEMORY, OPS_ARITHMETIC, OPS_LAUNCH, OPS_UNKNOWN };

/* How long that takes goes to *limit_s; NAN where it is not known what the device computes at most. */
enum ops_limit ops_row_limit(const struct ops_limits *limits, const struct ops_row *row, double *limit_s);

/* Measures all there is. STATUS_UNSUPPORTED where the device has no speed of its own (sim). */
struct status ops_run(const struct ops_order *order, struct ops_report *out);
void ops_report_free(struct ops_report *report);

/* ---- for bench/ops_cases.c ---- */

#define OPS_MOST_BUFFERS 32

struct ops_bench {
    const struct ops_order *order;
    struct ops_report *report;
    struct device *device;
    struct stream *stream;
    struct event *begin, *end;
    struct random_state random;
    struct cublas_limit cublas;
    void *buffer[OPS_MOST_BUFFERS]; /* (buffers) in the order in which they were allocated */
    uint32_t buffers;
    uint32_t turn;          /* calls made so far: what is there in several copies is used in turn */
    uint32_t rows;          /* the most that any op gets */
    float *x, *y, *out;     /* (rows, the widest there is); out also has room for all parts of a matmul, and logits */
    float *gain;            /* (widest) and */
    uint32_t *ids, *places; /* (rows) below the vocabulary; 0 .. rows-1 */
    uint32_t *largest;      /* (rows) what argmax finds */
    float *angles;          /* (rows, pairs, 2) */
    uint8_t *pattern;       /* host memory: OPS_PATTERN_BYTES of numbers of ordinary size in any type */
};

#define OPS_PATTERN_BYTES ((size_t)16 << 20)

struct ops_call {
    const char *op;
    const char *shape; /* in words */
    uint32_t rows, dim;
    double bytes, operations;
    size_t footprint; /* bytes between two uses of the same byte: they come from what holds so many */
    enum ops_arithmetic arithmetic;
    double arithmetic_s; /* what the operations take at least, where that is known better than by the peak; else 0 */
    void (*enqueue)(struct ops_bench *bench, const struct ops_call *call);
    const void *context; /* the enqueuer's */
};

/* Device memory until ops_release() of what ops_mark() said before. */
struct status ops_alloc(struct ops_bench *bench, size_t bytes, void *out);
static inline uint32_t ops_mark(const struct ops_bench *bench) {
    return bench->buffers;
}
void ops_release(struct ops_bench *bench, uint32_t mark);

/* Fills device memory, or copies to it; waits. */
struct status ops_fill(struct ops_bench *bench, void *target, size_t bytes);
struct status ops_upload(struct ops_bench *bench, void *target, const void *source, size_t bytes);

/* Times a call and adds its row to the report. */
struct status ops_time(struct ops_bench *bench, const struct ops_call *call);

/* What is measured, group by group. */
uint32_t ops_groups(void);
struct status ops_measure_group(struct ops_bench *bench, uint32_t group);

#endif
