// The vector of one instruction set, by GCC's and Clang's vector extension: the same source becomes AVX-512, AVX2, SSE2
// or NEON. Included by kernels.cpp alone, which is compiled once for each.
#pragma once

#include "kernels.h"

#if defined(__AVX2__)
// GCC warns of what its own header leaves undefined on purpose (its bug 105593). Clang has no such second warning.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>
#pragma GCC diagnostic pop
#endif

#define UPRIGHT_INLINE inline __attribute__((always_inline))

namespace upright::UPRIGHT_INSTRUCTION_SET {

#if defined(__AVX512F__)
constexpr char NAME[] = "avx512";
constexpr int WIDTH = 16, REGISTERS = 32;
#elif defined(__AVX2__)
constexpr char NAME[] = "avx2";
constexpr int WIDTH = 8, REGISTERS = 16;
#elif defined(__aarch64__)
constexpr char NAME[] = "neon";
constexpr int WIDTH = 4, REGISTERS = 32;
#else
constexpr char NAME[] = "portable";
constexpr int WIDTH = 4, REGISTERS = 16;
#endif

// Aligned as a float is, so that any address will do, and allowed to alias, because it reads arrays of float.
typedef float Vector __attribute__((vector_size(WIDTH * sizeof(float)), aligned(alignof(float)), may_alias));

UPRIGHT_INLINE Vector load(const float* from) { return *reinterpret_cast<const Vector*>(from); }
UPRIGHT_INLINE void store(float* to, Vector value) { *reinterpret_cast<Vector*>(to) = value; }
UPRIGHT_INLINE Vector everywhere(float value) { return value - Vector{}; }

// The sum of the entries: halves are added until one is left.
UPRIGHT_INLINE float sum_of(Vector value) {
#if defined(__AVX512F__)
    return _mm512_reduce_add_ps(value);
#elif defined(__AVX2__)
    const __m128 half = _mm_add_ps(_mm256_castps256_ps128(value), _mm256_extractf128_ps(value, 1));
    const __m128 pair = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(pair, _mm_shuffle_ps(pair, pair, 1)));
#else
    return (value[0] + value[2]) + (value[1] + value[3]);
#endif
}

typedef float Four __attribute__((vector_size(4 * sizeof(float)), aligned(alignof(float)), may_alias));

// (a₀, b₀, a₁, b₁) and (a₂, b₂, a₃, b₃)
#if defined(__clang__)
UPRIGHT_INLINE Four interleave_low(Four a, Four b) { return __builtin_shufflevector(a, b, 0, 4, 1, 5); }
UPRIGHT_INLINE Four interleave_high(Four a, Four b) { return __builtin_shufflevector(a, b, 2, 6, 3, 7); }
#else  // GCC has that from version 12 on
typedef std::int32_t Places __attribute__((vector_size(16)));
UPRIGHT_INLINE Four interleave_low(Four a, Four b) { return __builtin_shuffle(a, b, Places{0, 4, 1, 5}); }
UPRIGHT_INLINE Four interleave_high(Four a, Four b) { return __builtin_shuffle(a, b, Places{2, 6, 3, 7}); }
#endif

// to [16, 16] = from [16, 16]ᵀ
UPRIGHT_INLINE void transpose_block(const float* from, Size from_row, float* to, Size to_row) {
#if defined(__AVX512F__)
    // Four rounds, each of which exchanges the halves of ever smaller blocks between two rows.
    const __m512i low[4] = {
        _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23),
        _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27),
        _mm512_setr_epi32(0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29),
        _mm512_setr_epi32(0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30),
    };
    const __m512i high[4] = {
        _mm512_setr_epi32(8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31),
        _mm512_setr_epi32(4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31),
        _mm512_setr_epi32(2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31),
        _mm512_setr_epi32(1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31),
    };
    __m512 row[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) row[i] = _mm512_loadu_ps(from + i * from_row);
#pragma GCC unroll 4
    for (int round = 0; round < 4; ++round) {
        const int apart = 8 >> round;
#pragma GCC unroll 16
        for (int i = 0; i < 16; ++i)
            if ((i & apart) == 0) {
                const __m512 upper = row[i], lower = row[i + apart];
                row[i] = _mm512_permutex2var_ps(upper, low[round], lower);
                row[i + apart] = _mm512_permutex2var_ps(upper, high[round], lower);
            }
    }
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) _mm512_storeu_ps(to + i * to_row, row[i]);
#else
    // In blocks of 4×4, by interleaving their rows twice.
    for (int i = 0; i < 16; i += 4)
        for (int j = 0; j < 16; j += 4) {
            Four row[4];
            for (int r = 0; r < 4; ++r) row[r] = *reinterpret_cast<const Four*>(from + (j + r) * from_row + i);
            for (int round = 0; round < 2; ++round) {
                const Four a = row[0], b = row[1], c = row[2], d = row[3];
                row[0] = interleave_low(a, c);
                row[1] = interleave_high(a, c);
                row[2] = interleave_low(b, d);
                row[3] = interleave_high(b, d);
            }
            for (int r = 0; r < 4; ++r) *reinterpret_cast<Four*>(to + (i + r) * to_row + j) = row[r];
        }
#endif
}

}  // namespace upright::UPRIGHT_INSTRUCTION_SET
