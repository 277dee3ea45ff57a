// One step of the optimiser over all parameters, with PyTorch's conventions.
#pragma once

#include "functions.h"

namespace upright::UPRIGHT_INSTRUCTION_SET {

constexpr double ADAM_FIRST = 0.9, ADAM_SECOND = 0.999;
constexpr float RMSPROP_DECAY = 0.95f;  // of both moments: Mnih 2015, extended data table 1

// Adam (Kingma 2015, algorithm 1), AdamW (Loshchilov 2019), amsgrad (Reddi 2018), centred RMSprop (Mnih 2015), SGD.
// The arrays are arguments because Clang honours `__restrict` only there.
template <OptimizerKind kind, bool amsgrad>
void optimize(const OptimizerStep& step, float* __restrict parameters, const float* __restrict gradients,
              float* __restrict first, float* __restrict second, float* __restrict largest) {
    double first_correction = 1, second_correction = 1;  // 1 − βᵗ
    if constexpr (kind == OptimizerKind::adam || kind == OptimizerKind::adamw) {
        first_correction -= __builtin_pow(ADAM_FIRST, static_cast<double>(step.step));
        second_correction -= __builtin_pow(ADAM_SECOND, static_cast<double>(step.step));
    }
    const float rate = static_cast<float>(step.learning_rate / first_correction);
    const float root_correction = static_cast<float>(1 / __builtin_sqrt(second_correction));
    const float epsilon = static_cast<float>(step.epsilon), scale = static_cast<float>(step.scale);
    const float largest_value = static_cast<float>(step.max_value);
    const float penalty = kind == OptimizerKind::adamw ? 0.0f : static_cast<float>(step.weight_decay);
    const float shrink =
        kind == OptimizerKind::adamw ? static_cast<float>(1 - step.learning_rate * step.weight_decay) : 1.0f;
    constexpr float keep_first = static_cast<float>(ADAM_FIRST), keep_second = static_cast<float>(ADAM_SECOND);
    constexpr float take_first = static_cast<float>(1 - ADAM_FIRST), take_second = static_cast<float>(1 - ADAM_SECOND);
    for (Size i = 0; i < step.count; ++i) {
        float g = gradients[i] * scale;
        g = g > largest_value ? largest_value : g < -largest_value ? -largest_value : g;
        g += penalty * parameters[i];
        if constexpr (kind == OptimizerKind::sgd) {
            parameters[i] -= rate * g;
        } else if constexpr (kind == OptimizerKind::rmsprop) {
            first[i] += (1 - RMSPROP_DECAY) * (g - first[i]);
            second[i] = RMSPROP_DECAY * second[i] + (1 - RMSPROP_DECAY) * g * g;
            // Rounding may leave the variance of a steady gradient just below 0.
            const float variance = second[i] - first[i] * first[i];
            parameters[i] -= rate * g / (__builtin_sqrtf(variance < 0 ? 0 : variance) + epsilon);
        } else {
            first[i] = keep_first * first[i] + take_first * g;
            second[i] = keep_second * second[i] + take_second * g * g;
            float moment = second[i];
            if constexpr (amsgrad) {
                largest[i] = largest[i] > moment ? largest[i] : moment;
                moment = largest[i];
            }
            parameters[i] = parameters[i] * shrink - rate * first[i] / (__builtin_sqrtf(moment) * root_correction + epsilon);
        }
    }
}

template <OptimizerKind kind, bool amsgrad = false>
void optimize(const OptimizerStep& step) {
    optimize<kind, amsgrad>(step, step.parameters, step.gradient, step.first, step.second, step.largest);
}

inline void optimize(const OptimizerStep& step) {
    switch (step.kind) {
        case OptimizerKind::adam:
            return step.amsgrad ? optimize<OptimizerKind::adam, true>(step) : optimize<OptimizerKind::adam>(step);
        case OptimizerKind::adamw:
            return step.amsgrad ? optimize<OptimizerKind::adamw, true>(step) : optimize<OptimizerKind::adamw>(step);
        case OptimizerKind::rmsprop: return optimize<OptimizerKind::rmsprop>(step);
        case OptimizerKind::sgd: return optimize<OptimizerKind::sgd>(step);
    }
}

inline void move_towards(Size count, float share, const float* __restrict online, float* __restrict target) {
    if (share == 1)
        __builtin_memcpy(target, online, static_cast<std::size_t>(count) * sizeof(float));
    else
        for (Size i = 0; i < count; ++i) target[i] += share * (online[i] - target[i]);
}

}  // namespace upright::UPRIGHT_INSTRUCTION_SET
