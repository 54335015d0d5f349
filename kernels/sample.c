#include "kernels/sample.h"

#include <math.h>

struct sample_row sample_plain_row(void) {
    return (struct sample_row){
        .top_p = SAMPLE_ALL_MASS, .least_weight = 1, .repetition = 1, .target = SAMPLE_DRAW, .score = SAMPLE_NO_SCORE};
}

float sample_logprob(const struct sample_score *score, float logit) {
    if (score->total == 0) {
        return -INFINITY;
    }
    return logit - (float)(score->largest + log((double)score->total * 0x1.0p-34));
}
