// Reading packed weights (packed.h): a unit's registers as a warp loads them, the tensor cores' operands and the scales
// made of them, and the exact value of single weights. CUDA C++ only.
//
// Owns: how codes become numbers. Threads: device code; PackedUnit's functions are called by a whole warp.
#ifndef METRONOME_KERNELS_CUDA_DEQUANT_CUH
#define METRONOME_KERNELS_CUDA_DEQUANT_CUH

#include "kernels/cuda/kernel.cuh"

extern "C" {
#include "kernels/cuda/packed.h"
}

#include <cuda_bf16.h>
#include <cuda_fp16.h>

// What follows from the type alone.
template <enum tensor_type TYPE> struct PackedTraits {
    static constexpr bool QUANTIZED = TYPE >= TENSOR_Q8_0;
    static constexpr bool HAS_SUPER = TYPE == TENSOR_Q4_K || TYPE == TENSOR_Q5_K || TYPE == TENSOR_Q6_K;
    static constexpr bool HAS_MINIMUM = TYPE == TENSOR_Q4_1 || TYPE == TENSOR_Q4_K || TYPE == TENSOR_Q5_K;
    static constexpr int HALVES = TYPE == TENSOR_Q6_K ? 2 : 1; // parts of a block with a scale of their own
    static constexpr int CODE_BYTES = CUDA_CODE_BYTES(TYPE);
    static constexpr int SCALE_BYTES = CUDA_SCALE_BYTES(TYPE);
    static constexpr int SUPER_BYTES = CUDA_SUPER_BYTES(TYPE);
    static constexpr int CODE_WORDS = CODE_BYTES / 128; // of a lane
    static constexpr int SCALE_WORDS = SCALE_BYTES / 32;
    static constexpr int SUPER_WORDS = SUPER_BYTES / 32;
};

// The regions of one group of 16 rows.
struct PackedGroup {
    const uint8_t *codes, *scales, *supers;
};
template <enum tensor_type TYPE>
__device__ __forceinline__ PackedGroup packed_group(const void *packed, uint32_t columns, uint32_t group) {
    using Traits = PackedTraits<TYPE>;
    const size_t units = blocks_for(columns, CUDA_UNIT_COLUMNS);
    const size_t supers = Traits::HAS_SUPER ? units / CUDA_SUPER_UNITS : 0; // such rows have whole blocks of 256
    const size_t bytes = units * (Traits::CODE_BYTES + Traits::SCALE_BYTES) + supers * Traits::SUPER_BYTES;
    const uint8_t *codes = static_cast<const uint8_t *>(packed) + group * ((bytes + 63) & ~static_cast<size_t>(63));
    const uint8_t *scales = codes + units * Traits::CODE_BYTES;
    return {codes, scales, scales + units * Traits::SCALE_BYTES};
}

__device__ __forceinline__ float float_of_half(uint32_t bits) {
    return __half2float(__ushort_as_half(static_cast<unsigned short>(bits)));
}

// Weights are read once by few rows' products (STREAMED: they shall not push the activations out of the L1 cache), and
// by all blocks of a tiled one.
template <bool STREAMED, typename T> __device__ __forceinline__ T load_packed(const void *address) {
    return STREAMED ? __ldcs(static_cast<const T *>(address)) : __ldg(static_cast<const T *>(address));
}

