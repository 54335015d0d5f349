/* The loops of bench/peak.h in AVX-512 with VNNI. The Makefile compiles this file with the flags its name says. */
#include "bench/peak_kernels.h"

const struct peak_loops peak_avx512 = PEAK_LOOPS;
