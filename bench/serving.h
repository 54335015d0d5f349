/* A whole engine under a load of our making, once for each setting that is tried: what the benchmarks of policies
 * share.
 *
 * Owns: device, model and engine of one run. On `sim` a run is a function of its inputs. Threads: one. */
#ifndef METRONOME_BENCH_SERVING_H
#define METRONOME_BENCH_SERVING_H

#include "models/description.h"
#include "scheduler/replay.h"

/* Where and what: the same for every policy. */
struct serving_case {
    const char *hardware;                      /* sim: the path of a description; NULL: a device that is here */
    const char *device;                        /* which; NULL: cpu */
    struct model_description described;        /* on sim */
    const char *model;                         /* elsewhere: a GGUF file */
    uint64_t device_memory;                    /* bytes */
    double link_bytes_per_s;                   /* 0: the description's. On cuda what the link was seen to give */
    uint32_t threads;                          /* on cpu; 0: one for each core */
    uint64_t ttft_ns, tpot_ns;                 /* promised; 0: not */
    double rate;                               /* requests a second, at random; 0: all at once */
    uint32_t context;                          /* longest prompt and answer, tokens */
    uint32_t prompt_tokens, output_tokens;     /* means */
    double prompt_deviation, output_deviation; /* of their logarithms; 0: lengths are uniform */
    uint32_t requests;                         /* that come at once */
    bool warm_up;                              /* as many others before them, which do not count */
    uint64_t seed;
    const struct record *record; /* NULL: measured by each run */
    uint64_t *tokens_hash;       /* (requests) what each request's tokens were goes there; NULL: nowhere */
};

/* What a user sets by hand. */
struct serving_setting {
    const char *policy;
    struct policy_options options;
    uint32_t places; /* sequences that run together at most */
    uint32_t slabs;  /* of a layer; 0: chosen */
};

struct serving_result {
    struct replay_report report;
    double kept_tokens_per_s; /* of requests that kept their promise, as long as others waited */
    double saved_bytes;       /* of device memory: weights in host memory less the ring, the mean */
    struct record record;     /* what the engine went by; zero if it needed none */
};

/* Bytes that the layers' weights take on the device, and what everything else does, with KV for one context. */
struct status serving_sizes(const struct serving_case *serving, uint32_t places, double *weights, double *rest);

/* All requests at once, until they have ended. A setting that the engine refuses is the status. */
struct status serving_run(const struct serving_case *serving, const struct serving_setting *setting,
                          struct serving_result *out);

/* Steady decoding of `setting->places` sequences, with places to spare: how much is streamed when nobody waits. */
struct serving_stream {
    double bytes;              /* an iteration, counted at the copy calls */
    double saved_bytes;        /* of device memory */
    double iteration_ns;       /* the mean */
    uint32_t iterations, late; /* late: their tokens came after they were due */
    double copies;             /* host to device, in all of them; inputs included */
    double device_allocated;   /* bytes of device memory allocated meanwhile */
};
struct status serving_stream(const struct serving_case *serving, const struct serving_setting *setting,
                             struct serving_stream *out);

#endif
