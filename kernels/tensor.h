/* Tensor types: how the weights of a matrix are written in a file. Threads: any; constants only.
 *
 * A quantized row is a run of blocks of `block_elements` values in `block_bytes` bytes, laid out as GGML defines
 * them (ggml-common.h of ggml-org/ggml, the GGUF specification). A device may lay them out differently once it has
 * packed them (device_pack in kernels/device.h); the number of bits per weight stays. */
#ifndef METRONOME_KERNELS_TENSOR_H
#define METRONOME_KERNELS_TENSOR_H

#include <stddef.h>
#include <stdint.h>

enum tensor_type {
    TENSOR_F32,
    TENSOR_F16,
    TENSOR_BF16,
    TENSOR_Q8_0, /* 32 values: f16 d, int8 q[32];               w = d*q                       34 bytes */
    TENSOR_Q4_0, /* 32 values: f16 d, nibbles;                  w = d*(q-8)                   18 bytes */
    TENSOR_Q4_1, /* 32 values: f16 d, f16 m, nibbles;           w = d*q + m                   20 bytes */
    TENSOR_Q4_K, /* 256 values in 8 sub-blocks of 32;           w = d*sc*q - dmin*mn         144 bytes */
    TENSOR_Q5_K, /* the same with 5-bit q;                                                   176 bytes */
    TENSOR_Q6_K, /* 256 values in 16 sub-blocks of 16;          w = d*sc*(q-32)              210 bytes */
    TENSOR_TYPES,

    /* What files have and devices do not: models pack it as Q8_0, which holds the same values. */
    TENSOR_Q5_0 = TENSOR_TYPES, /* 32 values: f16 d, 32 fifth bits, nibbles; w = d*(q-16)    22 bytes */
};
#define TENSOR_FILE_TYPES (TENSOR_TYPES + 1)

struct tensor_traits {
    const char *name;
    uint32_t block_elements;
    uint32_t block_bytes;
};

/* The traits of a type < TENSOR_FILE_TYPES. */
const struct tensor_traits *tensor_traits(enum tensor_type type);

/* Bytes of one row of `columns` values as the file has it; `columns` is a multiple of block_elements. */
size_t tensor_row_bytes(enum tensor_type type, size_t columns);

/* The scalar reference: `columns` values of one file row as f32. Short and obviously right. */
void tensor_dequantize_row(enum tensor_type type, const void *row, float *out, size_t columns);

float tensor_f16_to_f32(uint16_t half);
uint16_t tensor_f32_to_f16(float value); /* round to nearest even */

#endif
