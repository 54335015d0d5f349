/* The kernels of matmul.h in AVX-512 with VNNI. The Makefile compiles this file with the flags its name says. */
#include "kernels/cpu/matmul_kernels.h"

const struct matmul_kernels matmul_avx512 = MATMUL_KERNELS;
