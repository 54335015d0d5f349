#include "base/histogram.h"

#include "base/check.h"

void histogram_init(struct histogram *histogram, const double *upper, uint32_t bounds) {
    CHECK(bounds > 0 && bounds <= HISTOGRAM_MAX_BOUNDS);
    *histogram = (struct histogram){.bounds = bounds};
    for (uint32_t i = 0; i < bounds; i++) {
        CHECK(i == 0 || upper[i] > upper[i - 1]);
        histogram->upper[i] = upper[i];
    }
}

void histogram_observe(struct histogram *histogram, double value) {
    histogram_observe_many(histogram, value, 1);
}

void histogram_observe_many(struct histogram *histogram, double value, uint64_t times) {
    uint32_t bucket = 0;
    while (bucket < histogram->bounds && value > histogram->upper[bucket]) {
        bucket++;
    }
    __atomic_store_n(&histogram->counts[bucket], histogram->counts[bucket] + times, __ATOMIC_RELAXED);
    __atomic_store_n(&histogram->total, histogram->total + times, __ATOMIC_RELAXED);
    double sum = histogram->sum + value * (double)times;
    __atomic_store(&histogram->sum, &sum, __ATOMIC_RELAXED);
}

struct histogram histogram_read(const struct histogram *histogram) {
    struct histogram copy = {.bounds = histogram->bounds};
    for (uint32_t i = 0; i < histogram->bounds; i++) {
        copy.upper[i] = histogram->upper[i];
    }
    for (uint32_t i = 0; i <= histogram->bounds; i++) {
        copy.counts[i] = __atomic_load_n(&histogram->counts[i], __ATOMIC_RELAXED);
    }
    copy.total = __atomic_load_n(&histogram->total, __ATOMIC_RELAXED);
    __atomic_load(&histogram->sum, &copy.sum, __ATOMIC_RELAXED);
    return copy;
}

double histogram_quantile(const struct histogram *snapshot, double q) {
    if (snapshot->total == 0) {
        return 0;
    }
    double wanted = q * (double)snapshot->total, below = 0;
    for (uint32_t i = 0; i < snapshot->bounds; i++) {
        double count = (double)snapshot->counts[i];
        if (below + count >= wanted && count > 0) {
            double lower = i ? snapshot->upper[i - 1] : 0;
            return lower + (snapshot->upper[i] - lower) * (wanted - below) / count;
        }
        below += count;
    }
    return snapshot->upper[snapshot->bounds - 1];
}
