#include "offload/plan.h"

#include "base/check.h"
#include "base/clock.h"

#include <string.h>

#define MAX_TIME_NS (UINT64_C(1) << 40)
#define MAX_BYTES (UINT64_C(1) << 40)
#define MAX_ITERATIONS PLAN_TIMELINE_ITERATIONS

struct status plan_load_check(const struct plan_load *load) {
    const struct {
        const char *name;
        uint64_t value, least, most;
    } bounds[] = {
        {"layers", load->layers, 1, PLAN_MAX_LAYERS},
        {"slabs", load->slabs, 1, PLAN_MAX_SLABS},
        {"slab_bytes", load->slab_bytes, 1, MAX_BYTES},
        {"layer_ns", load->layer_ns, 0, MAX_TIME_NS},
        {"before_ns", load->before_ns, 0, MAX_TIME_NS},
        {"after_ns", load->after_ns, 0, MAX_TIME_NS},
        {"link_bytes_per_s", load->link_bytes_per_s, 1, UINT64_MAX},
        {"copy_ns", load->copy_ns, 0, MAX_TIME_NS},
        {"the time of one copy in ns", plan_slab_ns(load), 0, MAX_TIME_NS},
        {"kv_copies", load->kv_copies, 0, PLAN_MAX_KV},
    };
    for (size_t i = 0; i < sizeof bounds / sizeof *bounds; i++) {
        if (bounds[i].value < bounds[i].least || bounds[i].value > bounds[i].most) {
            return status_error(STATUS_INVALID, "%s is %llu; it must be from %llu to %llu", bounds[i].name,
                                (unsigned long long)bounds[i].value, (unsigned long long)bounds[i].least,
                                (unsigned long long)bounds[i].most);
        }
    }
    return STATUS_SUCCESS;
}

uint64_t plan_copy_ns(const struct plan_load *load, uint64_t bytes) {
    if (load->link_bytes_per_s == 0) {
        return UINT64_MAX;
    }
    unsigned __int128 scaled = (unsigned __int128)bytes * NS_PER_S;
    unsigned __int128 ns = load->copy_ns + (scaled + load->link_bytes_per_s - 1) / load->link_bytes_per_s;
    return ns > UINT64_MAX ? UINT64_MAX : (uint64_t)ns;
}

double plan_interval(const struct plan_load *load, const struct plan *plan) {
    return plan->streamed_slabs > 0 ? (double)load->layers * load->slabs / plan->streamed_slabs : 0;
}

double plan_link_use(const struct plan_load *load, uint64_t bytes_streamed, uint64_t deadline_ns) {
    return (double)bytes_streamed * (double)NS_PER_S / ((double)load->link_bytes_per_s * (double)deadline_ns);
}

/* ---- placements ---- */

static void begin_plan(const struct plan_load *load, uint32_t staging, struct plan *plan) {
    CHECK(load->layers > 0 && load->layers <= PLAN_MAX_LAYERS && load->slabs > 0 && load->slabs <= PLAN_MAX_SLABS);
    *plan = (struct plan){.layers = load->layers, .staging = staging};
}

void plan_none(const struct plan_load *load, struct plan *plan) {
    begin_plan(load, 0, plan);
}

void plan_groups(const struct plan_load *load, uint32_t group, uint32_t streamed, uint32_t slabs, uint32_t staging,
                 struct plan *plan) {
    CHECK(group > 0 && streamed <= group && slabs <= load->slabs);
    begin_plan(load, staging, plan);
    for (uint32_t layer = 0; layer < load->layers; layer++) {
        if (layer % group >= group - streamed) {
            plan->streamed[layer] = (uint8_t)slabs;
            plan->streamed_slabs += slabs;
        }
    }
}

