// Elementary functions of one float, without a branch, so that the compiler turns a loop over them into vectors.
//
// Loops in layers.h and losses.h first read what `?:` chooses from: where one of its arms reads an array, Clang leaves
// a branch in the loop and uses no vectors.
#pragma once

#include "vector.h"

namespace upright::UPRIGHT_INSTRUCTION_SET {

constexpr float INFINITE = __builtin_inff();

UPRIGHT_INLINE float absolute(float x) { return __builtin_fabsf(x); }

// eˣ = 2ⁿ e^r with r = x − n ln 2 in ±½ ln 2, by a polynomial in r; 0 below the smallest normal number. Wrong by at
// most 2 units in the last place; NaN stays NaN.
UPRIGHT_INLINE float exponential(float x) {
    const float clamped = x < -87.3f ? -87.3f : x > 88.7f ? 88.7f : x;
    // Adding 1.5·2²³ rounds to a whole number, which is then found in the low bits.
    const float shifted = clamped * 1.44269504f + 12582912.0f;
    const float n = shifted - 12582912.0f;
    const float r = (clamped - n * 0.693359375f) - n * -2.12194440e-4f;
    float sum = 1.9875691500e-4f;
    sum = sum * r + 1.3981999507e-3f;
    sum = sum * r + 8.3334519073e-3f;
    sum = sum * r + 4.1665795894e-2f;
    sum = sum * r + 1.6666665459e-1f;
    sum = sum * r + 5.0000001201e-1f;
    sum = sum * r * r + r + 1.0f;
    // In two halves, because 2¹²⁸ is no float.
    const std::int32_t whole = static_cast<std::int32_t>(__builtin_bit_cast(std::uint32_t, shifted) - 0x4B400000u);
    const std::int32_t half = whole >> 1;
    const float first = __builtin_bit_cast(float, (static_cast<std::uint32_t>(half) + 127u) << 23);
    const float second = __builtin_bit_cast(float, (static_cast<std::uint32_t>(whole - half) + 127u) << 23);
    const float value = sum * first * second;
    return x < -87.3f ? 0.0f : x > 88.8f ? INFINITE : value;
}

// ln x for normal x > 0, by a polynomial round 1   (coefficients of Cephes' logf)
UPRIGHT_INLINE float logarithm(float x) {
    const std::uint32_t bits = __builtin_bit_cast(std::uint32_t, x);
    // The mantissa in [√½, √2), so that the polynomial's argument is small on both sides of 1.
    const std::uint32_t offset = bits - 0x3F3504F3u;
    const float exponent = static_cast<float>(static_cast<std::int32_t>(offset) >> 23);
    const float f = __builtin_bit_cast(float, (offset & 0x007FFFFFu) + 0x3F3504F3u) - 1.0f;
    float sum = 7.0376836292e-2f;
    sum = sum * f - 1.1514610310e-1f;
    sum = sum * f + 1.1676998740e-1f;
    sum = sum * f - 1.2420140846e-1f;
    sum = sum * f + 1.4249322787e-1f;
    sum = sum * f - 1.6668057665e-1f;
    sum = sum * f + 2.0000714765e-1f;
    sum = sum * f - 2.4999993993e-1f;
    sum = sum * f + 3.3333331174e-1f;
    const float square = f * f;
    const float value = (sum * f * square + exponent * -2.12194440e-4f - 0.5f * square) + f + exponent * 0.693359375f;
    return x != x ? x : value;
}

// tanh x = 1 − 2/(e²ˣ + 1), and by an odd polynomial where that would lose digits   (coefficients of Cephes' tanhf)
UPRIGHT_INLINE float hyperbolic_tangent(float x) {
    const float size = x < 0 ? -x : x;
    const float square = x * x;
    float sum = -5.70498872745e-3f;
    sum = sum * square + 2.06390887954e-2f;
    sum = sum * square - 5.37397155531e-2f;
    sum = sum * square + 1.33314422036e-1f;
    sum = sum * square - 3.33332819422e-1f;
    const float small = sum * square * x + x;
    const float large = 1.0f - 2.0f / (exponential(2.0f * size) + 1.0f);
    return size < 0.625f ? small : x < 0 ? -large : large;
}

// cos πx, by the series round 0 of the nearest half turn; x below 2²²
UPRIGHT_INLINE float cosine_of_half_turns(float x) {
    const float whole = (x * 0.5f + 12582912.0f) - 12582912.0f;
    const float turn = absolute(x - 2.0f * whole);  // [0, 1]
    const float angle = 3.14159265f * (turn > 0.5f ? 1.0f - turn : turn);
    const float square = angle * angle;
    float sum = 2.0876757e-9f;
    sum = sum * square - 2.7557319e-7f;
    sum = sum * square + 2.4801587e-5f;
    sum = sum * square - 1.3888889e-3f;
    sum = sum * square + 4.1666667e-2f;
    sum = sum * square - 0.5f;
    sum = sum * square + 1.0f;
    return turn > 0.5f ? -sum : sum;
}

UPRIGHT_INLINE float sigmoid(float x) { return 1.0f / (1.0f + exponential(-x)); }

}  // namespace upright::UPRIGHT_INSTRUCTION_SET
