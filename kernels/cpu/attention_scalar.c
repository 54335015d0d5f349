/* The kernels of attention.h in plain C, for any machine. The Makefile compiles this file with the flags its name says.
 */
#include "kernels/cpu/attention_kernels.h"

const struct attention_kernels attention_scalar = ATTENTION_KERNELS;
