/* The simple ops' row kernels for any processor. Threads: any. */
#define ROW_KERNELS row_kernels_scalar
#include "kernels/cpu/rows_kernels.h"
