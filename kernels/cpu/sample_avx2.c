/* The passes of op_sample() for AVX2 with FMA. Threads: any. */
#define SAMPLE_KERNELS sample_kernels_avx2
#include "kernels/cpu/sample_kernels.h"
