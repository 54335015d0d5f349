/* Sampling: what op_sample() takes and gives, and the one way to read a log-probability from it.
 *
 * The order is vLLM's: bias and bans, penalties, temperature, min_p, top_k, top_p, one draw. Log-probabilities are
 * those of the logits as they came. Nothing is remembered on the device: a draw is a function of the logits and of its
 * row here, so that a sequence that is computed again continues unchanged.
 *
 * Probabilities are whole numbers: a token's weight is exp((logit - largest) / temperature) in units of 2^-34, rounded
 * to one (kernels/sample_math.h), so that sums are exact and the same in every order, on every device. Tokens rank by
 * their weight, equal ones by the lower id. Threads: any; no state. */
#ifndef METRONOME_KERNELS_SAMPLE_H
#define METRONOME_KERNELS_SAMPLE_H

#include <stdbool.h>
#include <stdint.h>

#define SAMPLE_MOST_TOKENS (1u << 19) /* of a vocabulary: the sum of so many weights is a double, exactly */
#define SAMPLE_MOST_TOP 20            /* tokens of a score */

/* A token whose logit is changed before the draw. In this order: + bias, the penalties. */
struct sample_change {
    uint32_t token;
    float bias;     /* -INFINITY bans the token */
    uint32_t count; /* times that it was generated, and SAMPLE_SEEN */
};
#define SAMPLE_SEEN 0x80000000u /* it is in the prompt, or was generated: the repetition penalty is for it */

#define SAMPLE_DRAW UINT32_MAX
#define SAMPLE_NO_SCORE UINT32_MAX
#define SAMPLE_ALL_MASS UINT64_MAX

/* What becomes of one row of logits. */
struct sample_row {
    uint64_t random;                     /* 64 random bits, this draw's own */
    uint64_t top_p;                      /* the share in units of 2^-64; SAMPLE_ALL_MASS: off */
    float inverse_temperature;           /* 0: greedy */
    float least_weight;                  /* min_p in units of 2^-34, at least 1 */
    uint32_t top_k;                      /* 0: off */
    float repetition;                    /* logits above 0 are divided by it and others multiplied; 1: off */
    float frequency, presence;           /* 0: off */
    uint32_t change_first, change_count; /* among the call's changes; each token once */
    uint32_t target;                     /* SAMPLE_DRAW, or a token that is given: nothing is drawn */
    uint32_t score;                      /* which of the call's scores is this row's; SAMPLE_NO_SCORE: none */
    uint32_t top;                        /* tokens that it lists, at most SAMPLE_MOST_TOP */
};

struct sample_top {
    uint32_t token;
    float logit;
};

/* How likely tokens were, before anything was changed: what sample_logprob() reads. */
struct sample_score {
    uint64_t total; /* weights at temperature 1; 0 where no largest logit is finite */
    float largest;
    float logit; /* the row's token's */
    struct sample_top top[SAMPLE_MOST_TOP];
    uint32_t top_count; /* those there are: NaN is not among them */
    uint32_t unused;
};

/* A row that asks for nothing but the largest logit's token. */
static inline bool sample_is_plain(const struct sample_row *row) {
    return row->inverse_temperature == 0 && row->change_count == 0 && row->target == SAMPLE_DRAW &&
           row->score == SAMPLE_NO_SCORE;
}

/* A row that is plain. */
struct sample_row sample_plain_row(void);

/* The natural logarithm of the softmax at a logit. */
float sample_logprob(const struct sample_score *score, float logit);

#endif
