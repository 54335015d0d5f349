/* The kernels of attention.h in AVX-512 with VNNI. The Makefile compiles this file with the flags its name says. */
#include "kernels/cpu/attention_kernels.h"

const struct attention_kernels attention_avx512 = ATTENTION_KERNELS;
