/* The kernels of attention.h in AVX2, FMA and F16C. The Makefile compiles this file with the flags its name says. */
#include "kernels/cpu/attention_kernels.h"

const struct attention_kernels attention_avx2 = ATTENTION_KERNELS;
