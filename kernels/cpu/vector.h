/* The words that the cpu device's heavy kernels are written in: vectors of LANES floats, ints or groups of 4 bytes.
 *
 * Owns: three spellings of the same arithmetic (AVX-512 with VNNI, AVX2 with FMA, plain C), chosen by the flags that
 * the including file is compiled with (Makefile: *_avx512.c, *_avx2.c). Every function gives the same bits in all
 * three for numbers that are not NaN: a kernel written in them is one kernel, compiled three times.
 * Threads: any; no state. */
#ifndef METRONOME_KERNELS_CPU_VECTOR_H
#define METRONOME_KERNELS_CPU_VECTOR_H

#include "kernels/tensor.h"

#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

/* INLINE functions and UNROLLed loops are those whose arguments, trip counts and array elements must become constants
 * and registers. Plain C has no registers to spare: there they stay the functions and loops they are. */
#if !defined(__AVX2__)
#define INLINE static inline
#else
#define INLINE static inline __attribute__((always_inline))
#endif

#if !defined(__AVX2__)
#define UNROLL
#elif defined(__clang__)
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 64")
#endif

INLINE uint32_t bits_of_f32(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

INLINE float f32_of_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

INLINE uint32_t load_u32(const void *address) {
    uint32_t value;
    memcpy(&value, address, sizeof value);
    return value;
}

#if defined(__AVX512VNNI__)

#define LANES 16
typedef __m512 f32v;
typedef __m512i i32v;
typedef __m512i u8v;

INLINE __mmask16 first_lanes(int count) {
    return (__mmask16)(count >= LANES ? 0xffff : count <= 0 ? 0 : (1u << count) - 1);
}
INLINE f32v f32_set(float value) {
    return _mm512_set1_ps(value);
}
INLINE f32v f32_load(const float *from) {
    return _mm512_loadu_ps(from);
}
INLINE void f32_store(float *to, f32v v) {
    _mm512_storeu_ps(to, v);
}
INLINE f32v f32_load_first(const float *from, int count) {
    return _mm512_maskz_loadu_ps(first_lanes(count), from);
}
INLINE void f32_store_first(float *to, f32v v, int count) {
    _mm512_mask_storeu_ps(to, first_lanes(count), v);
}
INLINE f32v f32_load_f16(const uint16_t *from) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)from));
}
INLINE f32v f32_load_bf16(const uint16_t *from) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)from)), 16));
}
INLINE void f32_store_f16(uint16_t *to, f32v v) {
    _mm256_storeu_si256((__m256i *)to, _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
INLINE f32v f32_add(f32v a, f32v b) {
    return _mm512_add_ps(a, b);
}
INLINE f32v f32_sub(f32v a, f32v b) {
    return _mm512_sub_ps(a, b);
}
INLINE f32v f32_mul(f32v a, f32v b) {
    return _mm512_mul_ps(a, b);
}
INLINE f32v f32_fma(f32v a, f32v b, f32v c) {
    return _mm512_fmadd_ps(a, b, c);
}
INLINE f32v f32_max(f32v a, f32v b) {
    return _mm512_max_ps(a, b);
}
INLINE f32v f32_keep_first(f32v v, int count, f32v other) {
    return _mm512_mask_mov_ps(other, first_lanes(count), v);
}
INLINE f32v f32_from_i32(i32v v) {
    return _mm512_cvtepi32_ps(v);
}
INLINE i32v i32_round(f32v v) {
    return _mm512_cvtps_epi32(v);
}
INLINE f32v f32_power_of_2(i32v n) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(n, _mm512_set1_epi32(127)), 23));
}
INLINE i32v i32_set(int32_t value) {
    return _mm512_set1_epi32(value);
}
INLINE i32v i32_sub_shifted(i32v a, i32v b, const int shift) {
    return _mm512_sub_epi32(a, _mm512_slli_epi32(b, (unsigned)shift));
}
INLINE i32v i32_load_u8(const uint8_t *from) {
    return _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)from));
}
INLINE i32v i32_load_i8(const int8_t *from) {
    return _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)from));
}
INLINE void i32_store_i8(int8_t *to, i32v v) {
    _mm_storeu_si128((__m128i *)to, _mm512_cvtepi32_epi8(v));
}
INLINE i32v i32_absolute_bits(f32v v) {
    return _mm512_and_si512(_mm512_castps_si512(v), _mm512_set1_epi32(0x7fffffff));
}
INLINE i32v i32_max(i32v a, i32v b) {
    return _mm512_max_epi32(a, b);
}
INLINE int32_t i32_lanes_max(i32v v) {
    return _mm512_reduce_max_epi32(v);
}
INLINE int32_t i32_lanes_sum(i32v v) {
    return _mm512_reduce_add_epi32(v);
}
INLINE u8v u8_load(const uint8_t *from) {
    return _mm512_loadu_si512(from);
}
INLINE u8v u8_set(uint8_t value) {
    return _mm512_set1_epi8((char)value);
}
INLINE u8v u8_and(u8v a, u8v b) {
    return _mm512_and_si512(a, b);
}
INLINE u8v u8_or(u8v a, u8v b) {
    return _mm512_or_si512(a, b);
}
INLINE u8v u8_shift_left_dwords(u8v v, const int bits) {
    return _mm512_slli_epi32(v, (unsigned)bits);
}
INLINE u8v u8_shift_right_dwords(u8v v, const int bits) {
    return _mm512_srli_epi32(v, (unsigned)bits);
}
INLINE i32v i32_dot4(i32v sum, u8v codes, const int8_t *activations, const bool wide) {
    (void)wide;
    return _mm512_dpbusd_epi32(sum, codes, _mm512_set1_epi32((int32_t)load_u32(activations)));
}
INLINE i32v i32_byte(u8v v, const int byte) {
    return _mm512_and_si512(_mm512_srli_epi32(v, 8 * (unsigned)byte), _mm512_set1_epi32(0xff));
}

