/* The kernels of matmul.h in AVX2, FMA and F16C. The Makefile compiles this file with the flags its name says. */
#include "kernels/cpu/matmul_kernels.h"

const struct matmul_kernels matmul_avx2 = MATMUL_KERNELS;
