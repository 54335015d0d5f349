/* GPU time on the host's clock, without ever making the host wait for the GPU once the device is open.
 *
 * CUDA tells the time between two events, as a float of milliseconds: exact to a microsecond for some seconds only, and
 * on the GPU's own oscillator. So an event's time is that of an anchor event, whose host time is known, and what lies
 * between them; and every few seconds a new anchor is recorded on an idle stream and taken into use once it has passed.
 * Its host time is the old anchor's and what lies between them, but never before the host recorded it nor after the
 * host saw it past: so the two clocks cannot drift apart.
 *
 * Threads: the host's. */
#include "kernels/cuda/machine.h"

#include "base/check.h"
#include "base/clock.h"

#define ANCHOR_NS (2 * NS_PER_S)
#define OPENING_ROUNDS 16

/* Nanoseconds from the anchor to the event, which is negative for an event that passed before it; both are past. */
static bool elapsed_ns(cudaEvent_t from, cudaEvent_t to, int64_t *ns) {
    float ms;
    const cudaError_t error = cudaEventElapsedTime(&ms, from, to);
    CHECK(error != cudaErrorNotReady);
    if (error != cudaSuccess) {
        cudaGetLastError(); /* what is wrong with the device is told by the calls that wait for it */
        return false;
    }
    *ns = (int64_t)((double)ms * 1e6);
    return true;
}

/* Records the anchor a few times between two looks at the host's clock and keeps the closest pair. */
static struct status set_first_anchor(struct cuda_clock *clock) {
    uint64_t closest_ns = UINT64_MAX;
    for (int round = 0; round < OPENING_ROUNDS; round++) {
        int other = 1 - clock->current;
        uint64_t before_ns = clock_now_ns();
        cudaError_t error = cudaEventRecord(clock->anchors[other], clock->stream);
        error = error == cudaSuccess ? cudaEventSynchronize(clock->anchors[other]) : error;
        uint64_t after_ns = clock_now_ns();
        if (error != cudaSuccess) {
            return cuda_status(error, "cudaEventSynchronize");
        }
        if (after_ns - before_ns < closest_ns) {
            closest_ns = after_ns - before_ns;
            clock->current = other;
            clock->anchor_ns = before_ns + closest_ns / 2;
        }
    }
    clock->next_ns = clock->anchor_ns + ANCHOR_NS;
    clock->next_recorded_ns = 0;
    return STATUS_SUCCESS;
}

struct status cuda_clock_open(struct cuda_clock *clock) {
    int least, greatest;
    cudaError_t error = cudaDeviceGetStreamPriorityRange(&least, &greatest);
    if (error == cudaSuccess) {
        error = cudaStreamCreateWithPriority(&clock->stream, cudaStreamNonBlocking, greatest);
    }
    for (int i = 0; error == cudaSuccess && i < 2; i++) {
        error = cudaEventCreateWithFlags(&clock->anchors[i], cudaEventDefault);
    }
    return error == cudaSuccess ? set_first_anchor(clock) : cuda_status(error, "making the clock's stream and events");
}

void cuda_clock_close(struct cuda_clock *clock) {
    for (int i = 0; i < 2; i++) {
        if (clock->anchors[i]) {
            cudaEventDestroy(clock->anchors[i]);
        }
    }
    if (clock->stream) {
        cudaStreamDestroy(clock->stream);
    }
    *clock = (struct cuda_clock){0};
}

static uint64_t clamp(uint64_t value, uint64_t least, uint64_t most) {
    return value < least ? least : value > most ? most : value;
}

/* Takes the next anchor into use if it has passed, and records one when it is time. */
static void renew_anchor(struct cuda_clock *clock) {
    uint64_t now_ns = clock_now_ns();
    cudaEvent_t next = clock->anchors[1 - clock->current];
    if (clock->next_recorded_ns == 0 && now_ns >= clock->next_ns) {
        if (cudaEventRecord(next, clock->stream) == cudaSuccess) {
            clock->next_recorded_ns = now_ns;
        }
    } else if (clock->next_recorded_ns != 0 && cudaEventQuery(next) == cudaSuccess) {
        int64_t between_ns;
        if (elapsed_ns(clock->anchors[clock->current], next, &between_ns)) {
            clock->anchor_ns = clamp(clock->anchor_ns + (uint64_t)between_ns, clock->next_recorded_ns, now_ns);
            clock->current = 1 - clock->current;
        }
        clock->next_recorded_ns = 0;
        clock->next_ns = now_ns + ANCHOR_NS;
    }
}

uint64_t cuda_clock_time_ns(struct cuda_clock *clock, cudaEvent_t event) {
    renew_anchor(clock);
    int64_t between_ns = 0;
    if (!elapsed_ns(clock->anchors[clock->current], event, &between_ns)) {
        return clock_now_ns(); /* the device has failed, and says so where it is waited for */
    }
    return clock->anchor_ns + (uint64_t)between_ns;
}
