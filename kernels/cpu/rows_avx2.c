/* The simple ops' row kernels for AVX2 with FMA. Threads: any. */
#define ROW_KERNELS row_kernels_avx2
#include "kernels/cpu/rows_kernels.h"
