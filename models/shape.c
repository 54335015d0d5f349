/* What follows from a model's hyperparameters, whichever file they came from: rotary frequencies and windows.
 *
 * Owns: the arithmetic of rotary scaling. Threads: any; pure. */
#include "models/model_internal.h"

#include <math.h>
#include <stdlib.h>

/* YaRN, Peng et al. arXiv 2309.00071, section 3.2: the (fractional) pair that turns `turns` times within the
 * original context. */
static double pair_of_turns(const struct rope_parameters *rope, double dimensions, double turns) {
    return dimensions * log(rope->original_context / (turns * 2 * M_PI)) / (2 * log(rope->base));
}

/* The share of a pair's frequency that stays as trained: 1 for the fast pairs, 0 for the slow, a ramp between. */
static double yarn_kept_share(const struct rope_parameters *rope, double dimensions, double pair) {
    double low = fmax(floor(pair_of_turns(rope, dimensions, rope->beta_fast)), 0);
    double high = fmin(ceil(pair_of_turns(rope, dimensions, rope->beta_slow)), dimensions - 1);
    double ramp = (pair - low) / fmax(high - low, 0.001);
    return 1 - fmin(fmax(ramp, 0), 1);
}

/* Llama 3.1's scaling (Grattafiori et al. arXiv 2407.21783, section 3.4.4, and Meta's published code): wavelengths
 * longer than the original context / low_frequency are stretched, those shorter than original context / high_frequency
 * are not, and between these the share falls in a line. */
static double llama3_kept_share(const struct rope_parameters *rope, double trained) {
    double turns = rope->original_context * trained / (2 * M_PI);
    double share = (turns - rope->low_frequency) / (rope->high_frequency - rope->low_frequency);
    return fmin(fmax(share, 0), 1);
}

static double scaled_frequency(const struct rope_parameters *rope, double dimensions, uint32_t pair, double trained) {
    double kept = 0;
    switch (rope->scaling) {
    case ROPE_UNSCALED:
        return trained;
    case ROPE_LINEAR:
        break;
    case ROPE_LLAMA3:
        kept = llama3_kept_share(rope, trained);
        break;
    case ROPE_YARN:
        kept = yarn_kept_share(rope, dimensions, pair);
        break;
    }
    return trained * (kept + (1 - kept) / rope->factor);
}

struct status shape_rope(const struct rope_parameters *rope, const float *factors, uint32_t pairs, float *frequency,
                         float *magnitude) {
    double dimensions = 2.0 * pairs;
    for (uint32_t pair = 0; pair < pairs; pair++) {
        double trained = pow(rope->base, -2.0 * pair / dimensions);
        if (factors != NULL) {
            if (!(factors[pair] > 0) || !isfinite(factors[pair])) {
                return status_error(STATUS_INVALID, "tensor 'rope_freqs.weight': value %u is %g, must be above 0", pair,
                                    (double)factors[pair]);
            }
            trained /= (double)factors[pair];
        }
        frequency[pair] = (float)scaled_frequency(rope, dimensions, pair, trained);
    }
    *magnitude = 1;
    if (rope->scaling == ROPE_YARN) { /* section 3.4: 1 / sqrt(t) */
        double own = rope->magnitude > 0 ? rope->magnitude : 1 + 0.1 * log(rope->factor);
        *magnitude = (float)(rope->magnitude_factor * own);
    }
    return STATUS_SUCCESS;
}

struct status shape_windows(uint32_t layers, uint32_t window, uint32_t full_every, struct pass *pass) {
    pass->window = calloc(layers, sizeof *pass->window);
    if (pass->window == NULL) {
        return status_error(STATUS_NO_MEMORY, "no memory for the windows of %u layers", layers);
    }
    for (uint32_t layer = 0; layer < layers; layer++) {
        bool full = full_every > 0 && (layer + 1) % full_every == 0;
        pass->window[layer] = full ? 0 : window;
    }
    return STATUS_SUCCESS;
}
