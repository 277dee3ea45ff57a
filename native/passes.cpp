// A network's noise, and the passes through it: forward to its outputs, backward to its gradient.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "learner.h"

namespace upright {

// Noise

const float* Learner::View::at(const Layer& layer, Size place) const {
    return (noise != nullptr && layer.noisy ? noise->weights : parameters).data() + place;
}

void Learner::set_noise(bool of_target, const float* drawn) {
    Noise& noise = of_target ? target_noise_ : online_noise_;
    for (Size i = 0; i < noise_size; ++i)
        noise.drawn.data()[i] = std::copysign(std::sqrt(std::fabs(drawn[i])), drawn[i]);
    const float one = 1;
    const float* from = (of_target ? target : online).data();
    float* to = noise.weights.data();
    for (const Layers* layers : streams())
        for (const Layer& l : *layers) {
            if (!l.noisy) continue;
            const float *of_input = noise.drawn.data() + l.noise, *of_output = of_input + l.inputs;
            kernels.add_noise(l.outputs, l.inputs, l.row(), from + l.weight, from + l.weight_sigma, of_output, of_input,
                              to + l.weight);
            kernels.add_noise(1, l.outputs, 0, from + l.bias, from + l.bias_sigma, &one, of_output, to + l.bias);
        }
}

// ∂σ = ∂(μ + σ ε) ε, the latter being what the weights' gradient holds.
void Learner::sigma_gradient() {
    const float one = 1;
    float* g = gradient.data();
    for (const Layers* layers : streams())
        for (const Layer& l : *layers) {
            if (!l.noisy) continue;
            const float *of_input = online_noise_.drawn.data() + l.noise, *of_output = of_input + l.inputs;
            kernels.noise_gradient(l.outputs, l.inputs, l.row(), g + l.weight, of_output, of_input, g + l.weight_sigma);
            kernels.noise_gradient(1, l.outputs, 0, g + l.bias, &one, of_output, g + l.bias_sigma);
        }
}

// Forward

const float* Learner::forward(const View& view, const Layers& layers, std::vector<Trace>& traces, const float* input,
                              Size columns, float* last) const {
    for (std::size_t i = 0; i < layers.size(); ++i) {
        const Layer& l = layers[i];
        Trace& trace = traces[i];
        float* output = l.activation ? trace.output.data() : last;
        const float *weight = view.at(l, l.weight), *bias = view.at(l, l.bias);
        if (columns == 1)
            kernels.multiply_vector(l.outputs, l.inputs, weight, l.row(), input, bias, output);
        else
            kernels.multiply(Start::column, {l.outputs, columns, l.inputs, weight, l.row(), 1, input, columns, output,
                                             columns, bias});
        if (l.activation) {
            const Size size = l.outputs * columns, padding = (padded(l.outputs) - l.outputs) * columns;
            // The weights' gradient reads whole blocks of 16 rows.
            if (columns > 1) std::fill_n(output + size, padding, 0.0f);
            if (l.norm)
                kernels.normalise(l.outputs, columns, output, view.parameters.data() + l.gain,
                                  view.parameters.data() + l.shift, trace.normalised.data(),
                                  trace.inverse_deviation.data());
            if (l.activation == Activation::silu)
                std::memcpy(trace.before_activation.data(), output, static_cast<std::size_t>(size) * sizeof(float));
            kernels.activate(*l.activation, size, output);
        }
        input = output;
    }
    return input;
}

void Learner::head(const View& view, Tape& tape, const float* features, Size columns, Size outputs,
                   float* output) const {
    forward(view, advantage_, tape.advantage, features, columns, output);
    if (!value_.empty()) {
        forward(view, value_, tape.value, features, columns, tape.state_value.data());
        kernels.duel(settings.loss.actions, outputs, columns, output, tape.state_value.data());
    }
}

void Learner::forward(const View& view, Tape& tape, const float* input, Size count, Size columns,
                      const float* fractions, Size asked, float* output) {
    const float* features = forward(view, torso_, tape.torso, input, columns, nullptr);
    if (is_implicit())
        implicit_head(view, tape, features, count, columns, fractions, asked, output);
    else
        head(view, tape, features, columns, settings.loss.outputs, output);
}

void Learner::policy_output(const View& view, const float* input, Size count, Size columns) {
    forward(view, asking_, input, count, columns, nullptr, outputs_asked(), policy_output_.data());
}

void Learner::action_values(const View& view, const float* input, Size count, Size columns, float* q) {
    LossSettings loss = settings.loss;
    loss.outputs = outputs_asked();
    policy_output(view, input, count, columns);
    kernels.action_values(loss, columns, policy_output_.data(), q, scratch_.data());
}

// Backward

void Learner::weight_gradient(const Layer& l, const float* input, const float* output_gradient, Size columns,
                              Start start) {
    // ∂W = ∂y xᵀ, in strips of 64 inputs, each of which is transposed first.
    for (Size j = 0; j < l.row(); j += PANEL) {
        const Size width = std::min(PANEL, l.row() - j);
        kernels.transpose(width, columns, input + j * columns, columns, block_.data(), width);
        kernels.multiply(start, {l.outputs, width, columns, output_gradient, columns, 1, block_.data(), width,
                                 gradient.data() + l.weight + j, l.row()});
    }
    kernels.sum_rows(l.outputs, columns, output_gradient, gradient.data() + l.bias, start == Start::accumulate);
}

void Learner::backward(const Layers& layers, std::vector<Trace>& traces, const float* input, Size columns,
                       float* output_gradient, float* input_gradient, Start input_start, Start start) {
    float* of_output = output_gradient;
    for (std::size_t i = layers.size(); i-- > 0;) {
        const Layer& l = layers[i];
        if (l.activation) {
            Trace& trace = traces[i];
            const Buffer& seen = l.activation == Activation::silu ? trace.before_activation : trace.output;
            kernels.deactivate(*l.activation, l.outputs * columns, seen.data(), of_output);
            if (l.norm)
                kernels.denormalise(l.outputs, columns, of_output, online.data() + l.gain, trace.normalised.data(),
                                    trace.inverse_deviation.data(), gradient.data() + l.gain,
                                    gradient.data() + l.shift, scratch_.data());
        }
        weight_gradient(l, i == 0 ? input : traces[i - 1].output.data(), of_output, columns, start);
        float* of_input = i == 0 ? input_gradient : hidden_gradient_[i % 2].data();
        if (of_input != nullptr)  // ∂x = Wᵀ ∂y
            kernels.multiply(i == 0 ? input_start : Start::zero,
                             {l.inputs, columns, l.outputs, online_view(is_noisy()).at(l, l.weight), 1, l.row(),
                              of_output, columns, of_input, columns});
        of_output = of_input;
    }
}

void Learner::backward_head(const float* features, Size columns, Size outputs, float* output_gradient,
                            float* features_gradient, Start start) {
    if (!value_.empty())
        kernels.separate(settings.loss.actions, outputs, columns, output_gradient, value_gradient_.data());
    backward(advantage_, learning_.advantage, features, columns, output_gradient, features_gradient, Start::zero,
             start);
    if (!value_.empty())
        backward(value_, learning_.value, features, columns, value_gradient_.data(), features_gradient,
                 Start::accumulate, start);
}

void Learner::backward(const float* input, Size count, Size columns, const float* fractions, Start start) {
    const float* features = torso_.empty() ? input : learning_.torso.back().output.data();
    if (is_implicit())
        implicit_backward(features, count, columns, fractions, start);
    else
        backward_head(features, columns, settings.loss.outputs, output_gradient_.data(),
                      torso_.empty() ? nullptr : features_gradient_.data(), start);
    backward(torso_, learning_.torso, input, columns, features_gradient_.data(), nullptr, Start::zero, start);
}

void Learner::clear_norm_gradient() {
    for (const Layers* layers : streams())
        for (const Layer& l : *layers)
            if (l.norm)
                for (const Size place : {l.gain, l.shift}) std::fill_n(gradient.data() + place, l.outputs, 0.0f);
}

}  // namespace upright
