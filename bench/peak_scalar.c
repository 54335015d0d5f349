/* The loops of bench/peak.h in plain C. */
#include "bench/peak_kernels.h"

const struct peak_loops peak_scalar = PEAK_LOOPS;
