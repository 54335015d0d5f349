/* How much of the link the plans use, and what a plan costs to find.
 *
 * Prints, over a grid of models and promises, bytes streamed / (link bandwidth * deadline) for `metronome`, with the
 * number of slabs that it cut a layer into, beside `select-n`; then the time of predictions and decisions. Times are
 * the model's own (plan_predict), which the simulator and the tests hold to the nanosecond. Threads: one. */
#include "base/clock.h"
#include "bench/tuner_time.h"
#include "offload/policy.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LAYER_NS 500000       /* compute time of a layer */
#define LINK_BYTES_PER_S 24e9 /* PCIe 4.0 x16, as measured */
#define MOST_CELLS 4096

static const double ratios[] = {0.5, 0.75, 1, 1.5, 2, 3.5, 5, 8, 10, 13.8, 20, 30, 45, 60};
static const double slacks[] = {0, 0.1, 0.25, 0.5, 1, 2, 4};
static const uint32_t depths[] = {24, 28, 32, 40, 48, 64, 80};

#define COUNT(array) (sizeof(array) / sizeof *(array))

struct tally {
    double use[MOST_CELLS]; /* of cells in which the model had more to give */
    uint32_t cells;
    int64_t freed_slabs, even_slabs; /* freed by nested plans, and by perfectly even ones */
    int64_t most_lost;               /* to nesting, in slabs, in one cell */
};

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void print_tally(const char *name, struct tally *tally) {
    uint32_t low = 0;
    qsort(tally->use, tally->cells, sizeof *tally->use, compare);
    while (low < tally->cells && tally->use[low] < 0.95) {
        low++;
    }
    printf("  %-10s least %.3f  median %.3f  below 0.95: %u of %u\n", name, tally->use[0], tally->use[tally->cells / 2],
           low, tally->cells);
}

static struct plan_choice choose(const char *name, const struct plan_load *load, uint64_t deadline_ns) {
    const struct policy *policy;
    struct policy_request request = {.load = load, .deadline_ns = deadline_ns, .limits = PLAN_UNLIMITED};
    struct plan_choice choice;
    struct status status = policy_find(name, &policy);
    if (!status_failed(&status)) {
        status = policy->place(&request, &choice);
    }
    if (status_failed(&status)) {
        fprintf(stderr, "%s: %s\n", name, status.message);
        exit(1);
    }
    return choice;
}

/* What perfectly even plans free with rings from `staging` down to half of it. */
static int64_t most_even(const struct plan_load *load, uint64_t deadline_ns, uint32_t staging) {
    struct plan_limits limits = PLAN_UNLIMITED;
    int64_t most = 0;
    for (limits.staging = staging; limits.staging > staging / 2; limits.staging--) {
        struct plan_choice choice = plan_choose(load, deadline_ns, &limits, PLAN_EVEN);
        int64_t freed = plan_freed_slabs(&choice.plan);
        most = freed > most ? freed : most;
    }
    return most;
}