void plan_even(const struct plan_load *load, uint32_t streamed_slabs, uint32_t staging, struct plan *plan) {
    CHECK(streamed_slabs <= load->layers * load->slabs);
    begin_plan(load, staging, plan);
    plan->streamed_slabs = streamed_slabs;
    for (uint32_t layer = 0, before = 0; layer < load->layers; layer++) {
        uint32_t through = (layer + 1) * streamed_slabs / load->layers;
        plan->streamed[layer] = (uint8_t)(through - before);
        before = through;
    }
}

void plan_nested(const struct plan_load *load, uint32_t streamed_slabs, uint32_t staging, struct plan *plan) {
    CHECK(streamed_slabs <= load->layers * load->slabs);
    begin_plan(load, staging, plan);
    plan->streamed_slabs = streamed_slabs;
    memset(plan->streamed, (int)(streamed_slabs / load->layers), load->layers);
    uint32_t points = 1, extra = streamed_slabs % load->layers;
    while (points < load->layers) {
        points *= 2;
    }
    /* `point` counts up with its bits reversed: 0, 1/2, 1/4, 3/4 ... of `points`. Of the one or two points that fall
     * into a layer's share of the line, the first counts. */
    for (uint32_t point = 0; extra > 0;) {
        uint32_t layer = point * load->layers / points;
        if (point == (layer * points + load->layers - 1) / load->layers) {
            plan->streamed[layer]++;
            extra--;
        }
        uint32_t bit = points / 2;
        for (; point & bit; bit /= 2) {
            point ^= bit;
        }
        point ^= bit;
    }
}

/* ---- the model of time ---- */

/* Where both streams stand at the begin of an iteration. The ring is a queue of slots in the order of their reuse,
 * run-length coded: the slots that one layer used become free together when it ends. */
struct pipe {
    uint64_t now_ns;  /* compute: everything before the iteration is done */
    uint64_t link_ns; /* link: the last copy is out */
    uint32_t head, runs;
    struct {
        uint64_t free_ns;
        uint32_t slots;
    } run[PLAN_MAX_STAGING];            /* from `head` on, circular */
    uint64_t start_ns[PLAN_MAX_LAYERS]; /* of each layer when it last ran */
};

static void pipe_clear(struct pipe *pipe, const struct plan *plan) {
    pipe->now_ns = 0;
    pipe->link_ns = 0;
    pipe->head = 0;
    pipe->runs = plan->staging > 0;
    pipe->run[0].free_ns = 0;
    pipe->run[0].slots = plan->staging;
    memset(pipe->start_ns, 0, plan->layers * sizeof *pipe->start_ns);
}

/* Copies as many slabs as their slots come free, none before link_ns. `in` and `out`, unless NULL, take the times
 * of each from `begin_ns`. */
static void pipe_copy(struct pipe *pipe, uint32_t slabs, uint64_t slab_ns, uint64_t begin_ns, int64_t *in,
                      int64_t *out) {
    for (uint32_t done = 0; done < slabs;) {
        uint32_t head = pipe->head % PLAN_MAX_STAGING;
        uint32_t left = slabs - done;
        uint32_t taken = pipe->run[head].slots < left ? pipe->run[head].slots : left;
        if (pipe->link_ns < pipe->run[head].free_ns) {
            pipe->link_ns = pipe->run[head].free_ns;
        }
        for (uint32_t i = 0; in && i < taken; i++) {
            in[done + i] = (int64_t)(pipe->link_ns + i * slab_ns - begin_ns);
        }
        for (uint32_t i = 0; out && i < taken; i++) {
            out[done + i] = (int64_t)(pipe->link_ns + (i + 1) * slab_ns - begin_ns);
        }
        pipe->link_ns += taken * slab_ns;
        done += taken;
        pipe->run[head].slots -= taken;
        if (pipe->run[head].slots == 0) {
            pipe->head++;
            pipe->runs--;
        }
    }
}

/* What copies take. */
struct copy_times {
    uint64_t slab_ns, kv_ns[PLAN_MAX_KV], layer_kv_ns;
};

