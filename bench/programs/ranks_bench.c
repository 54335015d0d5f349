/* ranks-bench: what a sum over ranks takes (op_all_reduce()), alone and while weights come from host memory to every
 * rank, and what those copies then take: whether the two fight for a link. Two sums a layer are the price of
 * tensor_parallel_size.
 *
 *   ranks-bench DEVICE RANKS [quick] [peer|nccl] [shares=N]
 *
 * cuda 2, cpu 4; quick shows that it runs and says nothing about speed. On cuda: over peer memory or with NCCL;
 * shares=1 and shares=4294967295 have ranks share the work of every sum, and of none that can do without: which of them
 * is faster from where on corrects cuda_peer_share_values(). */
#include "kernels/device.h"
#include "kernels/ops.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WIDTH 8192 /* of a 70B model */
#define MOST_ROWS 512
#define PASSES 5

struct bench {
    struct device *device;
    struct stream *compute, *copy;
    struct event *begin, *end, *copy_begin, *copy_end;
    float *x;
    uint8_t *target, *source; /* `slab_bytes` on the device, and in host memory */
    size_t slab_bytes;
    uint32_t sums, copies; /* in a pass */
    bool quick;
};

static void must(struct status status) {
    if (status_failed(&status)) {
        fprintf(stderr, "ranks-bench: %s\n", status.message);
        exit(1);
    }
}

static double seconds_between(const struct event *begin, const struct event *end) {
    const uint64_t begin_ns = event_time_ns(begin), end_ns = event_time_ns(end);
    return end_ns > begin_ns ? (double)(end_ns - begin_ns) / 1e9 : 1e-9;
}

/* Seconds of a sum of `rows` and of a slab's copy; of what is not there 0. */
struct times {
    double sum, copy;
};

static void enqueue_copies(struct bench *bench, uint32_t copies) {
    event_record(bench->copy_begin, bench->copy);
    for (uint32_t i = 0; i < copies; i++) {
        stream_copy(bench->copy, bench->target, bench->source, bench->slab_bytes, COPY_HOST_TO_DEVICE);
    }
    event_record(bench->copy_end, bench->copy);
}

/* The copies last at least as long as the sums, if `copies` are enough: their time is for all of them. */
static struct times run(struct bench *bench, uint32_t rows, uint32_t sums, uint32_t copies) {
    struct times best = {1e9, 1e9};
    for (int pass = 0; pass < (bench->quick ? 1 : PASSES); pass++) {
        if (copies > 0) {
            enqueue_copies(bench, copies);
        }
        event_record(bench->begin, bench->compute);
        for (uint32_t i = 0; i < sums; i++) {
            op_all_reduce(bench->compute, bench->x, rows, WIDTH);
        }
        event_record(bench->end, bench->compute);
        must(event_sync(bench->end));
        const double sum = seconds_between(bench->begin, bench->end) / (sums > 0 ? sums : 1);
        double copy = 0;
        if (copies > 0) {
            must(event_sync(bench->copy_end));
            copy = seconds_between(bench->copy_begin, bench->copy_end) / copies;
        }
        best = (struct times){sum < best.sum ? sum : best.sum, copy < best.copy ? copy : best.copy};
    }
    return best;
}

