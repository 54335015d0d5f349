/* The staging ring: how many slots it has. Each is room that KV cannot have; with too few the link stands still while
 * layers compute, or the compute stream waits for the link. Threads: as offload/offload.h says. */
#include "offload/offload_internal.h"

#include "offload/choose.h"

#include <math.h>

/* Iterations with room to spare after which the ring is as long as it was, and for which a layer that computed long is
 * remembered at the least. */
#define WINDOW 64

/* The ring for a plan that moves in every iteration. It takes room from the KV cache whatever is streamed, so it is no
 * longer than it can be of use: one more than two of the most slabs that a layer will stream, by what the budget forces
 * out and by what the link carries in the time between tokens; and two whole layers at the most, one that computes and
 * one that comes meanwhile. Where that is not known, any plan can live with it. */
uint32_t offload_ring_of_any_plan(const struct offload *offload, uint32_t forced) {
    const struct offload_config *config = &offload->config;
    uint32_t most = 2 * config->slabs;
    uint64_t link = config->link_bytes_per_s > 0 ? config->link_bytes_per_s
                                                 : (uint64_t)device_info(offload->device).link_bytes_per_s;
    if (config->tpot_ns == 0 || link == 0) {
        return most;
    }
    double carried = (double)link * (double)config->tpot_ns / 1e9 / (double)config->slab_bytes;
    double slabs = carried > forced ? carried : forced;
    double fullest = ceil(slabs / config->layers);
    return 2 * fullest + 1 < most ? 2 * (uint32_t)fullest + 1 : most;
}

/* The ring while room is short: as long as gives the most room for the time of an iteration, where a layer computes for
 * as long as `filled` slabs are copied. Where all weights fit, iterations stream what compute hides; where they do not,
 * as much as the deadline allows, and with a ring that has no place for what comes while a layer computes the link
 * stands still meanwhile. */
static uint32_t best_when_crowded(const struct offload *offload, uint32_t filled, uint64_t deadline_ns) {
    struct plan_load load = offload_load_of(offload, 1, 1);
    const bool fits = offload_weights_fit(offload);
    const uint32_t total = offload_total_slabs(&offload->config), most = offload->ring.usual;
    const uint64_t hidden = plan_compute_ns(&load) / plan_slab_ns(&load), filled_ns = filled * plan_slab_ns(&load);
    const double room = (double)arena_slots_beside(&offload->arena, 0) - total;
    if (!fits && filled_ns > load.layer_ns) {
        load.layer_ns = filled_ns;
    }
    uint32_t best = most;
    double best_rate = 0;
    for (uint32_t staging = most; staging > 1; staging--) {
        const struct plan_limits limits = {.staging = staging, .max_slabs = total, .bus_slabs = UINT32_MAX};
        struct plan_choice choice = {.feasible = staging * load.layers >= hidden};
        if (!fits) {
            choice = plan_choose(&load, deadline_ns, &limits, PLAN_NESTED);
        } else if (choice.feasible) {
            plan_nested(&load, hidden < total ? (uint32_t)hidden : total, staging, &choice.plan);
            choice.prediction = plan_predict(&load, &choice.plan);
        }
        const double gained = room + (double)choice.plan.streamed_slabs - staging;
        if (choice.feasible && gained > best_rate * (double)choice.prediction.iteration_ns) {
            best_rate = gained / (double)choice.prediction.iteration_ns;
            best = staging;
        }
    }
    return best;
}

void offload_choose_rings(struct offload *offload, uint64_t deadline_ns) {
    struct ring *ring = &offload->ring;
    ring->usual = offload->plan.staging;
    for (uint32_t filled = 0; filled <= offload->config.slabs; filled++) {
        const bool any = offload->tuned && offload->recorded && offload->kv_stream == 0;
        ring->crowded[filled] = (uint16_t)(any ? best_when_crowded(offload, filled, deadline_ns) : ring->usual);
    }
}

void offload_watch_layers(struct offload *offload, uint64_t layer_ns) {
    struct ring *ring = &offload->ring;
    ring->layer_ns = layer_ns > ring->layer_ns ? layer_ns : ring->layer_ns;
    if (++ring->watched == WINDOW) {
        ring->layer_before_ns = ring->layer_ns;
        ring->layer_ns = ring->watched = 0;
    }
}

/* The ring where room is short, by the longest that a layer computed of late, or will now. */
static uint32_t ring_when_crowded(const struct offload *offload, const struct plan_load *load) {
    const struct ring *ring = &offload->ring;
    uint64_t longest = ring->layer_ns > ring->layer_before_ns ? ring->layer_ns : ring->layer_before_ns;
    longest = longest > load->layer_ns ? longest : load->layer_ns;
    const uint64_t filled = (longest + plan_slab_ns(load) - 1) / plan_slab_ns(load);
    return ring->crowded[filled < load->slabs ? filled : load->slabs];
}

/* When there has been room for a while the ring is as long as it was, and that without a slab that has to leave for it.
 * What is in the ring is lost with a change, so that tokens must be ahead by as much. */
uint32_t offload_ring(struct offload *offload, const struct plan_load *load, const struct offload_demand *demand) {
    struct ring *ring = &offload->ring;
    const uint32_t now = offload->plan.staging;
    const uint32_t wanted = demand->crowded ? ring_when_crowded(offload, load) : ring->usual;
    ring->uncrowded = demand->crowded ? 0 : ring->uncrowded + 1;
    if (wanted == now || (!demand->crowded && ring->uncrowded < WINDOW)) {
        return now;
    }
    const bool late = demand->deadline_ns != UINT64_MAX && demand->slack_ns < now * plan_slab_ns(load);
    if (late && offload->plan.streamed_slabs > 0) {
        return now;
    }
    const uint32_t least = offload_slabs_that_leave(&offload->config, offload_slots_left(offload), wanted);
    const uint32_t most = demand->crowded || wanted < now ? load->layers * wanted : offload->plan.streamed_slabs;
    return least <= most ? wanted : now;
}