#elif defined(__AVX2__)

#define LANES 8
typedef __m256 f32v;
typedef __m256i i32v;
typedef __m256i u8v;

INLINE __m256i first_lanes(int count) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
INLINE f32v f32_set(float value) {
    return _mm256_set1_ps(value);
}
INLINE f32v f32_load(const float *from) {
    return _mm256_loadu_ps(from);
}
INLINE void f32_store(float *to, f32v v) {
    _mm256_storeu_ps(to, v);
}
INLINE f32v f32_load_first(const float *from, int count) {
    return _mm256_maskload_ps(from, first_lanes(count));
}
INLINE void f32_store_first(float *to, f32v v, int count) {
    _mm256_maskstore_ps(to, first_lanes(count), v);
}
INLINE f32v f32_load_f16(const uint16_t *from) {
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)from));
}
INLINE f32v f32_load_bf16(const uint16_t *from) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)from)), 16));
}
INLINE void f32_store_f16(uint16_t *to, f32v v) {
    _mm_storeu_si128((__m128i *)to, _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
INLINE f32v f32_add(f32v a, f32v b) {
    return _mm256_add_ps(a, b);
}
INLINE f32v f32_sub(f32v a, f32v b) {
    return _mm256_sub_ps(a, b);
}
INLINE f32v f32_mul(f32v a, f32v b) {
    return _mm256_mul_ps(a, b);
}
INLINE f32v f32_fma(f32v a, f32v b, f32v c) {
    return _mm256_fmadd_ps(a, b, c);
}
INLINE f32v f32_max(f32v a, f32v b) {
    return _mm256_max_ps(a, b);
}
INLINE f32v f32_keep_first(f32v v, int count, f32v other) {
    return _mm256_blendv_ps(other, v, _mm256_castsi256_ps(first_lanes(count)));
}
INLINE f32v f32_from_i32(i32v v) {
    return _mm256_cvtepi32_ps(v);
}
INLINE i32v i32_round(f32v v) {
    return _mm256_cvtps_epi32(v);
}
INLINE f32v f32_power_of_2(i32v n) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23));
}
INLINE i32v i32_set(int32_t value) {
    return _mm256_set1_epi32(value);
}
INLINE i32v i32_sub_shifted(i32v a, i32v b, const int shift) {
    return _mm256_sub_epi32(a, _mm256_slli_epi32(b, shift));
}
INLINE i32v i32_load_u8(const uint8_t *from) {
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)from));
}
INLINE i32v i32_load_i8(const int8_t *from) {
    return _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)from));
}
INLINE void i32_store_i8(int8_t *to, i32v v) {
    __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    _mm_storel_epi64((__m128i *)to, _mm_packs_epi16(words, words));
}
INLINE i32v i32_absolute_bits(f32v v) {
    return _mm256_and_si256(_mm256_castps_si256(v), _mm256_set1_epi32(0x7fffffff));
}
INLINE i32v i32_max(i32v a, i32v b) {
    return _mm256_max_epi32(a, b);
}
INLINE int32_t i32_lanes_max(i32v v) {
    __m128i a = _mm_max_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    a = _mm_max_epi32(a, _mm_shuffle_epi32(a, 0x4e));
    a = _mm_max_epi32(a, _mm_shuffle_epi32(a, 0xb1));
    return _mm_cvtsi128_si32(a);
}
INLINE int32_t i32_lanes_sum(i32v v) {
    __m128i a = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    a = _mm_add_epi32(a, _mm_shuffle_epi32(a, 0x4e));
    a = _mm_add_epi32(a, _mm_shuffle_epi32(a, 0xb1));
    return _mm_cvtsi128_si32(a);
}
INLINE u8v u8_load(const uint8_t *from) {
    return _mm256_loadu_si256((const __m256i *)from);
}
INLINE u8v u8_set(uint8_t value) {
    return _mm256_set1_epi8((char)value);
}
INLINE u8v u8_and(u8v a, u8v b) {
    return _mm256_and_si256(a, b);
}
INLINE u8v u8_or(u8v a, u8v b) {
    return _mm256_or_si256(a, b);
}
INLINE u8v u8_shift_left_dwords(u8v v, const int bits) {
    return _mm256_slli_epi32(v, bits);
}
INLINE u8v u8_shift_right_dwords(u8v v, const int bits) {
    return _mm256_srli_epi32(v, bits);
}
/* Codes of at most 7 bits go through maddubs, whose pairs (2 * 127 * 127) then fit 16 bits; 8-bit codes as 16-bit
 * products of the even and the odd bytes. */
