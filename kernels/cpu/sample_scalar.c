/* The passes of op_sample() for any processor. Threads: any. */
#define SAMPLE_KERNELS sample_kernels_scalar
#include "kernels/cpu/sample_kernels.h"
