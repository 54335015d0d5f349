/* How long prompts or answers are: a number of tokens, or what it is drawn from.
 *
 *   128              each of 128
 *   64-256           uniform, both ends included
 *   normal:128:32    mean and standard deviation
 *   lognormal:128:1  median, and the standard deviation of the logarithm
 *
 * Owns: nothing; plain values. Threads: any. */
#ifndef METRONOME_BENCH_LOAD_LENGTHS_H
#define METRONOME_BENCH_LOAD_LENGTHS_H

#include "base/random.h"
#include "base/status.h"

#define LENGTHS_MOST (1U << 20) /* what a drawn length is cut to, at 1 from below */

enum lengths_kind { LENGTHS_UNIFORM, LENGTHS_NORMAL, LENGTHS_LOGNORMAL };

struct lengths {
    enum lengths_kind kind;
    double a, b; /* least and most; mean and deviation; median and deviation of the logarithm */
};

/* `name` is the flag's, for the message. */
struct status lengths_parse(const char *name, const char *text, struct lengths *out);
uint32_t lengths_draw(const struct lengths *lengths, struct random_state *random);

#endif
