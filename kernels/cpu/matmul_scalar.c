/* The kernels of matmul.h in plain C, for any machine. The Makefile compiles this file with the flags its name says. */
#include "kernels/cpu/matmul_kernels.h"

const struct matmul_kernels matmul_scalar = MATMUL_KERNELS;
