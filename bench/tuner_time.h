/* What a decision of the tuner costs, observation included. Threads: one; static state. */
#ifndef METRONOME_BENCH_TUNER_TIME_H
#define METRONOME_BENCH_TUNER_TIME_H

#include "offload/plan.h"

#include <stdint.h>

/* A large model: 80 layers of 16 slabs. */
extern const struct plan_load tuner_time_load;
#define TUNER_TIME_DEADLINE_NS 100000000

/* Microseconds for each iteration, the mean of many, with times that waver, so that nothing is ever quite as it was. */
double tuner_time_us(void);

#endif