static void print_grid(uint32_t layers, uint64_t copy_ns, double outside, struct tally *ours, struct tally *theirs) {
    printf("\nL = %u: bytes streamed / (bandwidth x deadline), metronome (slabs of a layer) | select-n\n"
           "(.: the model has no more to give; 0: streaming whole layers would free nothing beyond the ring)\n"
           "   r \\ slack",
           layers);
    for (size_t i = 0; i < COUNT(slacks); i++) {
        printf("%16g", slacks[i]);
    }
    printf("\n");
    for (size_t row = 0; row < COUNT(ratios); row++) {
        printf("%12g", ratios[row]);
        for (size_t column = 0; column < COUNT(slacks); column++) {
            struct plan_load whole = {.layers = layers,
                                      .slabs = 1,
                                      .slab_bytes = (uint64_t)(ratios[row] * LAYER_NS * LINK_BYTES_PER_S / NS_PER_S),
                                      .layer_ns = LAYER_NS,
                                      .after_ns = (uint64_t)(outside * LAYER_NS),
                                      .link_bytes_per_s = (uint64_t)LINK_BYTES_PER_S,
                                      .copy_ns = copy_ns};
            uint64_t deadline_ns =
                (uint64_t)((double)(layers * whole.layer_ns + whole.after_ns) * (1 + slacks[column]));
            uint32_t slabs = plan_slabs(&whole, deadline_ns, PLAN_MAX_SLABS);
            struct plan_load cut = plan_cut(&whole, slabs);
            struct plan_choice best = choose("metronome", &cut, deadline_ns);
            struct plan_choice other = choose("select-n", &whole, deadline_ns);
            double use = plan_link_use(&cut, best.prediction.bytes_streamed, deadline_ns);
            double other_use = plan_link_use(&whole, other.prediction.bytes_streamed, deadline_ns);
            if (best.why == PLAN_WHY_SLO) {
                printf("   %.3f(%2u)|%.3f", use, slabs, other_use);
                ours->use[ours->cells++] = use;
                theirs->use[theirs->cells++] = other_use;
                int64_t nested = plan_freed_slabs(&best.plan), even = most_even(&cut, deadline_ns, best.plan.staging);
                ours->freed_slabs += nested;
                ours->even_slabs += even;
                ours->most_lost = even - nested > ours->most_lost ? even - nested : ours->most_lost;
            } else {
                printf("   %.3f(%2u)|  .  ", use, slabs);
            }
        }
        printf("\n");
    }
}

/* The least of a few averages: what it costs when nobody else uses the core. */
static double least_us(double (*run)(void)) {
    double least = run();
    for (int i = 0; i < 9; i++) {
        double now = run();
        least = now < least ? now : least;
    }
    return least;
}

static double time_prediction(void) {
    struct plan plan;
    plan_nested(&tuner_time_load, 42, 4, &plan);
    uint64_t begin = clock_now_ns(), sum = 0;
    for (int i = 0; i < 2000; i++) {
        plan.prefetch_layers = 0;
        sum += plan_predict(&tuner_time_load, &plan).iteration_ns;
    }
    return sum > 0 ? (double)(clock_now_ns() - begin) / 2000 / NS_PER_US : 0;
}

static double time_choice(void) {
    const struct plan_limits limits = PLAN_UNLIMITED;
    uint64_t begin = clock_now_ns(), sum = 0;
    for (int i = 0; i < 20; i++) {
        sum += plan_choose(&tuner_time_load, TUNER_TIME_DEADLINE_NS, &limits, PLAN_NESTED).plan.streamed_slabs;
    }
    return sum > 0 ? (double)(clock_now_ns() - begin) / 20 / NS_PER_US : 0;
}

int main(int count, char **arguments) {
    double copy_us = count > 1 ? atof(arguments[1]) : 2, outside = count > 2 ? atof(arguments[2]) : 0;
    if (count > 3 || !(copy_us >= 0) || !(outside >= 0)) {
        fprintf(stderr,
                "Usage: plan-bench [FIXED COST OF A COPY IN US (2)] [TIME OUTSIDE THE LAYERS, IN LAYERS (0)]\n");
        return 2;
    }
    static struct tally ours, theirs;
    printf("a layer computes for %g ms; the link carries %g GB/s, each copy costs %g us beside; outside the layers an "
           "iteration takes as long as %g of them\n",
           (double)LAYER_NS / NS_PER_MS, LINK_BYTES_PER_S / 1e9, copy_us, outside);
    for (size_t i = 0; i < COUNT(depths); i++) {
        print_grid(depths[i], (uint64_t)(copy_us * NS_PER_US), outside, &ours, &theirs);
    }
    printf("\nover all cells where the model had more to give:\n");
    print_tally("metronome", &ours);
    print_tally("select-n", &theirs);
    printf("  nesting: perfectly even plans would free %.2f %% more, at most %lld slabs in a cell\n",
           100 * ((double)ours.even_slabs / (double)ours.freed_slabs - 1), (long long)ours.most_lost);
    printf("\nat L = %u, %u slabs of a layer:\n", tuner_time_load.layers, tuner_time_load.slabs);
    printf("  one prediction               %6.2f us\n", least_us(time_prediction));
    printf("  tuner, decide and observe    %6.2f us\n", least_us(tuner_time_us));
    printf("  choice, the ring searched    %6.2f us\n", least_us(time_choice));
    return 0;
}