INLINE i32v i32_dot4(i32v sum, u8v codes, const int8_t *activations, const bool wide) {
    const __m256i quad = _mm256_set1_epi32((int32_t)load_u32(activations));
    if (!wide) {
        return _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(codes, quad), _mm256_set1_epi16(1)));
    }
    const __m256i even = _mm256_madd_epi16(_mm256_and_si256(codes, _mm256_set1_epi16(0xff)),
                                           _mm256_srai_epi16(_mm256_slli_epi16(quad, 8), 8));
    const __m256i odd = _mm256_madd_epi16(_mm256_srli_epi16(codes, 8), _mm256_srai_epi16(quad, 8));
    return _mm256_add_epi32(sum, _mm256_add_epi32(even, odd));
}
INLINE i32v i32_byte(u8v v, const int byte) {
    return _mm256_and_si256(_mm256_srli_epi32(v, 8 * byte), _mm256_set1_epi32(0xff));
}

#else /* plain C; few lanes, for the compilers' sake */

#define LANES 4
typedef struct {
    float lane[LANES];
} f32v;
typedef struct {
    int32_t lane[LANES];
} i32v;
typedef struct {
    uint32_t lane[LANES];
} u8v; /* 4 bytes a lane, the lowest first */

#define EACH_LANE(type, expression)    \
    type result;                       \
    for (int i = 0; i < LANES; i++) {  \
        result.lane[i] = (expression); \
    }                                  \
    return result

