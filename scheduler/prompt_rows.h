/* How many rows of a prompt an iteration has beside tokens that somebody waits for: in the engine (deadlines.c) and
 * where it is played ahead (foresee.c). Pure. Threads: any. */
#ifndef METRONOME_SCHEDULER_PROMPT_ROWS_H
#define METRONOME_SCHEDULER_PROMPT_ROWS_H

#include <stdbool.h>
#include <stdint.h>

/* So many at the least, and in steps of as many; and of the time that is promised to the tokens one part in so many is
 * left. */
#define LEAST_PROMPT_ROWS 16
#define PROMPT_RESERVE 10

/* The most rows up to `most` (> LEAST_PROMPT_ROWS) with which `in_time` says yes, LEAST_PROMPT_ROWS whatever it says;
 * it says no to more rows than some number. In steps of a few rows, for an iteration is not worth more of our own time;
 * from the last answer on, by strides that double, for the next one is near it. `*steps`: the last answer, in steps,
 * which becomes this one. */
uint32_t prompt_rows_most(uint32_t most, uint32_t *steps, bool (*in_time)(const void *argument, uint32_t rows),
                          const void *argument);

#endif