static void open_bench(struct bench *bench, const struct device_config *config) {
    void *x, *target, *source;
    must(device_open(config, &bench->device));
    must(device_alloc(bench->device, sizeof(float) * MOST_ROWS * WIDTH, "ranks-bench", &x));
    must(device_alloc(bench->device, bench->slab_bytes, "ranks-bench", &target));
    must(device_alloc_host(bench->device, bench->slab_bytes, "ranks-bench", &source));
    bench->x = x;
    bench->target = target;
    bench->source = source;
    must(stream_create(bench->device, STREAM_COMPUTE, &bench->compute));
    must(stream_create(bench->device, STREAM_COPY, &bench->copy));
    struct event **events[] = {&bench->begin, &bench->end, &bench->copy_begin, &bench->copy_end};
    for (size_t i = 0; i < sizeof events / sizeof *events; i++) {
        must(event_create(bench->device, events[i]));
    }
    memset(source, 0, bench->slab_bytes); /* rank 0's; the others' pages come with the first copy */
    for (size_t at = 0; at < sizeof(float) * MOST_ROWS * WIDTH; at += bench->slab_bytes) {
        const size_t left = sizeof(float) * MOST_ROWS * WIDTH - at;
        device_share(bench->device, source, bench->slab_bytes);
        stream_copy(bench->compute, (uint8_t *)x + at, source, left < bench->slab_bytes ? left : bench->slab_bytes,
                    COPY_HOST_TO_DEVICE);
    }
    must(stream_sync(bench->compute));
}

static void close_bench(struct bench *bench) {
    struct event *events[] = {bench->begin, bench->end, bench->copy_begin, bench->copy_end};
    for (size_t i = 0; i < sizeof events / sizeof *events; i++) {
        event_destroy(events[i]);
    }
    stream_destroy(bench->copy);
    stream_destroy(bench->compute);
    device_free(bench->device, bench->x);
    device_free(bench->device, bench->target);
    device_free_host(bench->device, bench->source);
    device_close(bench->device);
}

static bool read_arguments(int argc, char **argv, struct device_config *config, bool *quick) {
    if (argc < 3) {
        return false;
    }
    config->name = argv[1];
    config->ranks = (uint32_t)strtoul(argv[2], NULL, 10);
    for (int i = 3; i < argc; i++) {
        if (strcmp(argv[i], "quick") == 0) {
            *quick = true;
        } else if (strcmp(argv[i], "peer") == 0) {
            config->all_reduce = ALL_REDUCE_PEER;
        } else if (strcmp(argv[i], "nccl") == 0) {
            config->all_reduce = ALL_REDUCE_NCCL;
        } else if (strncmp(argv[i], "shares=", strlen("shares=")) == 0) {
            config->share_values = (uint32_t)strtoul(argv[i] + strlen("shares="), NULL, 10);
        } else {
            return false;
        }
    }
    return true;
}

int main(int argc, char **argv) {
    static const uint32_t rows[] = {1, 2, 4, 8, 16, 32, 64, MOST_ROWS};
    struct bench bench = {0};
    struct device_config config = {0};
    if (!read_arguments(argc, argv, &config, &bench.quick)) {
        fprintf(stderr, "usage: ranks-bench DEVICE RANKS [quick] [peer|nccl] [shares=N]\n");
        return 2;
    }
    bench.slab_bytes = bench.quick ? 1 << 16 : 32 << 20;
    open_bench(&bench, &config);
    const uint32_t sums = bench.quick ? 2 : 100;
    const struct device_info info = device_info(bench.device);
    printf("%s; sums of f32 rows of %d, copies of %zu KiB to each rank\n", info.description, WIDTH,
           bench.slab_bytes >> 10);
    const double copy_alone = run(&bench, 1, 0, bench.quick ? 1 : 32).copy;
    printf("copies alone: %.2f GB/s a rank\n", (double)bench.slab_bytes / copy_alone / 1e9);
    printf("| rows | a sum alone | beside copies | the copies beside sums |\n|---|---|---|---|\n");
    for (size_t i = 0; i < (bench.quick ? 1 : sizeof rows / sizeof *rows); i++) {
        const double alone = run(&bench, rows[i], sums, 0).sum;
        const uint32_t copies = (uint32_t)(2 * alone * sums / copy_alone) + 1; /* sums may take twice as long */
        const struct times both = run(&bench, rows[i], sums, copies);
        printf("| %u | %.1f us | %.1f us | %.2f GB/s |\n", rows[i], alone * 1e6, both.sum * 1e6,
               (double)bench.slab_bytes / both.copy / 1e9);
    }
    close_bench(&bench);
    return 0;
}
