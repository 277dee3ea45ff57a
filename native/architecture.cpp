// Where a network's parameters lie in their vector, and the memory that a learner needs.
#include <algorithm>
#include <new>
#include <utility>

#include "learner.h"

namespace upright {

namespace {

constexpr Size MOST_PARAMETERS = Size{1} << 48;  // more than any machine holds, and their bytes still are a number

}  // namespace

Learner::Learner(const Settings& given, const Kernels& table) : settings(given), kernels(table) {
    const LossSettings& loss = settings.loss;
    for (const LayerSettings& each : settings.layers) {
        const Layer layer = claim(each);
        switch (layer.stream) {
            case Stream::torso: torso_.push_back(layer); break;
            case Stream::advantage: advantage_.push_back(layer); break;
            case Stream::value: value_.push_back(layer); break;
            case Stream::embedding: embedding_ = layer; break;
        }
    }
    inputs = torso_.empty() ? features() : torso_.front().inputs;

    Sizes sizes{{&online, size_}, {&target, size_}, {&gradient, size_}};
    if (settings.optimizer != OptimizerKind::sgd)
        for (Buffer* each : {&first_moment, &second_moment}) sizes.emplace_back(each, size_);
    if (settings.amsgrad) sizes.emplace_back(&largest_moment, size_);
    if (is_noisy())
        for (Noise* noise : {&online_noise_, &target_noise_}) {
            sizes.emplace_back(&noise->drawn, noise_size);
            sizes.emplace_back(&noise->weights, size_);
        }
    lay_out(learning_, sizes);
    lay_out(asking_, sizes);
    const Size wide = widest();
    for (Buffer* each : {&obs_, &next_obs_, &rows_}) sizes.emplace_back(each, padded(inputs) * PANEL);
    sizes.emplace_back(&block_, PANEL * PANEL);
    sizes.emplace_back(&scratch_, std::max(loss_scratch(loss), wide * PANEL));
    for (Buffer* each : {&output_, &output_gradient_}) sizes.emplace_back(each, loss.actions * loss.outputs * PANEL);
    sizes.emplace_back(&target_next_, loss.actions * std::max(loss.outputs, loss.targets) * PANEL);
    sizes.emplace_back(&policy_output_, loss.actions * std::max(loss.outputs, settings.policy_fractions) * PANEL);
    for (Buffer* each : {&q_, &q_next_, &allowed_, &next_allowed_}) sizes.emplace_back(each, loss.actions * PANEL);
    sizes.emplace_back(&value_gradient_, loss.outputs * PANEL);
    if (is_implicit()) {
        sizes.emplace_back(&fractions_, PANEL);
        sizes.emplace_back(&cosines_, padded(embedding_.inputs) * PANEL);
        for (Buffer* each : {&embedded_, &mixed_, &mixed_gradient_})
            sizes.emplace_back(each, padded(features()) * PANEL);
        sizes.emplace_back(&head_output_, loss.actions * PANEL);
    }
    sizes.emplace_back(&features_gradient_, features() * PANEL);
    for (Buffer& each : hidden_gradient_) sizes.emplace_back(&each, wide * PANEL);

    double bytes = 0;
    for (const auto& [buffer, size] : sizes) bytes += static_cast<double>(size) * sizeof(float);
    if (bytes > memory_of_machine()) throw std::bad_alloc();
    for (const auto& [buffer, size] : sizes) *buffer = Buffer(size);
}

// Counts the layer's parameters in `size_`, and its noise in `noise_size`.
Learner::Layer Learner::claim(const LayerSettings& given) {
    Layer result{};
    static_cast<LayerSettings&>(result) = given;
    const auto take = [this](Size count) {
        if (count > MOST_PARAMETERS - size_) throw std::bad_alloc();
        return std::exchange(size_, size_ + count);
    };
    result.weight = take(given.outputs * padded(given.inputs));
    result.bias = take(padded(given.outputs));
    if (given.noisy) {
        result.weight_sigma = take(given.outputs * padded(given.inputs));
        result.bias_sigma = take(padded(given.outputs));
        result.noise = std::exchange(noise_size, noise_size + given.inputs + given.outputs);
    }
    if (given.norm) {
        result.gain = take(padded(given.outputs));
        result.shift = take(padded(given.outputs));
    }
    return result;
}

void Learner::lay_out(const Layers& layers, std::vector<Trace>& traces, Sizes& sizes) const {
    traces = std::vector<Trace>(layers.size());
    for (std::size_t i = 0; i < layers.size(); ++i) {
        if (!layers[i].activation) continue;
        const Size size = padded(layers[i].outputs) * PANEL;
        sizes.emplace_back(&traces[i].output, size);
        if (layers[i].activation == Activation::silu) sizes.emplace_back(&traces[i].before_activation, size);
        if (layers[i].norm) sizes.emplace_back(&traces[i].normalised, size);
        if (layers[i].norm) sizes.emplace_back(&traces[i].inverse_deviation, PANEL);
    }
}

void Learner::lay_out(Tape& tape, Sizes& sizes) const {
    lay_out(torso_, tape.torso, sizes);
    lay_out(advantage_, tape.advantage, sizes);
    lay_out(value_, tape.value, sizes);
    sizes.emplace_back(&tape.state_value, settings.loss.outputs * PANEL);
}

Size Learner::widest() const {
    Size result = 0;
    for (const Layers* layers : streams())
        for (const Layer& each : *layers)
            if (each.activation) result = std::max(result, each.outputs);
    return result;
}

}  // namespace upright