static struct copy_times copy_times(const struct plan_load *load) {
    struct copy_times times = {.slab_ns = plan_slab_ns(load)};
    for (uint32_t i = 0; i < load->kv_copies; i++) {
        times.kv_ns[i] = plan_copy_ns(load, load->kv_bytes[i]);
        times.layer_kv_ns += times.kv_ns[i];
    }
    return times;
}

/* One iteration of the recurrence. */
static void pipe_iterate(struct pipe *pipe, const struct plan_load *load, const struct plan *plan,
                         const struct copy_times *times, const struct plan_timeline *timeline) {
    uint64_t begin = pipe->now_ns, now = begin + load->before_ns;
    uint32_t gate = plan->prefetch_layers ? plan->layers - plan->prefetch_layers : 0, copied = 0;
    for (uint32_t layer = 0; layer < plan->layers; layer++) {
        uint32_t slabs = plan->streamed[layer], copies = slabs + load->kv_copies;
        if (copies > 0) {
            if (plan->prefetch_layers && pipe->link_ns < pipe->start_ns[gate]) {
                pipe->link_ns = pipe->start_ns[gate];
            }
            int64_t *in = timeline && timeline->copy_in ? timeline->copy_in + copied : NULL;
            int64_t *out = timeline && timeline->copy_out ? timeline->copy_out + copied : NULL;
            pipe_copy(pipe, slabs, times->slab_ns, begin, in, out);
            for (uint32_t i = 0; i < load->kv_copies; i++) {
                pipe_copy(pipe, 1, times->kv_ns[i], begin, NULL, NULL);
            }
            copied += slabs;
            now = now < pipe->link_ns ? pipe->link_ns : now;
        }
        pipe->start_ns[layer] = now;
        now += load->layer_ns;
        if (copies > 0) {
            uint32_t tail = (pipe->head + pipe->runs++) % PLAN_MAX_STAGING;
            pipe->run[tail].free_ns = now;
            pipe->run[tail].slots = copies;
        }
        if (timeline && timeline->layer_start) {
            timeline->layer_start[layer] = (int64_t)(pipe->start_ns[layer] - begin);
        }
        if (timeline && timeline->layer_end) {
            timeline->layer_end[layer] = (int64_t)(now - begin);
        }
        gate = gate + 1 == plan->layers ? 0 : gate + 1;
    }
    pipe->now_ns = now + load->after_ns;
}

/* A copy whose ring begins at 0; the parts of it that are not in use stay behind. */
static void pipe_save(const struct pipe *pipe, const struct plan *plan, struct pipe *saved) {
    saved->now_ns = pipe->now_ns;
    saved->link_ns = pipe->link_ns;
    saved->head = 0;
    saved->runs = pipe->runs;
    for (uint32_t i = 0; i < pipe->runs; i++) {
        saved->run[i] = pipe->run[(pipe->head + i) % PLAN_MAX_STAGING];
    }
    if (plan->prefetch_layers) {
        memcpy(saved->start_ns, pipe->start_ns, plan->layers * sizeof *saved->start_ns);
    }
}

/* By how much the state went on from `saved` to `pipe`: the least and the most of its parts. False if they cannot be
 * compared yet, because the ring still has slots that were never used. */
static bool pipe_advance(const struct pipe *saved, const struct pipe *pipe, const struct plan *plan, uint64_t *least,
                         uint64_t *most) {
    uint64_t now = pipe->now_ns - saved->now_ns, link = pipe->link_ns - saved->link_ns;
    *least = now < link ? now : link;
    *most = now < link ? link : now;
    if (saved->runs != pipe->runs) {
        return false;
    }
    for (uint32_t i = 0; i < pipe->runs; i++) {
        uint32_t at = (pipe->head + i) % PLAN_MAX_STAGING;
        if (saved->run[i].slots != pipe->run[at].slots) {
            return false;
        }
        uint64_t step = pipe->run[at].free_ns - saved->run[i].free_ns;
        *least = step < *least ? step : *least;
        *most = step > *most ? step : *most;
    }
    for (uint32_t layer = plan->layers - plan->prefetch_layers; layer < plan->layers; layer++) {
        uint64_t step = pipe->start_ns[layer] - saved->start_ns[layer];
        *least = step < *least ? step : *least;
        *most = step > *most ? step : *most;
    }
    return true;
}

