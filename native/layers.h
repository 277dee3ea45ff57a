// What lies between the matrix products: activations, layer normalisation, the dueling head, noise.
#pragma once

#include "functions.h"

namespace upright::UPRIGHT_INSTRUCTION_SET {

// Whole vectors of a contiguous array, then what is left of it.
inline double sum_of_squares(Size count, const float* values) {
    constexpr Size stretch = 4096;  // summed in float; the stretches in double
    double total = 0;
    for (Size begin = 0; begin < count; begin += stretch) {
        const Size end = begin + stretch < count ? begin + stretch : count;
        Vector sum[4] = {};
        Size i = begin;
        for (; i + 4 * WIDTH <= end; i += 4 * WIDTH)
            for (int v = 0; v < 4; ++v) {
                const Vector value = load(values + i + v * WIDTH);
                sum[v] += value * value;
            }
        float rest = sum_of((sum[0] + sum[1]) + (sum[2] + sum[3]));
        for (; i < end; ++i) rest += values[i] * values[i];
        total += rest;
    }
    return total;
}

inline void sum_rows(Size rows, Size columns, const float* values, float* sums, bool accumulate) {
    for (Size r = 0; r < rows; ++r) {
        const float* row = values + r * columns;
        Vector sum{};
        for (Size c = 0; c < columns; c += WIDTH) sum += load(row + c);
        sums[r] = (accumulate ? sums[r] : 0.0f) + sum_of(sum);
    }
}

inline void activate(Activation activation, Size count, float* __restrict values) {
    switch (activation) {
        case Activation::relu:
            for (Size i = 0; i < count; ++i) values[i] = values[i] < 0 ? 0 : values[i];
            break;
        case Activation::tanh:
            for (Size i = 0; i < count; ++i) values[i] = hyperbolic_tangent(values[i]);
            break;
        case Activation::silu:
            for (Size i = 0; i < count; ++i) values[i] = values[i] * sigmoid(values[i]);
            break;
    }
}

inline void deactivate(Activation activation, Size count, const float* __restrict values, float* __restrict gradient) {
    switch (activation) {
        case Activation::relu:
            for (Size i = 0; i < count; ++i) {
                const float passed = gradient[i];
                gradient[i] = values[i] > 0 ? passed : 0;
            }
            break;
        case Activation::tanh:
            for (Size i = 0; i < count; ++i) gradient[i] *= 1 - values[i] * values[i];
            break;
        case Activation::silu:
            for (Size i = 0; i < count; ++i) {
                const float s = sigmoid(values[i]);
                gradient[i] *= s * (1 + values[i] * (1 - s));
            }
            break;
    }
}

inline void normalise(Size rows, Size columns, float* __restrict values, const float* __restrict gain,
                      const float* __restrict shift, float* __restrict normalised,
                      float* __restrict inverse_deviation) {
    float mean[PANEL] = {}, variance[PANEL] = {};
    for (Size r = 0; r < rows; ++r)
        for (Size c = 0; c < columns; ++c) mean[c] += values[r * columns + c];
    for (Size c = 0; c < columns; ++c) mean[c] /= static_cast<float>(rows);
    for (Size r = 0; r < rows; ++r)
        for (Size c = 0; c < columns; ++c) {
            const float off = values[r * columns + c] - mean[c];
            variance[c] += off * off;
        }
    for (Size c = 0; c < columns; ++c)
        inverse_deviation[c] = 1 / __builtin_sqrtf(variance[c] / static_cast<float>(rows) + 1e-5f);
    for (Size r = 0; r < rows; ++r)
        for (Size c = 0; c < columns; ++c) {
            const float x = (values[r * columns + c] - mean[c]) * inverse_deviation[c];
            normalised[r * columns + c] = x;
            values[r * columns + c] = gain[r] * x + shift[r];
        }
}

// ∂x = (g − mean g − x̂ mean(g x̂))/deviation, where g = γ ∂y; the means are over the rows of a column
inline void denormalise(Size rows, Size columns, float* __restrict gradient, const float* __restrict gain,
                        const float* __restrict normalised, const float* __restrict inverse_deviation,
                        float* gain_gradient, float* shift_gradient, float* __restrict scratch) {
    sum_rows(rows, columns, gradient, shift_gradient, true);
    for (Size i = 0; i < rows * columns; ++i) scratch[i] = gradient[i] * normalised[i];
    sum_rows(rows, columns, scratch, gain_gradient, true);
    float mean[PANEL] = {}, along[PANEL] = {};
    for (Size r = 0; r < rows; ++r)
        for (Size c = 0; c < columns; ++c) {
            mean[c] += gain[r] * gradient[r * columns + c];
            along[c] += gain[r] * scratch[r * columns + c];
        }
    for (Size c = 0; c < columns; ++c) {
        mean[c] /= static_cast<float>(rows);
        along[c] /= static_cast<float>(rows);
    }
    for (Size r = 0; r < rows; ++r)
        for (Size c = 0; c < columns; ++c) {
            const Size i = r * columns + c;
            gradient[i] = (gain[r] * gradient[i] - mean[c] - normalised[i] * along[c]) * inverse_deviation[c];
        }
}

inline void duel(Size actions, Size outputs, Size columns, float* __restrict output, const float* __restrict value) {
    const Size size = outputs * columns;  // of one action
    for (Size begin = 0; begin < size; begin += PANEL) {
        const Size count = size - begin < PANEL ? size - begin : PANEL;
        float mean[PANEL] = {};
        for (Size a = 0; a < actions; ++a)
            for (Size i = 0; i < count; ++i) mean[i] += output[a * size + begin + i];
        for (Size i = 0; i < count; ++i) mean[i] = value[begin + i] - mean[i] / static_cast<float>(actions);
        for (Size a = 0; a < actions; ++a)
            for (Size i = 0; i < count; ++i) output[a * size + begin + i] += mean[i];
    }
}

inline void separate(Size actions, Size outputs, Size columns, float* __restrict gradient,
                     float* __restrict value_gradient) {
    const Size size = outputs * columns;
    for (Size i = 0; i < size; ++i) value_gradient[i] = 0;
    for (Size a = 0; a < actions; ++a)
        for (Size i = 0; i < size; ++i) value_gradient[i] += gradient[a * size + i];
    for (Size a = 0; a < actions; ++a)
        for (Size i = 0; i < size; ++i) gradient[a * size + i] -= value_gradient[i] / static_cast<float>(actions);
}

// result = mean + sigma ⊙ of_output of_inputᵀ
inline void add_noise(Size rows, Size columns, Size row, const float* __restrict mean, const float* __restrict sigma,
                      const float* __restrict of_output, const float* __restrict of_input, float* __restrict result) {
    for (Size r = 0; r < rows; ++r)
        for (Size i = r * row, c = 0; c < columns; ++c, ++i)
            result[i] = mean[i] + sigma[i] * (of_output[r] * of_input[c]);
}

inline void noise_gradient(Size rows, Size columns, Size row, const float* __restrict gradient,
                           const float* __restrict of_output, const float* __restrict of_input,
                           float* __restrict result) {
    for (Size r = 0; r < rows; ++r)
        for (Size i = r * row, c = 0; c < columns; ++c, ++i) result[i] = gradient[i] * (of_output[r] * of_input[c]);
}

inline void cosines(Size count, Size columns, const float* __restrict fractions, float* __restrict result) {
    for (Size i = 0; i < count; ++i)
        for (Size c = 0; c < columns; ++c)
            result[i * columns + c] = cosine_of_half_turns(static_cast<float>(i) * fractions[c]);
}

inline void mix(Size rows, Size samples, Size count, Size columns, const float* __restrict features, Size row,
                const float* __restrict embedding, float* __restrict result) {
    for (Size r = 0; r < rows; ++r)
        for (Size b = 0, i = r * columns; b < samples; ++b)
            for (const Size end = i + count; i < end; ++i) result[i] = features[r * row + b] * embedding[i];
}

inline void unmix(Size rows, Size samples, Size count, Size columns, const float* __restrict features, Size row,
                  const float* __restrict embedding, float* __restrict gradient, float* __restrict features_gradient) {
    for (Size r = 0; r < rows; ++r)
        for (Size b = 0, i = r * columns; b < samples; ++b) {
            float sum = 0;
            for (const Size end = i + count; i < end; ++i) {
                sum += gradient[i] * embedding[i];
                gradient[i] = embedding[i] > 0 ? gradient[i] * features[r * row + b] : 0;
            }
            features_gradient[r * row + b] += sum;
        }
}

}  // namespace upright::UPRIGHT_INSTRUCTION_SET