// One lane's share of a unit: 16 rows by 64 columns.
template <enum tensor_type TYPE> struct PackedUnit {
    using Traits = PackedTraits<TYPE>;
    uint32_t codes[Traits::CODE_WORDS];
    uint32_t scales[Traits::SCALE_WORDS > 0 ? Traits::SCALE_WORDS : 1];
    uint32_t supers[Traits::SUPER_WORDS > 0 ? Traits::SUPER_WORDS : 1];

    template <bool STREAMED> __device__ __forceinline__ void load(const PackedGroup &group, uint32_t unit, int lane) {
        const uint8_t *from = group.codes + static_cast<size_t>(unit) * Traits::CODE_BYTES;
#pragma unroll
        for (int i = 0; i < Traits::CODE_WORDS / 4; i++) {
            const uint4 four = load_packed<STREAMED, uint4>(from + i * 512 + lane * 16);
            codes[4 * i] = four.x;
            codes[4 * i + 1] = four.y;
            codes[4 * i + 2] = four.z;
            codes[4 * i + 3] = four.w;
        }
        if constexpr (Traits::CODE_WORDS % 4 == 1) {
            codes[4] = load_packed<STREAMED, uint32_t>(from + 512 + lane * 4);
        } else if constexpr (Traits::CODE_WORDS % 4 == 2) {
            const uint2 two = load_packed<STREAMED, uint2>(from + 512 + lane * 8);
            codes[4] = two.x;
            codes[5] = two.y;
        }
        load_scales<STREAMED>(group, unit, lane / 4);
    }

    template <bool STREAMED>
    __device__ __forceinline__ void load_scales(const PackedGroup &group, uint32_t unit, int g) {
        const uint8_t *from = group.scales + static_cast<size_t>(unit) * Traits::SCALE_BYTES;
        const uint8_t *super = group.supers + static_cast<size_t>(unit / CUDA_SUPER_UNITS) * Traits::SUPER_BYTES;
        if constexpr (Traits::SCALE_WORDS == 4) {
            const uint4 four = load_packed<STREAMED, uint4>(from + g * 16);
            scales[0] = four.x;
            scales[1] = four.y;
            scales[2] = four.z;
            scales[3] = four.w;
        } else if constexpr (Traits::SCALE_WORDS == 2) {
            const uint2 two = load_packed<STREAMED, uint2>(from + g * 8);
            scales[0] = two.x;
            scales[1] = two.y;
        }
        if constexpr (Traits::SUPER_WORDS == 2) { // read again by the next three units: from the cache
            const uint2 two = __ldg(reinterpret_cast<const uint2 *>(super + g * 8));
            supers[0] = two.x;
            supers[1] = two.y;
        } else if constexpr (Traits::SUPER_WORDS == 1) {
            supers[0] = __ldg(reinterpret_cast<const uint32_t *>(super + g * 4));
        }
    }

    // Quad i of block `block` as 4 signed bytes: the code times CODE_FACTOR.
    static constexpr int CODE_FACTOR = TYPE == TENSOR_Q4_0 ? 16 : TYPE == TENSOR_Q6_K ? 4 : 1;
    __device__ __forceinline__ uint32_t quad(int block, int i) const {
        if constexpr (TYPE == TENSOR_Q8_0) {
            return codes[4 * block + i];
        } else if constexpr (TYPE == TENSOR_Q4_0) { // the sign is the nibble's top bit: keep it at the byte's top
            return (block == 0 ? codes[i] << 4 : codes[i]) & 0xf0f0f0f0u;
        } else if constexpr (TYPE == TENSOR_Q6_K) { // the same with six bits
            const uint32_t low = (block == 0 ? codes[i] << 2 : codes[i] >> 2) & 0x3c3c3c3cu;
            return low | (codes[4 + block] << (6 - 2 * i) & 0xc0c0c0c0u);
        } else {
            const uint32_t low = (block == 0 ? codes[i] : codes[i] >> 4) & 0x0f0f0f0fu;
            if constexpr (TYPE == TENSOR_Q5_K) {
                const int bit = 4 * block + i;
                return low | ((bit < 4 ? codes[4] << (4 - bit) : codes[4] >> (bit - 4)) & 0x10101010u);
            }
            return low;
        }
    }

    // The scale of row g + 8 * upper in half `half` of a block, for codes as they are; and its minimum.
    __device__ __forceinline__ float scale(int block, int half, int upper) const {
        if constexpr (TYPE == TENSOR_Q4_K || TYPE == TENSOR_Q5_K) {
            return float_of_half(supers[upper]) * static_cast<float>(scales[upper] >> 8 * block & 255);
        } else if constexpr (TYPE == TENSOR_Q6_K) {
            const int sub_scale = static_cast<int8_t>(scales[upper] >> (16 * block + 8 * half));
            return float_of_half(supers[0] >> 16 * upper) * static_cast<float>(sub_scale);
        } else {
            return float_of_half(scales[upper] >> 16 * block);
        }
    }
    __device__ __forceinline__ float minimum(int block, int upper) const {
        if constexpr (TYPE == TENSOR_Q4_1) {
            return float_of_half(scales[2 + upper] >> 16 * block);
        } else if constexpr (Traits::HAS_MINIMUM) {
            return -float_of_half(supers[upper] >> 16) * static_cast<float>(scales[upper] >> (16 + 8 * block) & 255);
        } else {
            return 0;
        }
    }
};

