#include "scheduler/quantile.h"

double quantile_track(double estimate, bool over, double allowed, double step, double most) {
    const double next = estimate + step * ((over ? 1 : 0) - allowed);
    return next < 0 ? 0 : next > most ? most : next;
}
