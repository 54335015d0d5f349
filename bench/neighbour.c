#include "bench/neighbour.h"

#include "base/check.h"
#include "base/clock.h"
#include "base/random.h"

#include <math.h>
#include <stdlib.h>

static void *come_and_go(void *argument) {
    struct neighbour *neighbour = argument;
    for (uint32_t i = 0; i < neighbour->count && !__atomic_load_n(&neighbour->stop, __ATOMIC_ACQUIRE); i++) {
        clock_sleep_until_ns(neighbour->steps[i].time_ns);
        device_set_link(neighbour->rig->device, neighbour->steps[i].bytes_per_s);
    }
    return NULL;
}

static void draw_steps(struct neighbour *neighbour, uint64_t span_ns, uint64_t mean_ns, uint64_t seed) {
    struct random_state random;
    random_seed(&random, seed);
    uint32_t most = (uint32_t)(10 * span_ns / mean_ns) + 2;
    neighbour->steps = calloc(most, sizeof *neighbour->steps);
    CHECK(neighbour->steps);
    uint64_t begin_ns = device_now_ns(neighbour->rig->device), time_ns = begin_ns;
    while (neighbour->count + 2 < most) { /* an even number: at the end the link is whole */
        for (int here = 1; here >= 0; here--) {
            double wait = -log(1 - random_unit(&random)) * (double)mean_ns;
            time_ns += mean_ns / 10 + (uint64_t)(0.9 * wait);
            neighbour->steps[neighbour->count++] =
                (struct sim_link_step){.time_ns = time_ns, .bytes_per_s = neighbour->full_bytes_per_s / (here ? 2 : 1)};
        }
        if (time_ns - begin_ns > span_ns) {
            break;
        }
    }
}

void neighbour_begin(struct rig *rig, uint64_t span_ns, uint64_t mean_ns, uint64_t seed, struct neighbour *neighbour) {
    *neighbour = (struct neighbour){.rig = rig, .full_bytes_per_s = rig->config.link_bytes_per_s};
    struct engine_stats stats;
    engine_stats(rig->engine, &stats);
    neighbour->absent_slabs = stats.offload.streamed_slabs;
    if (mean_ns == 0) {
        return; /* nobody comes: what the same run is like without */
    }
    draw_steps(neighbour, span_ns, mean_ns, seed);
    if (rig->config.hardware) {
        sim_set_link_steps(rig->device, neighbour->steps, neighbour->count);
    } else {
        neighbour->threaded = true;
        CHECK(pthread_create(&neighbour->thread, NULL, come_and_go, neighbour) == 0);
    }
}

static void judge_token(struct neighbour *neighbour, uint64_t end_ns) {
    if (neighbour->round != neighbour->rig->rounds) {
        neighbour->round = neighbour->rig->rounds;
        neighbour->due_ns = end_ns;
        return;
    }
    neighbour->due_ns += neighbour->rig->config.tpot_ns;
    neighbour->late_tokens += end_ns > neighbour->due_ns;
}

void neighbour_judge(struct neighbour *neighbour, uint64_t begin_ns, const struct offload_report *report) {
    uint64_t end_ns = begin_ns + report->measured_ns, promised_ns = neighbour->rig->config.tpot_ns;
    bool dropped = false;
    double bytes_per_s = neighbour->full_bytes_per_s; /* when the iteration began */
    for (; neighbour->past < neighbour->count && neighbour->steps[neighbour->past].time_ns <= begin_ns;
         neighbour->past++) {
        neighbour->drops += neighbour->past % 2 == 0;
    }
    if (neighbour->past > 0) {
        bytes_per_s = neighbour->steps[neighbour->past - 1].bytes_per_s;
    }
    for (uint32_t i = neighbour->past; i < neighbour->count && neighbour->steps[i].time_ns <= end_ns; i++) {
        dropped = dropped || neighbour->steps[i].bytes_per_s < bytes_per_s;
    }
    /* What the ring may hold at the begin does not have to come. */
    double absent = (double)neighbour->absent_slabs - report->staging;
    double carry_ns = absent * (double)report->slot_bytes / bytes_per_s * 1e9;
    if (report->measured_ns > promised_ns) {
        neighbour->late++;
        neighbour->late_drop += dropped;
        neighbour->late_after += !dropped && carry_ns > (double)promised_ns;
        neighbour->late_plan += !dropped && carry_ns <= (double)promised_ns;
    }
    judge_token(neighbour, end_ns);
    neighbour->absent_slabs = report->streamed_slabs;
    neighbour->slabs += report->streamed_slabs;
    neighbour->bytes += report->bytes_streamed;
    neighbour->iterations++;
}

void neighbour_end(struct neighbour *neighbour) {
    if (neighbour->threaded) {
        __atomic_store_n(&neighbour->stop, true, __ATOMIC_RELEASE);
        pthread_join(neighbour->thread, NULL);
    }
    device_set_link(neighbour->rig->device, neighbour->full_bytes_per_s);
    free(neighbour->steps);
}
