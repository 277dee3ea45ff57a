// What a learner is asked, and the update.
#include "learner.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>
#include <utility>
#include <vector>

namespace upright {

namespace {

// Of the online network's Q(s, a) for the samples of a batch and the actions that are allowed at s.
struct SeenValues {
    double sum = 0;
    Size count = 0;

    void add(double q) {
        sum += q;
        ++count;
    }
    // Q [actions, columns] of the first `samples` of a panel; `allowed`, of the same shape, or null allows all.
    void add(Size actions, Size samples, Size columns, const float* q, const float* allowed) {
        for (Size a = 0; a < actions; ++a)
            for (Size b = 0; b < samples; ++b)
                if (allowed == nullptr || allowed[a * columns + b] > 0) add(q[a * columns + b]);
    }
};

// All that an update measures; grad_norm is that of the gradient before it is clipped.
std::vector<Measure> measured(double loss, double grad_norm, const SeenValues& q) {
    return {
        {"loss", true, loss},
        {"grad_norm", true, grad_norm},
        {"mean_q", false, q.sum / static_cast<double>(q.count)},
    };
}

}  // namespace

std::vector<Measure> Learner::no_measures() {
    std::vector<Measure> result = measured(0, 0, {});
    for (Measure& measure : result) measure.value = 0;
    return result;
}

// Fills a panel [inputs, columns] with rows of observations: those at `place`, or the first `count`.
template <typename Number>
void Learner::gather(const Number* rows, const std::int64_t* place, Size count, Size columns, float* panel) {
    const Size row = padded(inputs);
    for (Size b = 0; b < count; ++b) {
        const Number* from = rows + (place == nullptr ? b : place[b]) * inputs;
        float* to = rows_.data() + b * row;
        for (Size i = 0; i < inputs; ++i) to[i] = static_cast<float>(from[i]);
        if (std::is_same_v<Number, std::uint8_t> && !scale.empty())
            for (Size i = 0; i < inputs; ++i) to[i] *= scale[static_cast<std::size_t>(i)];
    }
    if (columns == 1) {
        std::memcpy(panel, rows_.data(), static_cast<std::size_t>(inputs) * sizeof(float));
        return;
    }
    std::fill_n(rows_.data() + count * row, (columns - count) * row, 0.0f);
    kernels.transpose(columns, row, rows_.data(), row, panel, columns);
}

template <typename Number>
void Learner::ask(Answer answer, Size count, const Number* obs, bool noisy, float* result) {
    const bool of_actions = answer == Answer::q_values;
    const Size rows = settings.loss.actions * (of_actions ? 1 : outputs_asked());
    const View view = online_view(noisy && is_noisy());
    for (Size begin = 0; begin < count; begin += PANEL) {
        const Size n = std::min(PANEL, count - begin), columns = n == 1 ? 1 : padded(n);
        gather(obs + begin * inputs, nullptr, n, columns, obs_.data());
        if (of_actions)
            action_values(view, obs_.data(), n, columns, q_.data());
        else
            policy_output(view, obs_.data(), n, columns);
        const float* given = of_actions ? q_.data() : policy_output_.data();
        for (Size b = 0; b < n; ++b)
            for (Size r = 0; r < rows; ++r) result[(begin + b) * rows + r] = given[r * columns + b];
    }
}

template void Learner::ask(Answer, Size, const float*, bool, float*);
template void Learner::ask(Answer, Size, const std::uint8_t*, bool, float*);

void Learner::gather(const Columns& memory, const Batch& batch, Size begin, Panel& panel) {
    const Size n = std::min(PANEL, batch.count - begin), columns = padded(n), actions = settings.loss.actions;
    panel.begin = begin;
    panel.samples = n;
    panel.columns = columns;
    panel.has_masks = memory.mask != nullptr;
    const std::int64_t* here = batch.place + begin;
    for (Size b = 0; b < columns; ++b) {
        const bool is_sample = b < n;  // else it fills the panel, and weighs nothing
        panel.action[b] = is_sample ? static_cast<std::int32_t>(memory.action[here[b]]) : 0;
        panel.reward[b] = is_sample ? static_cast<float>(memory.reward[here[b]]) : 0;
        panel.discount[b] = is_sample ? static_cast<float>(memory.discount[here[b]]) : 0;
        const double importance = is_sample && batch.weight != nullptr ? batch.weight[begin + b] : 1;
        panel.share[b] = is_sample ? static_cast<float>(importance / static_cast<double>(batch.count)) : 0;
        for (const auto& [from, to] : {std::pair{memory.mask, &allowed_}, {memory.next_mask, &next_allowed_}})
            for (Size a = 0; from != nullptr && a < actions; ++a)
                to->data()[a * columns + b] = !is_sample || from[here[b] * actions + a] ? 1 : 0;
    }
    for (const auto& [from, to] : {std::pair{memory.obs, &obs_}, {memory.next_obs, &next_obs_}})
        if (memory.bytes)
            gather(static_cast<const std::uint8_t*>(from), here, n, columns, to->data());
        else
            gather(static_cast<const float*>(from), here, n, columns, to->data());
}

// Asks both networks about a panel. Last is the online network at s, through which the gradient goes back.
LossPanel Learner::ask_networks(Panel& panel, const Batch& batch) {
    const LossSettings& loss = settings.loss;
    const Size n = panel.samples, columns = panel.columns;
    const View online_network = online_view(is_noisy()), target_network = target_view();
    const float* fractions = is_implicit() ? batch.fractions + panel.begin * loss.outputs : nullptr;
    const float* target_fractions = is_implicit() ? batch.target_fractions + panel.begin * loss.targets : nullptr;
    forward(target_network, asking_, next_obs_.data(), n, columns, target_fractions, loss.targets, target_next_.data());
    if (loss.double_q)
        action_values(online_network, next_obs_.data(), n, columns, q_next_.data());
    else if (is_implicit())  // by fractions of its own
        action_values(target_network, next_obs_.data(), n, columns, q_next_.data());
    else
        kernels.action_values(loss, columns, target_next_.data(), q_next_.data(), scratch_.data());
    if (loss.munchausen) action_values(target_network, obs_.data(), n, columns, q_.data());
    forward(online_network, learning_, obs_.data(), n, columns, fractions, loss.outputs, output_.data());
    return {
        .columns = columns,
        .samples = n,
        .online = output_.data(),
        .target_next = target_next_.data(),
        .q_next = q_next_.data(),
        .q = q_.data(),
        .fractions = fractions,
        .action = panel.action,
        .reward = panel.reward,
        .discount = panel.discount,
        .weight = panel.share,
        .allowed = panel.has_masks ? allowed_.data() : nullptr,
        .next_allowed = panel.has_masks ? next_allowed_.data() : nullptr,
        .gradient = output_gradient_.data(),
        .per_sample = panel.per_sample,
        .priority = panel.priority,
        .scratch = scratch_.data(),
    };
}

bool Learner::update(const Columns& memory, const Batch& batch, double learning_rate, float* priority) {
    const LossSettings& loss = settings.loss;
    Panel panel;
    double total = 0;
    SeenValues seen;
    clear_norm_gradient();
    for (Size begin = 0; begin < batch.count; begin += PANEL) {
        gather(memory, batch, begin, panel);
        const LossPanel asked = ask_networks(panel, batch);
        kernels.temporal_difference(loss, asked);
        for (Size b = 0; b < panel.samples; ++b) {
            total += static_cast<double>(panel.share[b]) * panel.per_sample[b];
            priority[begin + b] = panel.priority[b];
        }
        kernels.action_values(loss, panel.columns, output_.data(), q_.data(), scratch_.data());
        seen.add(loss.actions, panel.samples, panel.columns, q_.data(), asked.allowed);
        backward(obs_.data(), panel.samples, panel.columns, asked.fractions,
                 begin == 0 ? Start::zero : Start::accumulate);
    }
    sigma_gradient();

    const double norm = std::sqrt(kernels.sum_of_squares(gradient.size(), gradient.data()));
    measures = measured(total, norm, seen);
    if (!std::isfinite(total) || !std::isfinite(norm)) return false;
    optimize(learning_rate, norm);
    return true;
}

void Learner::optimize(double learning_rate, double grad_norm) {
    ++steps;
    kernels.optimize({
        .kind = settings.optimizer,
        .amsgrad = settings.amsgrad,
        .learning_rate = learning_rate,
        .epsilon = settings.optimizer_eps,
        .weight_decay = settings.weight_decay,
        .scale = std::min(1.0, settings.max_grad_norm / (grad_norm + 1e-6)),
        .max_value = settings.max_grad_value,
        .step = steps,
        .count = online.size(),
        .parameters = online.data(),
        .gradient = gradient.data(),
        .first = first_moment.data(),
        .second = second_moment.data(),
        .largest = largest_moment.data(),
    });
}

}  // namespace upright
