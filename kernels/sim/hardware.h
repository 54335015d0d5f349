/* What a simulated device is: the figures of a hardware description, configs/hardware/NAME.json.
 *
 * Peak figures are the maker's; the two efficiencies say which share of a peak long-running kernels of this kind
 * reach. One description serves every model, batch and phase: nothing in it is fitted to a result.
 * Threads: any; values only. */
#ifndef METRONOME_KERNELS_SIM_HARDWARE_H
#define METRONOME_KERNELS_SIM_HARDWARE_H

#include "base/status.h"

#include <stddef.h>
#include <stdint.h>

struct hardware {
    char name[64]; /* "NVIDIA A10" */
    char bus[32];  /* the kind of link that devices of a machine share: "pcie-4.0-x16" */

    uint64_t device_memory_bytes;
    double memory_bytes_per_s;   /* of device memory, peak */
    double f16_flops_per_s;      /* dense, peak, products of f16 or bf16 */
    double int8_ops_per_s;       /* dense, peak */
    double f32_flops_per_s;      /* peak */
    double compute_efficiency;   /* share of the peak that a large matmul reaches */
    double bandwidth_efficiency; /* share of memory_bytes_per_s that streaming kernels reach */

    uint64_t op_launch_ns;    /* from the end of one op to the begin of the next of its stream */
    uint64_t host_enqueue_ns; /* of the host's time, for each call that enqueues */

    double link_nominal_bytes_per_s; /* one direction */
    double link_bytes_per_s;         /* one direction, what large copies from pinned memory reach */
    uint64_t link_latency_ns;        /* before a copy's first byte moves */

    double peer_bytes_per_s;  /* one direction, what a device gives another in large sums over several of them */
    uint64_t peer_latency_ns; /* what the smallest sum over several takes beside the launch */
};

/* Reads and checks a description; errors name the field. */
struct status hardware_load(const char *path, struct hardware *out);
struct status hardware_parse(const char *text, size_t bytes, struct hardware *out);

#endif
