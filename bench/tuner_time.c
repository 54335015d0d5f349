#include "bench/tuner_time.h"

#include "base/clock.h"
#include "offload/tuner.h"

const struct plan_load tuner_time_load = {.layers = 80,
                                          .slabs = 16,
                                          .slab_bytes = 53 << 20,
                                          .layer_ns = 900000,
                                          .after_ns = 700000,
                                          .link_bytes_per_s = UINT64_C(24000000000),
                                          .copy_ns = 2000};

double tuner_time_us(void) {
    enum { ITERATIONS = 2000 };
    const struct plan_load *load = &tuner_time_load;
    static struct tuner tuner;
    struct plan_limits limits = PLAN_UNLIMITED;
    limits.staging = 4;
    tuner_init(&tuner, 40);
    uint64_t begin = clock_now_ns();
    for (uint64_t i = 0; i < ITERATIONS; i++) {
        struct tuner_decision decision =
            tuner_decide(&tuner, tuner_bucket(false, 16, 1024), load, TUNER_TIME_DEADLINE_NS, &limits);
        uint64_t wavering = 995 + i * 7919 % 11;
        struct tuner_measurement measurement = {
            .iteration_ns = decision.prediction.iteration_ns * wavering / 1000,
            .layers_ns = load->layers * load->layer_ns * wavering / 1000,
            .stall_ns = decision.prediction.stall_ns,
            .link_bytes = 40 * load->slab_bytes,
            .link_ns = 40 * plan_slab_ns(load) * wavering / 1000,
        };
        tuner_observe(&tuner, &measurement);
    }
    return (double)(clock_now_ns() - begin) / ITERATIONS / NS_PER_US;
}
