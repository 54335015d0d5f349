/* The passes of op_sample() for AVX-512. Threads: any. */
#define SAMPLE_KERNELS sample_kernels_avx512
#include "kernels/cpu/sample_kernels.h"
