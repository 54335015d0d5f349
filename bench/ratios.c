#include "bench/ratios.h"

#include <math.h>

struct ratios ratios_of(const double *ours, const double *theirs, uint32_t count) {
    struct ratios ratios = {.least = NAN, .most = NAN, .mean = NAN};
    double log_sum = 0;
    for (uint32_t i = 0; i < count; i++) {
        ratios.only_ours += ours[i] > 0 && theirs[i] <= 0;
        ratios.only_theirs += ours[i] <= 0 && theirs[i] > 0;
        ratios.below += ours[i] < 0.99 * theirs[i];
        if (ours[i] > 0 && theirs[i] > 0) {
            const double ratio = ours[i] / theirs[i];
            ratios.least = fmin(ratios.least, ratio); /* fmin and fmax leave out what is not a number */
            ratios.most = fmax(ratios.most, ratio);
            log_sum += log(ratio);
            ratios.count++;
        }
    }
    ratios.mean = ratios.count > 0 ? exp(log_sum / ratios.count) : NAN;
    return ratios;
}
