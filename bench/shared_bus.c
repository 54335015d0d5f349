#include "bench/shared_bus.h"

#include "base/check.h"
#include "kernels/sim/bus.h"

#define SETTLE 16 /* iterations, before any counts */

/* An engine at a moment. Slabs, and layers started, are counted from the begin of the run. */
struct runner {
    struct shared_engine *engine;
    struct bus_copy copy;
    bool copying, computing;
    uint32_t step; /* of the iteration: 0 what comes before the layers, then each of them, then what comes after */
    uint64_t end_ns, iteration_begin_ns, iterations;
    uint64_t arrived, released, begun, layers_started;
    uint64_t wanted;         /* slabs that the layers up to now take */
    uint32_t copy_layer;     /* whose slab is copied next, */
    uint32_t copy_left;      /* and how many of them are left */
    uint64_t copy_iteration; /* that this layer is of */
    double sum_ns;
};

static void next_copy_layer(struct runner *runner) {
    const struct plan *plan = &runner->engine->plan;
    do {
        runner->copy_layer++;
        if (runner->copy_layer == plan->layers) {
            runner->copy_layer = 0;
            runner->copy_iteration++;
        }
    } while (plan->streamed[runner->copy_layer] == 0);
    runner->copy_left = plan->streamed[runner->copy_layer];
}

/* Puts the next slab on the bus, if its slot is free and it is not too early for it. */
static void begin_copy(struct runner *runner, struct bus *bus) {
    const struct plan *plan = &runner->engine->plan;
    if (runner->copying || plan->streamed_slabs == 0 || runner->begun >= runner->released + plan->staging) {
        return;
    }
    uint64_t layer = runner->copy_iteration * plan->layers + runner->copy_layer;
    if (plan->prefetch_layers > 0 && layer >= runner->layers_started + plan->prefetch_layers) {
        return;
    }
    const struct plan_load *load = &runner->engine->load;
    bus_begin(bus, &runner->copy, bus->time_ns + load->copy_ns, load->slab_bytes);
    runner->copying = true;
    runner->begun++;
    if (--runner->copy_left == 0) {
        next_copy_layer(runner);
    }
}

/* Begins the step at hand, unless it is a layer that has not all come. */
static void begin_step(struct runner *runner, uint64_t now) {
    const struct plan *plan = &runner->engine->plan;
    const struct plan_load *load = &runner->engine->load;
    if (runner->computing) {
        return;
    }
    uint64_t takes_ns = runner->step == 0 ? load->before_ns : load->after_ns;
    if (runner->step > 0 && runner->step <= plan->layers) {
        uint64_t wanted = runner->wanted + plan->streamed[runner->step - 1];
        if (runner->arrived < wanted) {
            return;
        }
        runner->wanted = wanted;
        runner->layers_started++;
        takes_ns = load->layer_ns;
    }
    runner->computing = true;
    runner->end_ns = now + takes_ns;
}

static void end_iteration(struct runner *runner, uint64_t now) {
    struct shared_engine *engine = runner->engine;
    uint64_t took_ns = now - runner->iteration_begin_ns;
    runner->iteration_begin_ns = now;
    if (++runner->iterations > SETTLE) {
        runner->sum_ns += (double)took_ns;
        engine->iterations++;
        engine->late += took_ns > engine->deadline_ns;
        engine->longest_ns = took_ns > engine->longest_ns ? took_ns : engine->longest_ns;
    }
}

static void end_step(struct runner *runner, uint64_t now) {
    const struct plan *plan = &runner->engine->plan;
    runner->computing = false;
    if (runner->step > 0 && runner->step <= plan->layers) {
        runner->released += plan->streamed[runner->step - 1];
    }
    if (runner->step++ > plan->layers) {
        runner->step = 0;
        end_iteration(runner, now);
    }
}

static void begin(struct runner *runner, struct shared_engine *engine, uint32_t order) {
    engine->iterations = engine->late = engine->longest_ns = 0;
    *runner = (struct runner){.engine = engine, .copy.order = order};
    if (engine->plan.streamed_slabs > 0) {
        runner->copy_left = engine->plan.streamed[0];
        if (runner->copy_left == 0) {
            next_copy_layer(runner);
        }
    }
}

static struct runner *runner_of(struct runner *runners, uint32_t count, const struct bus_copy *copy) {
    for (uint32_t i = 0; i < count; i++) {
        if (&runners[i].copy == copy) {
            return &runners[i];
        }
    }
    CHECK(false);
    return NULL;
}

/* Moves on to the next thing that ends: a copy, or steps of the compute. */
static void advance(struct runner *runners, uint32_t count, struct bus *bus) {
    uint64_t limit_ns = UINT64_MAX;
    for (uint32_t i = 0; i < count; i++) {
        begin_step(&runners[i], bus->time_ns);
        begin_copy(&runners[i], bus);
        if (runners[i].computing && runners[i].end_ns < limit_ns) {
            limit_ns = runners[i].end_ns;
        }
    }
    struct bus_copy *copy = bus_next(bus, limit_ns);
    if (copy) {
        struct runner *runner = runner_of(runners, count, copy);
        runner->copying = false;
        runner->arrived++;
        return;
    }
    CHECK(limit_ns != UINT64_MAX);                          /* else all wait for copies, and there are none */
    bus_set_pace(bus, limit_ns, bus->bytes_per_s, NULL, 0); /* until then all go on as they do */
    for (uint32_t i = 0; i < count; i++) {
        if (runners[i].computing && runners[i].end_ns == limit_ns) {
            end_step(&runners[i], limit_ns);
        }
    }
}

void shared_bus_run(struct shared_engine *engines, uint32_t count, double bus_bytes_per_s, uint32_t iterations) {
    struct runner runners[SHARED_BUS_MOST];
    struct bus bus = {.bytes_per_s = bus_bytes_per_s};
    CHECK(count > 0 && count <= SHARED_BUS_MOST && iterations > 0);
    for (uint32_t i = 0; i < count; i++) {
        begin(&runners[i], &engines[i], i);
    }
    for (bool done = false; !done;) {
        advance(runners, count, &bus);
        done = true;
        for (uint32_t i = 0; i < count; i++) {
            done = done && engines[i].iterations >= iterations;
        }
    }
    for (uint32_t i = 0; i < count; i++) {
        engines[i].mean_ns = runners[i].sum_ns / (double)engines[i].iterations;
        engines[i].streamed = engines[i].plan.streamed_slabs * engines[i].load.slab_bytes;
    }
}
