// The losses of upright/learners/torch/losses.py, where the equations are cited, with their gradients, over the samples of
// a panel.
#pragma once

#include "functions.h"

namespace upright::UPRIGHT_INSTRUCTION_SET {

// Log-probabilities of a softmax down the rows of values [rows, columns], in place.
inline void log_softmax(Size rows, Size columns, float* __restrict values) {
    float largest[PANEL], sum[PANEL] = {};
    for (Size b = 0; b < columns; ++b) largest[b] = -INFINITE;
    for (Size r = 0; r < rows; ++r)
        for (Size b = 0; b < columns; ++b) {
            const float value = values[r * columns + b];
            largest[b] = value > largest[b] ? value : largest[b];
        }
    for (Size r = 0; r < rows; ++r)
        for (Size b = 0; b < columns; ++b) sum[b] += exponential(values[r * columns + b] - largest[b]);
    for (Size b = 0; b < columns; ++b) sum[b] = logarithm(sum[b]);
    // In this order no digit is lost beside a large value.
    for (Size r = 0; r < rows; ++r)
        for (Size b = 0; b < columns; ++b) values[r * columns + b] = (values[r * columns + b] - largest[b]) - sum[b];
}

inline float support(const LossSettings& loss, Size atom) {
    const double spacing = (static_cast<double>(loss.v_max) - loss.v_min) / static_cast<double>(loss.outputs - 1);
    return static_cast<float>(loss.v_min + static_cast<double>(atom) * spacing);
}

inline void action_values(const LossSettings& loss, Size columns, const float* output, float* __restrict q,
                          float* __restrict scratch) {
    const Size size = loss.outputs * columns;
    for (Size a = 0; a < loss.actions; ++a) {
        const float* of_action = output + a * size;
        float* value = q + a * columns;
        if (loss.kind == LossKind::q_learning) {
            for (Size b = 0; b < columns; ++b) value[b] = of_action[b];
            continue;
        }
        if (loss.kind == LossKind::categorical) {
            for (Size i = 0; i < size; ++i) scratch[i] = of_action[i];
            log_softmax(loss.outputs, columns, scratch);
        }
        float sum[PANEL] = {};
        for (Size n = 0; n < loss.outputs; ++n)
            if (loss.kind == LossKind::categorical) {
                const float atom = support(loss, n);
                for (Size b = 0; b < columns; ++b) sum[b] += atom * exponential(scratch[n * columns + b]);
            } else {
                for (Size b = 0; b < columns; ++b) sum[b] += of_action[n * columns + b];
            }
        const float count = loss.kind == LossKind::categorical ? 1.0f : static_cast<float>(loss.outputs);
        for (Size b = 0; b < columns; ++b) value[b] = sum[b] / count;
    }
}

// argmax_a q(s, a) over the allowed actions; the first of equals
inline void choose(Size actions, Size columns, const float* q, const float* allowed, std::int32_t* __restrict best) {
    float highest[PANEL];
    for (Size b = 0; b < columns; ++b) {
        highest[b] = -INFINITE;
        best[b] = 0;
    }
    for (Size a = 0; a < actions; ++a)
        for (Size b = 0; b < columns; ++b) {
            const bool better = q[a * columns + b] > highest[b] && (allowed == nullptr || allowed[a * columns + b] > 0);
            highest[b] = better ? q[a * columns + b] : highest[b];
            best[b] = better ? static_cast<std::int32_t>(a) : best[b];
        }
}

// The rows [outputs, columns] of each sample's own action
inline void pick(Size outputs, Size columns, const float* output, const std::int32_t* action, float* __restrict picked) {
    for (Size n = 0; n < outputs; ++n)
        for (Size b = 0; b < columns; ++b) picked[n * columns + b] = output[(action[b] * outputs + n) * columns + b];
}

// τ log π [actions, columns], π = softmax(q/τ); 0 where an action is not allowed, as is π
inline void soft_policy(const LossSettings& loss, Size columns, const float* q, const float* allowed,
                        float* __restrict probability, float* __restrict scaled_log) {
    const Size size = loss.actions * columns;
    for (Size i = 0; i < size; ++i)
        scaled_log[i] = allowed == nullptr || allowed[i] > 0 ? q[i] / loss.soft.temperature : -INFINITE;
    log_softmax(loss.actions, columns, scaled_log);
    for (Size i = 0; i < size; ++i) {
        const bool may = allowed == nullptr || allowed[i] > 0;
        probability[i] = may ? exponential(scaled_log[i]) : 0;
        scaled_log[i] = may ? loss.soft.temperature * scaled_log[i] : 0;
    }
}

// What each sample's target is made of, apart from the distribution that it bootstraps on.
struct Bootstrap {
    float reward[PANEL];            // with Munchausen's bonus
    std::int32_t best[PANEL];       // greedy: the next action
    const float* probability;       // Munchausen: π(a'|s') [actions, columns]
    const float* scaled_log;        // Munchausen: τ log π(a'|s') [actions, columns]
};

inline Bootstrap bootstrap(const LossSettings& loss, const LossPanel& panel, float* scratch) {
    const Size columns = panel.columns, size = loss.actions * columns;
    float *probability = scratch, *scaled_log = scratch + size;
    Bootstrap result{};
    for (Size b = 0; b < columns; ++b) result.reward[b] = panel.reward[b];
    if (!loss.munchausen) {
        choose(loss.actions, columns, panel.q_next, panel.next_allowed, result.best);
        return result;
    }
    float bonus[PANEL];
    soft_policy(loss, columns, panel.q, panel.allowed, probability, scaled_log);
    pick(1, columns, scaled_log, panel.action, bonus);
    for (Size b = 0; b < columns; ++b) {
        const float clipped = bonus[b] < loss.soft.clip ? loss.soft.clip : bonus[b] > 0 ? 0 : bonus[b];
        result.reward[b] += loss.soft.alpha * clipped;
    }
    soft_policy(loss, columns, panel.q_next, panel.next_allowed, probability, scaled_log);
    result.probability = probability;
    result.scaled_log = scaled_log;
    return result;
}

inline void q_learning(const LossSettings& loss, const LossPanel& panel) {
    const Size columns = panel.columns;
    const Bootstrap next = bootstrap(loss, panel, panel.scratch);
    float value[PANEL] = {}, online[PANEL], slope[PANEL];
    if (loss.munchausen) {
        for (Size i = 0, a = 0; a < loss.actions; ++a)
            for (Size b = 0; b < columns; ++b, ++i)
                value[b] += next.probability[i] * (panel.target_next[i] - next.scaled_log[i]);
    } else {
        pick(1, columns, panel.target_next, next.best, value);
    }
    pick(1, columns, panel.online, panel.action, online);
    for (Size b = 0; b < columns; ++b) {
        const float error = next.reward[b] + panel.discount[b] * value[b] - online[b];
        const float size = absolute(error);
        const bool linear = loss.huber && size > 1;
        panel.per_sample[b] = linear ? size - 0.5f : 0.5f * error * error;
        panel.priority[b] = size;
        slope[b] = -panel.weight[b] * (linear ? (error < 0 ? -1.0f : 1.0f) : error);
    }
    for (Size a = 0; a < loss.actions; ++a)
        for (Size b = 0; b < columns; ++b) {
            const float own = slope[b];
            panel.gradient[a * columns + b] = a == panel.action[b] ? own : 0;
        }
}

// Writes the gradient [outputs, columns] of the samples' own actions into the whole one.
inline void spread(const LossSettings& loss, const LossPanel& panel, const float* own) {
    const Size columns = panel.columns;
    for (Size a = 0; a < loss.actions; ++a)
        for (Size n = 0; n < loss.outputs; ++n)
            for (Size b = 0; b < columns; ++b) {
                const float slope = own[n * columns + b];
                panel.gradient[(a * loss.outputs + n) * columns + b] = a == panel.action[b] ? slope : 0;
            }
}

inline void categorical(const LossSettings& loss, const LossPanel& panel) {
    const Size columns = panel.columns, atoms = loss.outputs, size = atoms * columns;
    float* online = panel.scratch;           // log p [atoms, columns]
    float* target = online + size;           // m [atoms, columns]
    float* next = target + size;             // log-probabilities of one next action [atoms, columns]
    float* rest = next + size;
    const Bootstrap boot = bootstrap(loss, panel, rest);

    for (Size i = 0; i < size; ++i) target[i] = 0;
    const float low = loss.v_min, spacing = (loss.v_max - loss.v_min) / static_cast<float>(atoms - 1);
    const float last = static_cast<float>(atoms - 1);
    // Shares the next action's mass between the two atoms nearest to each of its shifted ones.
    const auto project = [&](Size a) {
        for (Size n = 0; n < atoms; ++n) {
            const float atom = support(loss, n);
            for (Size b = 0; b < columns; ++b) {
                const float soft = loss.munchausen ? boot.scaled_log[a * columns + b] : 0;
                const float weight = loss.munchausen ? boot.probability[a * columns + b] : 1;
                const float mass = weight * exponential(next[n * columns + b]);
                float position = (boot.reward[b] + panel.discount[b] * (atom - soft) - low) / spacing;
                position = position > last ? last : position < 0 ? 0 : position;  // what is no number stays none
                const Size below = position >= last ? atoms - 2 : position > 0 ? static_cast<Size>(position) : 0;
                const float share = position - static_cast<float>(below);
                target[below * columns + b] += mass * (1 - share);
                target[(below + 1) * columns + b] += mass * share;
            }
        }
    };
    if (loss.munchausen) {
        for (Size a = 0; a < loss.actions; ++a) {
            for (Size i = 0; i < size; ++i) next[i] = panel.target_next[a * size + i];
            log_softmax(atoms, columns, next);
            project(a);
        }
    } else {
        pick(atoms, columns, panel.target_next, boot.best, next);
        log_softmax(atoms, columns, next);
        project(0);
    }

    pick(atoms, columns, panel.online, panel.action, online);
    log_softmax(atoms, columns, online);
    float divergence[PANEL] = {}, total[PANEL] = {};
    for (Size n = 0; n < atoms; ++n)
        for (Size b = 0; b < columns; ++b) {
            const float m = target[n * columns + b];
            const float log_p = online[n * columns + b];
            divergence[b] += m < 1e-37f ? -m * log_p : m * (logarithm(m) - log_p);
            total[b] += m;
        }
    for (Size n = 0; n < atoms; ++n)
        for (Size b = 0; b < columns; ++b) {
            const Size i = n * columns + b;
            online[i] = panel.weight[b] * (exponential(online[i]) * total[b] - target[i]);
        }
    spread(loss, panel, online);
    for (Size b = 0; b < columns; ++b) panel.per_sample[b] = panel.priority[b] = divergence[b];
}

inline void quantile(const LossSettings& loss, const LossPanel& panel) {
    const Size columns = panel.columns, count = loss.outputs, targets = loss.targets;
    float* online = panel.scratch;
    float* gradient = online + count * columns;
    float* target = gradient + count * columns;
    float* rest = target + targets * columns;
    const Bootstrap boot = bootstrap(loss, panel, rest);

    if (loss.munchausen) {
        for (Size i = 0; i < targets * columns; ++i) target[i] = 0;
        for (Size a = 0; a < loss.actions; ++a)
            for (Size n = 0; n < targets; ++n)
                for (Size b = 0; b < columns; ++b) {
                    const float next = panel.target_next[(a * targets + n) * columns + b];
                    target[n * columns + b] +=
                        boot.probability[a * columns + b] * (next - boot.scaled_log[a * columns + b]);
                }
    } else {
        pick(targets, columns, panel.target_next, boot.best, target);
    }
    for (Size n = 0; n < targets; ++n)
        for (Size b = 0; b < columns; ++b)
            target[n * columns + b] = boot.reward[b] + panel.discount[b] * target[n * columns + b];

    pick(count, columns, panel.online, panel.action, online);
    float total[PANEL] = {};
    const float kappa = loss.kappa, share = 1 / static_cast<float>(targets);
    const float inverse_kappa = kappa > 0 ? 1 / kappa : 0;
    for (Size i = 0; i < count; ++i) {
        float fraction[PANEL], cost[PANEL] = {}, slope[PANEL] = {};
        for (Size b = 0; b < columns; ++b)
            fraction[b] = panel.fractions == nullptr ? (static_cast<float>(i) + 0.5f) / static_cast<float>(count)
                          : b < panel.samples        ? panel.fractions[b * count + i]
                                                     : 0;
        for (Size j = 0; j < targets; ++j)
            for (Size b = 0; b < columns; ++b) {
                const float error = target[j * columns + b] - online[i * columns + b];
                const float distance = absolute(error);
                const float weight = error < 0 ? 1 - fraction[b] : fraction[b];
                const bool linear = !(distance <= kappa);
                const float sign = error < 0 ? -1.0f : error > 0 ? 1.0f : 0.0f;
                cost[b] += weight * (linear ? distance - 0.5f * kappa : 0.5f * error * error * inverse_kappa);
                slope[b] -= weight * (linear ? sign : error * inverse_kappa);
            }
        for (Size b = 0; b < columns; ++b) {
            total[b] += cost[b] * share;
            gradient[i * columns + b] = panel.weight[b] * slope[b] * share;
        }
    }
    spread(loss, panel, gradient);
    for (Size b = 0; b < columns; ++b) panel.per_sample[b] = panel.priority[b] = total[b];
}

inline void temporal_difference(const LossSettings& loss, const LossPanel& panel) {
    switch (loss.kind) {
        case LossKind::q_learning: return q_learning(loss, panel);
        case LossKind::categorical: return categorical(loss, panel);
        case LossKind::quantile:
        case LossKind::implicit_quantile: return quantile(loss, panel);
    }
}

}  // namespace upright::UPRIGHT_INSTRUCTION_SET
