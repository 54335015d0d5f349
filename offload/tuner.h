/* The tuner: in every iteration, the plan with the most slabs in host memory whose predicted time meets the deadline.
 *
 * Owns: running estimates of what the record cannot know - how far this device, this link and the model of time itself
 * are from what was recorded - and the hysteresis. Touches no device and reads no clock: times are given to it.
 * Allocates nothing. Threads: one owner per tuner (the engine's).
 *
 * A lower plan is taken in the first iteration after the link slowed; a higher one waits for evidence, and for more of
 * it the sooner the last rise had to be taken back. Plans are nested, so a change moves no more slabs than it must,
 * and costs one refill of the ring at most; a rise goes in steps, none of which is late for it. */
#ifndef METRONOME_OFFLOAD_TUNER_H
#define METRONOME_OFFLOAD_TUNER_H

#include "offload/choose.h"

#include <stdbool.h>
#include <stdint.h>

#define TUNER_BUCKETS 128
#define TUNER_WINDOW 5     /* estimates are medians of so many measurements: two outliers do not move them */
#define TUNER_RESIDUALS 32 /* iterations from which the predictor's bias and its spread are taken */

/* The last TUNER_WINDOW measurements of one quantity, as ratios to what was expected. */
struct tuner_window {
    double ratio[TUNER_WINDOW];
    uint8_t count, next;
};

struct tuner {
    struct tuner_window layer[TUNER_BUCKETS];   /* measured / recorded layer time */
    struct tuner_window outside[TUNER_BUCKETS]; /* the same of before_ns + after_ns */
    struct tuner_window any_layer;              /* over all buckets, for those without a measurement */
    struct tuner_window link;                   /* measured / recorded time of a copy, fixed cost not counted */
    double link_better[TUNER_WINDOW];           /* measurements in a row that say the link has become faster */
    uint32_t link_better_count, link_silent;    /* iterations without a copy to measure */
    double residual[TUNER_RESIDUALS];           /* measured / predicted iteration time: in order of time ... */
    double residual_sorted[TUNER_RESIDUALS];    /* ... and of size */
    uint32_t residuals;                         /* seen in all */

    uint32_t slabs;       /* streamed by the plan in force, */
    uint32_t staging;     /* through a ring of so many slots; 0 before the first */
    uint32_t patience;    /* iterations that a rise waits */
    uint32_t rise_for;    /* for so many iterations a rise has been possible ... */
    uint32_t rise_to;     /* ... to at least so many slabs */
    uint32_t rise_tried;  /* so often in vain */
    uint32_t since_rise;  /* iterations since the last one */
    uint64_t rise_due_ns; /* the deadline that it was for */
    uint64_t lent_ns;     /* tuner_lend(), and whether it may stand in for the margin */
    bool steady;
    uint32_t bucket;           /* of the last decision, */
    struct plan_load recorded; /* its load as given, */
    uint64_t predicted_ns;     /* its prediction without bias, */
    bool unsettled;            /* and whether it changed the plan, so that its time says nothing of the steady state */
};

/* `slabs`: streamed by the plan that is in force at the start. */
void tuner_init(struct tuner *tuner, uint32_t slabs);

/* Loads of a kind, whose measured times are kept apart: by phase, and by powers of two of tokens and context. */
uint32_t tuner_bucket(bool prefill, uint32_t tokens, uint32_t context);

struct tuner_decision {
    struct plan plan;
    struct plan_prediction prediction; /* of the model of time, with the load as measurements have corrected it */
    uint64_t expected_ns;              /* the iteration time with the predictor's bias: to be held against deadlines */
    enum plan_why why;
    bool feasible; /* expected by the deadline, with the floor freed. If not, it is the best that can be done */
    bool changed;  /* another plan than in the iteration before */
};

/* What the tokens of the next iteration are ahead of their deadlines: an iteration that changes the plan may take so
 * much longer than its deadline. Where the load is steady it also stands in for a part of the margin; where prompts
 * come, the margin is what leaves them room. Holds for one decision. */
void tuner_lend(struct tuner *tuner, uint64_t slack_ns, bool steady);

/* The plan for the next iteration. `load` is what the record says. limits.staging is the ring that there will be, > 0;
 * limits.near is ignored. */
struct tuner_decision tuner_decide(struct tuner *tuner, uint32_t bucket, const struct plan_load *load,
                                   uint64_t deadline_ns, const struct plan_limits *limits);

/* What an iteration of another load would be, as measurements correct it, and what it takes at most but for one in a
 * thousand. */
struct plan_prediction tuner_predict(const struct tuner *tuner, uint32_t bucket, const struct plan_load *load,
                                     const struct plan *plan, uint64_t *at_most_ns);

/* What the iteration that was decided last came to. */
struct tuner_measurement {
    uint64_t iteration_ns; /* from its begin to the next one's, waiting for requests not counted */
    uint64_t layers_ns;    /* of them in layers, without stalls; 0: not measured */
    uint64_t stall_ns;     /* of them waiting for slabs */
    uint64_t link_bytes;   /* of whole slabs whose copies were timed; 0: none */
    uint64_t link_ns;      /* the sum of those times */
    uint64_t late_bytes;   /* of the last few among them, */
    uint64_t late_ns;      /* which say most of the link's speed now; 0: not told apart */
    bool link_shared;      /* KV crossed the link, too: the iteration's own time says nothing of the prediction */
};
void tuner_observe(struct tuner *tuner, const struct tuner_measurement *measurement);

/* What the tuner has learnt, for reports. */
struct tuner_estimates {
    double layer_ratio;        /* measured / recorded, of the bucket decided last */
    uint64_t link_bytes_per_s; /* as measured, of the load decided last */
    double bias;               /* measured / predicted iteration time, the median */
    double margin;             /* how far beyond it iterations must be expected to stray */
    uint32_t patience;
};
struct tuner_estimates tuner_report(const struct tuner *tuner);

#endif
