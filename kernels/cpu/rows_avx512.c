/* The simple ops' row kernels for AVX-512. Threads: any. */
#define ROW_KERNELS row_kernels_avx512
#include "kernels/cpu/rows_kernels.h"