// scale * code + minimum, rounded after each step as tensor_dequantize_row() does.
template <enum tensor_type TYPE>
__device__ __forceinline__ float dequantized(const PackedUnit<TYPE> &unit, int block, int i, int k) {
    const int code = static_cast<int8_t>(unit.quad(block, i) >> 8 * k) / PackedUnit<TYPE>::CODE_FACTOR;
    const float product =
        __fmul_rn(unit.scale(block, i / 2 % PackedTraits<TYPE>::HALVES, i % 2), static_cast<float>(code));
    return PackedTraits<TYPE>::HAS_MINIMUM ? __fadd_rn(product, unit.minimum(block, i % 2)) : product;
}

// The exact value of one weight.
template <enum tensor_type TYPE>
__device__ float packed_value(const void *packed, uint32_t columns, uint32_t row, uint32_t column) {
    const PackedGroup group = packed_group<TYPE>(packed, columns, row / CUDA_GROUP_ROWS);
    const uint32_t upper = row / 8 % 2, half = column / 16 % 2, block = column / 32 % 2, k = column % 4;
    const uint32_t lane = row % 8 * 4 + column / 4 % 4, unit = column / CUDA_UNIT_COLUMNS;
    const uint8_t *codes = group.codes + static_cast<size_t>(unit) * PackedTraits<TYPE>::CODE_BYTES;
    if constexpr (TYPE == TENSOR_F32) {
        return reinterpret_cast<const float *>(codes + ((block * 4 + 2 * half + upper) * WARP + lane) * 16)[k];
    } else if constexpr (!PackedTraits<TYPE>::QUANTIZED) {
        const uint8_t *quad = codes + ((block * 2 + half) * WARP + lane) * 16 + upper * 8;
        const uint32_t bits = reinterpret_cast<const uint16_t *>(quad)[k];
        return TYPE == TENSOR_F16 ? float_of_half(bits) : __uint_as_float(bits << 16);
    } else if constexpr (TYPE == TENSOR_Q8_0) {
        const uint8_t code = codes[(block * WARP + lane) * 16 + (2 * half + upper) * 4 + k];
        const uint8_t *scales = group.scales + static_cast<size_t>(unit) * PackedTraits<TYPE>::SCALE_BYTES;
        const uint32_t scale = reinterpret_cast<const uint16_t *>(scales)[lane / 4 * 4 + 2 * upper + block];
        return __fmul_rn(float_of_half(scale), static_cast<float>(static_cast<int8_t>(code)));
    } else {
        PackedUnit<TYPE> registers;
        registers.template load<false>(group, unit, static_cast<int>(lane));
        float value = 0; // indices into registers are constants
#pragma unroll
        for (int at = 0; at < 8; at++) {
            if (at == static_cast<int>(block * 4 + 2 * half + upper)) {
                value = dequantized(registers, at / 4, at % 4, static_cast<int>(k));
            }
        }
        return value;
    }
}

#endif