INLINE f32v f32_set(float value) {
    EACH_LANE(f32v, value);
}
INLINE f32v f32_load(const float *from) {
    EACH_LANE(f32v, from[i]);
}
INLINE void f32_store(float *to, f32v v) {
    memcpy(to, v.lane, sizeof v.lane);
}
INLINE f32v f32_load_first(const float *from, int count) {
    EACH_LANE(f32v, i < count ? from[i] : 0);
}
INLINE void f32_store_first(float *to, f32v v, int count) {
    for (int i = 0; i < count && i < LANES; i++) {
        to[i] = v.lane[i];
    }
}
INLINE f32v f32_load_f16(const uint16_t *from) {
    EACH_LANE(f32v, tensor_f16_to_f32(from[i]));
}
INLINE f32v f32_load_bf16(const uint16_t *from) {
    EACH_LANE(f32v, f32_of_bits((uint32_t)from[i] << 16));
}
INLINE void f32_store_f16(uint16_t *to, f32v v) {
    for (int i = 0; i < LANES; i++) {
        to[i] = tensor_f32_to_f16(v.lane[i]);
    }
}
INLINE f32v f32_add(f32v a, f32v b) {
    EACH_LANE(f32v, a.lane[i] + b.lane[i]);
}
INLINE f32v f32_sub(f32v a, f32v b) {
    EACH_LANE(f32v, a.lane[i] - b.lane[i]);
}
INLINE f32v f32_mul(f32v a, f32v b) {
    EACH_LANE(f32v, a.lane[i] * b.lane[i]);
}
INLINE f32v f32_fma(f32v a, f32v b, f32v c) {
    EACH_LANE(f32v, fmaf(a.lane[i], b.lane[i], c.lane[i]));
}
INLINE f32v f32_max(f32v a, f32v b) { /* as the instruction: b when either is NaN */
    EACH_LANE(f32v, a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]);
}
INLINE f32v f32_keep_first(f32v v, int count, f32v other) {
    EACH_LANE(f32v, i < count ? v.lane[i] : other.lane[i]);
}
INLINE f32v f32_from_i32(i32v v) {
    EACH_LANE(f32v, (float)v.lane[i]);
}
INLINE i32v i32_round(f32v v) { /* to nearest even, |v| < 2^22: the sum's low bits are the integer */
    EACH_LANE(i32v, (int32_t)(bits_of_f32(v.lane[i] + 12582912.0f) - 0x4b400000u));
}
INLINE f32v f32_power_of_2(i32v n) {
    EACH_LANE(f32v, f32_of_bits(((uint32_t)n.lane[i] + 127u) << 23));
}
INLINE i32v i32_set(int32_t value) {
    EACH_LANE(i32v, value);
}
INLINE i32v i32_sub_shifted(i32v a, i32v b, const int shift) {
    EACH_LANE(i32v, a.lane[i] - b.lane[i] * (1 << shift));
}
INLINE i32v i32_load_u8(const uint8_t *from) {
    EACH_LANE(i32v, from[i]);
}
INLINE i32v i32_load_i8(const int8_t *from) {
    EACH_LANE(i32v, from[i]);
}
INLINE void i32_store_i8(int8_t *to, i32v v) {
    for (int i = 0; i < LANES; i++) {
        to[i] = (int8_t)v.lane[i];
    }
}
INLINE i32v i32_absolute_bits(f32v v) {
    EACH_LANE(i32v, (int32_t)(bits_of_f32(v.lane[i]) & 0x7fffffffu));
}
INLINE i32v i32_max(i32v a, i32v b) {
    EACH_LANE(i32v, a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]);
}
INLINE int32_t i32_lanes_max(i32v v) {
    int32_t most = v.lane[0];
    for (int i = 1; i < LANES; i++) {
        most = v.lane[i] > most ? v.lane[i] : most;
    }
    return most;
}
INLINE int32_t i32_lanes_sum(i32v v) {
    int32_t sum = 0;
    for (int i = 0; i < LANES; i++) {
        sum += v.lane[i];
    }
    return sum;
}
INLINE u8v u8_load(const uint8_t *from) {
    EACH_LANE(u8v, load_u32(from + 4 * i));
}
INLINE u8v u8_set(uint8_t value) {
    EACH_LANE(u8v, value * 0x01010101u);
}
INLINE u8v u8_and(u8v a, u8v b) {
    EACH_LANE(u8v, a.lane[i] & b.lane[i]);
}
INLINE u8v u8_or(u8v a, u8v b) {
    EACH_LANE(u8v, a.lane[i] | b.lane[i]);
}
INLINE u8v u8_shift_left_dwords(u8v v, const int bits) {
    EACH_LANE(u8v, v.lane[i] << bits);
}
INLINE u8v u8_shift_right_dwords(u8v v, const int bits) {
    EACH_LANE(u8v, v.lane[i] >> bits);
}
INLINE i32v i32_dot4(i32v sum, u8v codes, const int8_t *activations, const bool wide) {
    (void)wide;
    EACH_LANE(i32v, sum.lane[i] + (int32_t)(codes.lane[i] & 0xff) * activations[0] +
                        (int32_t)(codes.lane[i] >> 8 & 0xff) * activations[1] +
                        (int32_t)(codes.lane[i] >> 16 & 0xff) * activations[2] +
                        (int32_t)(codes.lane[i] >> 24) * activations[3]);
}
INLINE i32v i32_byte(u8v v, const int byte) {
    EACH_LANE(i32v, (int32_t)(v.lane[i] >> (8 * byte) & 0xff));
}

#endif

/* exp(x) for x <= 0, to 2 units in the last place; 0 below -87.7; NaN stays NaN. The polynomial is Cephes' expf. */
INLINE f32v f32_exp_negative(f32v x) {
    x = f32_max(f32_set(-88.0f), x);
    const i32v n = i32_round(f32_mul(x, f32_set(1.44269504088896341f)));
    const f32v whole = f32_from_i32(n);
    f32v r = f32_fma(whole, f32_set(-0.693359375f), x);
    r = f32_fma(whole, f32_set(2.12194440e-4f), r);
    f32v p = f32_set(1.9875691500e-4f);
    p = f32_fma(p, r, f32_set(1.3981999507e-3f));
    p = f32_fma(p, r, f32_set(8.3334519073e-3f));
    p = f32_fma(p, r, f32_set(4.1665795894e-2f));
    p = f32_fma(p, r, f32_set(1.6666665459e-1f));
    p = f32_fma(p, r, f32_set(5.0000001201e-1f));
    p = f32_fma(p, f32_mul(r, r), f32_add(r, f32_set(1.0f)));
    return f32_mul(p, f32_power_of_2(n));
}

#endif
