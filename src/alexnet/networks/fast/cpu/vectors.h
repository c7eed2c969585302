// As many floats at a time as a register of the processor holds, by the vector extensions of GCC and Clang. Wider ones
// than that are taken apart value by value, which costs more than the plain layers.
// Values are float32 (float) or bfloat16 (uint16_t) in memory and float32 in registers.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#ifdef __AVX2__
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
constexpr int64_t WIDTH = 16;
#elif defined(__AVX2__) && defined(__FMA__)
constexpr int64_t WIDTH = 8;
#else
constexpr int64_t WIDTH = 4;
#endif
typedef float Floats __attribute__((vector_size(4 * WIDTH)));
typedef int32_t Ints __attribute__((vector_size(4 * WIDTH)));
typedef uint32_t Words __attribute__((vector_size(4 * WIDTH)));
typedef uint16_t Halves __attribute__((vector_size(2 * WIDTH)));
typedef uint8_t Bytes __attribute__((vector_size(WIDTH)));

static inline Floats load(const float* from) {
    Floats x;
    memcpy(&x, from, sizeof x);
    return x;
}

static inline Floats load(const uint16_t* from) {
    Halves x;
    memcpy(&x, from, sizeof x);
    return (Floats)(__builtin_convertvector(x, Words) << 16);
}

static inline Ints load(const uint8_t* from) {
    Bytes x;
    memcpy(&x, from, sizeof x);
    return __builtin_convertvector(x, Ints);
}

static inline void store(float* to, Floats x) { memcpy(to, &x, sizeof x); }

static inline void store(uint16_t* to, Floats x) {  // to the nearest, ties to even, as torch rounds
    Words bits = (Words)x;
    Words rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    Halves y = __builtin_convertvector((x != x) ? Words{} + 0x7fc0 : rounded, Halves);
    memcpy(to, &y, sizeof y);
}

static inline void store(uint8_t* to, Ints x) {
    Bytes y = __builtin_convertvector(x, Bytes);
    memcpy(to, &y, sizeof y);
}

static inline uint16_t to_bfloat16(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return x != x ? 0x7fc0 : uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

static inline Floats constant(float x) { return Floats{} + x; }

// a · b + c, rounded once.
static inline Floats fused(Floats a, Floats b, Floats c) {
#ifdef __AVX512F__
    return (Floats)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__AVX2__) && defined(__FMA__)
    return (Floats)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
    Floats r;
    for (int i = 0; i < WIDTH; i++) r[i] = std::fma(a[i], b[i], c[i]);
    return r;
#endif
}

// 1 / sqrt(x) to 11 bits or more.
static inline Floats rough_reciprocal_root(Floats x) {
#ifdef __AVX512F__
    return (Floats)_mm512_rsqrt14_ps((__m512)x);
#elif defined(__AVX2__) && defined(__FMA__)
    return (Floats)_mm256_rsqrt_ps((__m256)x);
#else
    Floats r;
    for (int i = 0; i < WIDTH; i++) r[i] = 1.0f / std::sqrt(x[i]);
    return r;
#endif
}

// d^-0.75 as rough · (1 + rest), so that a product with it is rounded once; and 1 / d to within some roundings.
// From a table of some bits and its residual: three times faster than roots and divisions, and closer than pow.
struct Power {
    Floats rough, rest, inverse;
    Floats times(Floats x) const { return fused(x, rough, x * rough * rest); }
};

static inline Power minus_three_quarters(Floats d) {
    Floats r = rough_reciprocal_root(d), zero = {};
    r += 0.5f * r * fused(-(d * r), r, constant(1));
    Floats root = d * r;
    root = fused(0.5f * r, fused(-root, root, d), root);
    const Floats v = d * root, p = rough_reciprocal_root(v), t = v * p;  // d^1.5 and its reciprocal root
    const Floats residual = fused(-t, p, constant(1)) - fused(v, p, -t) * p;
    const Floats rest = residual * (0.5f + 0.375f * residual);
    return {p, p == 0 ? zero : rest, p == 0 ? zero : r * r};  // 0: d is infinite, or nearly
}
