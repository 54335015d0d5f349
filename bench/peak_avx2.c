/* The loops of bench/peak.h in AVX2 and FMA. The Makefile compiles this file with the flags its name says. */
#include "bench/peak_kernels.h"

const struct peak_loops peak_avx2 = PEAK_LOOPS;