static void check_plan(const struct plan_load *load, const struct plan *plan) {
    CHECK(load->layers > 0 && load->layers <= PLAN_MAX_LAYERS && load->slabs > 0 && load->slabs <= PLAN_MAX_SLABS);
    CHECK(plan->layers == load->layers && plan->prefetch_layers <= plan->layers);
    CHECK(plan->staging <= PLAN_MAX_STAGING);
    uint32_t sum = 0;
    for (uint32_t layer = 0; layer < plan->layers; layer++) {
        CHECK(plan->streamed[layer] <= load->slabs && plan->streamed[layer] + load->kv_copies <= plan->staging);
        sum += plan->streamed[layer];
    }
    CHECK(sum == plan->streamed_slabs);
}

/* Iterates until the iteration time is certain.
 *
 * The recurrence is linear in the (max, +) algebra: it maps the state (now, link, the ring's times) at the begin of an
 * iteration to the next one monotonically, and a state that is later by t to one that is later by t. So if no part of
 * the state went on by more than `most` in one iteration, none ever will again, nor by less than `least`: the steady
 * iteration time lies between them. It lies no lower than compute_ns and link_busy_ns, either. Once `most` meets one
 * of these bounds it is the answer, to the nanosecond. The time is the same in every steady iteration, however the
 * copies fall on the slots: both streams keep their order, so that a cycle of waits through two iterations crosses
 * itself and can be parted into two cycles through one.
 *
 * That takes about staging / streamed_slabs + 2 iterations and was never seen to take more than 6 beyond; should it
 * ever take MAX_ITERATIONS, the answer is still an upper bound. */
static struct plan_prediction settle(struct pipe *pipe, const struct plan_load *load, const struct plan *plan,
                                     const struct copy_times *times, bool whole_state) {
    struct plan_prediction prediction = {
        .compute_ns = plan_compute_ns(load),
        .link_busy_ns = plan->streamed_slabs * times->slab_ns + load->layers * times->layer_kv_ns,
        .bytes_streamed = plan->streamed_slabs * load->slab_bytes + load->layers * plan_kv_bytes(load),
        .copies = plan->streamed_slabs + load->layers * load->kv_copies,
    };
    uint64_t bound = prediction.compute_ns > prediction.link_busy_ns ? prediction.compute_ns : prediction.link_busy_ns;
    uint64_t least = 0, most = 0;
    whole_state = whole_state && prediction.copies > 0; /* else the link stands still */
    struct pipe saved;
    pipe_clear(pipe, plan);
    for (bool settled = false; !settled && prediction.iterations < MAX_ITERATIONS; prediction.iterations++) {
        pipe_save(pipe, plan, &saved);
        pipe_iterate(pipe, load, plan, times, NULL);
        settled = pipe_advance(&saved, pipe, plan, &least, &most) && (most == least || (most == bound && !whole_state));
    }
    prediction.iteration_ns = most;
    prediction.stall_ns = most - prediction.compute_ns;
    return prediction;
}

struct plan_prediction plan_predict(const struct plan_load *load, const struct plan *plan) {
    check_plan(load, plan);
    struct pipe pipe;
    const struct copy_times times = copy_times(load);
    return settle(&pipe, load, plan, &times, false);
}

struct plan_prediction plan_predict_timeline(const struct plan_load *load, const struct plan *plan,
                                             const struct plan_timeline *timeline) {
    check_plan(load, plan);
    struct pipe pipe;
    const struct copy_times times = copy_times(load);
    struct plan_prediction prediction = settle(&pipe, load, plan, &times, true);
    pipe_iterate(&pipe, load, plan, &times, timeline);
    return prediction;
}
