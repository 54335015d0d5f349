// The emulator's twin of <cuda_fp16.h>: half and half2 as storage and conversions. Arithmetic on them is not emulated.
// Threads: any; pure.
#ifndef METRONOME_TESTS_CUEMU_FP16_H
#define METRONOME_TESTS_CUEMU_FP16_H

#include <cuda_runtime.h>
#include <immintrin.h>

struct __half {
    unsigned short bits;
};
struct alignas(4) __half2 {
    __half x, y;
};
typedef __half half;
typedef __half2 half2;

static inline float __half2float(__half value) {
    return _cvtsh_ss(value.bits);
}
static inline __half __float2half_rn(float value) {
    return {static_cast<unsigned short>(_cvtss_sh(value, _MM_FROUND_TO_NEAREST_INT))};
}
static inline __half __float2half(float value) {
    return __float2half_rn(value);
}
static inline __half __ushort_as_half(unsigned short bits) {
    return {bits};
}
static inline unsigned short __half_as_ushort(__half value) {
    return value.bits;
}
static inline __half2 __halves2half2(__half low, __half high) {
    return {low, high};
}
static inline __half2 __floats2half2_rn(float low, float high) {
    return {__float2half_rn(low), __float2half_rn(high)};
}
static inline __half2 __float22half2_rn(float2 value) {
    return __floats2half2_rn(value.x, value.y);
}
static inline float2 __half22float2(__half2 value) {
    return {__half2float(value.x), __half2float(value.y)};
}
static inline float __low2float(__half2 value) {
    return __half2float(value.x);
}
static inline float __high2float(__half2 value) {
    return __half2float(value.y);
}

#endif
