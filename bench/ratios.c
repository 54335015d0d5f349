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

void ratios_write(struct book *book, const char *theirs, const struct ratios *ratios) {
    book_text(book, "metronome to", theirs);
    book_number(book, "cells", 0, ratios->count);
    book_number(book, "geometric mean", 2, ratios->mean);
    book_number(book, "least", 2, ratios->least);
    book_number(book, "most", 2, ratios->most);
    book_number(book, "metronome alone", 0, ratios->only_ours);
    book_number(book, "the other alone", 0, ratios->only_theirs);
}
