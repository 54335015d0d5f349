/* Reading GGML's quantized blocks code by code: what every device's packing begins with. No arithmetic on values
 * happens here. Threads: any; pure. */
#ifndef METRONOME_KERNELS_BLOCKS_H
#define METRONOME_KERNELS_BLOCKS_H

#include "kernels/tensor.h"

#include <stdint.h>

#define BLOCK_COLUMNS 32

/* The unsigned codes of 32 columns: those of run `run` (0 in types whose blocks have 32 values, 0 .. 7 in the others)
 * of the file block at `block`. A weight is scale * (code - offset) + minimum, with the offset 128 in Q8_0, 8 in Q4_0,
 * 32 in Q6_K and 0 elsewhere. */
void block_read_codes(enum tensor_type type, const uint8_t *block, uint32_t run, uint8_t codes[BLOCK_COLUMNS]);

/* The 6-bit scale and minimum of run `run` as Q4_K and Q5_K fold 8 of each into the 12 bytes at `folded`. */
void block_read_k_scale(const uint8_t *folded, uint32_t run, uint8_t *scale, uint8_t *minimum);

#endif
