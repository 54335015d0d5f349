/* What only the `sim` device can do, for tests, benchmarks and the planner. Everything else is kernels/device.h.
 *
 * The device stands for the hardware that a description says (device_config.hardware, kernels/sim/hardware.h).
 * Its clock is virtual and moves only when the host waits: in stream_sync(), event_sync(), stream_destroy(),
 * device_sleep_until_ns(), in a stream's full queue, by host_enqueue_ns a call that enqueues, and by at least 1 ns an
 * event_query() that says no, so that a loop that asks comes to an end. Ops take what kernels/sim/cost.h says; copies
 * share the bus. A run is a function of its calls and its seed: the same make the same log, byte for byte.
 *
 * What is real and what is not:
 * - Memory of both kinds is address space that costs nothing until it is touched, counted against the budgets.
 * - A copy of up to SIM_MOVED_BYTES on a compute stream moves its bytes, when it is enqueued: ids and block tables work
 *   end to end, and nobody who waits as he must can tell. Larger ones, and those on copy streams, weights and KV, move
 *   nothing. device_pack() writes nothing: no op reads a weight.
 * - op_argmax() gives a token that is a hash of the seed and of the row's (sequence, position): those of the latest
 *   op_attention(), through the ids of an op_gather() since. It makes the logits it was given 0 but for SIM_LOGIT at
 *   that token, and a copy of any size from them moves its bytes. op_sample() does the same, but that changes of logits
 *   may make another token the likeliest, which it takes. No other op writes anything.
 * - Compute streams run beside each other at full speed; contention is modelled on the bus alone. */
#ifndef METRONOME_KERNELS_SIM_SIM_H
#define METRONOME_KERNELS_SIM_SIM_H

#include "kernels/device.h"

#include <stdint.h>
#include <stdio.h>

#define SIM_MOVED_BYTES ((size_t)1 << 20)
#define SIM_LOGIT 30.0f /* against zeros: sampling at ordinary temperatures takes that token */

struct cost_model;
struct hardware;

/* Every function below takes an open `sim` device. */
const struct hardware *sim_hardware(const struct device *device);
const struct cost_model *sim_cost_model(const struct device *device);

/* Writes one line for each op, copy, record and wait from now on, as its time becomes known, and for each time the
 * host waited: "begin_ns end_ns stream what bytes", the host being stream "-". NULL stops it. The file is the
 * caller's; times do not depend on whether there is a log. */
void sim_set_log(struct device *device, FILE *log);

/* The bandwidth that others leave us, over time: from `time_ns` on (ascending) the bus carries `bytes_per_s`. */
struct sim_link_step {
    uint64_t time_ns;
    double bytes_per_s; /* 0: nothing moves; not in the last step */
};

/* A neighbour on the bus: the steps, which stay the caller's and must outlive their use, take the place of those set
 * before; steps in the past take effect now. device_set_link() ends them; its 0 is the hardware's own pace. */
void sim_set_link_steps(struct device *device, const struct sim_link_step *steps, uint32_t count);

#endif
