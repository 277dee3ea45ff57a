#include "learner.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <new>
#include <utility>

namespace upright {

namespace {

constexpr std::align_val_t LINE{64};
constexpr Size MOST_PARAMETERS = Size{1} << 48;  // more than any machine holds, and their bytes still are a number

void clear(float* values, Size count) { std::memset(values, 0, static_cast<std::size_t>(count) * sizeof(float)); }

}  // namespace

double memory_of_machine() {
    return static_cast<double>(sysconf(_SC_PHYS_PAGES)) * static_cast<double>(sysconf(_SC_PAGESIZE));
}

Buffer::Buffer(Size size) : size_(size) {
    const auto bytes = static_cast<std::size_t>(size) * sizeof(float);
    data_.reset(static_cast<float*>(::operator new[](bytes, LINE)));
    std::memset(data_.get(), 0, bytes);
}

void Buffer::Free::operator()(float* data) const { ::operator delete[](data, LINE); }

// The architecture, and what it needs

Learner::Learner(const Settings& given, const Kernels& table) : settings(given), kernels(table) {
    const LossSettings& loss = settings.loss;
    Size features = settings.inputs;
    for (std::size_t i = 0; i + 1 < settings.widths.size(); ++i) {
        torso_.push_back(layer(features, settings.widths[i], false, true));
        features = settings.widths[i];
    }
    // Of implicit quantiles, a fraction is a column of its own in the head.
    const bool implicit = settings.cosines > 0;
    const Size outputs = implicit ? 1 : loss.outputs;
    advantage_ = stream(features, loss.actions * outputs);
    if (settings.dueling) value_ = stream(features, outputs);
    if (implicit) embedding_ = layer(settings.cosines, features, false, false);

    // `layer` has counted the parameters in `size_` meanwhile.
    Sizes sizes{{&online, size_}, {&target, size_}, {&gradient, size_}};
    if (settings.optimizer != OptimizerKind::sgd)
        for (Buffer* each : {&first_moment, &second_moment}) sizes.emplace_back(each, size_);
    if (settings.amsgrad) sizes.emplace_back(&largest_moment, size_);
    if (settings.noisy)
        for (Noise* noise : {&online_noise_, &target_noise_}) {
            sizes.emplace_back(&noise->drawn, noise_size);
            sizes.emplace_back(&noise->weights, size_);
        }
    lay_out(learning_, sizes);
    lay_out(asking_, sizes);
    const Size wide = widest();
    for (Buffer* each : {&obs_, &next_obs_, &rows_}) sizes.emplace_back(each, padded(settings.inputs) * PANEL);
    sizes.emplace_back(&block_, PANEL * PANEL);
    sizes.emplace_back(&scratch_, std::max(loss_scratch(loss), wide * PANEL));
    for (Buffer* each : {&output_, &output_gradient_}) sizes.emplace_back(each, loss.actions * loss.outputs * PANEL);
    sizes.emplace_back(&target_next_, loss.actions * std::max(loss.outputs, loss.targets) * PANEL);
    sizes.emplace_back(&policy_output_, loss.actions * std::max(loss.outputs, settings.policy_fractions) * PANEL);
    for (Buffer* each : {&q_, &q_next_, &allowed_, &next_allowed_}) sizes.emplace_back(each, loss.actions * PANEL);
    sizes.emplace_back(&value_gradient_, outputs * PANEL);
    if (implicit) {
        sizes.emplace_back(&fractions_, PANEL);
        sizes.emplace_back(&cosines_, padded(settings.cosines) * PANEL);
        for (Buffer* each : {&embedded_, &mixed_, &mixed_gradient_}) sizes.emplace_back(each, padded(features) * PANEL);
        sizes.emplace_back(&head_output_, loss.actions * PANEL);
    }
    sizes.emplace_back(&features_gradient_, features * PANEL);
    for (Buffer& each : hidden_gradient_) sizes.emplace_back(&each, wide * PANEL);

    double bytes = 0;
    for (const auto& [buffer, size] : sizes) bytes += static_cast<double>(size) * sizeof(float);
    if (bytes > memory_of_machine()) throw std::bad_alloc();
    for (const auto& [buffer, size] : sizes) *buffer = Buffer(size);
}

Learner::Layer Learner::layer(Size inputs, Size outputs, bool noisy, bool hidden) {
    Layer result{};
    result.inputs = inputs;
    result.outputs = outputs;
    result.noisy = noisy;
    result.hidden = hidden;
    const auto claim = [this](Size count) {
        if (count > MOST_PARAMETERS - size_) throw std::bad_alloc();
        return std::exchange(size_, size_ + count);
    };
    result.weight = claim(outputs * padded(inputs));
    result.bias = claim(padded(outputs));
    if (noisy) {
        result.weight_sigma = claim(outputs * padded(inputs));
        result.bias_sigma = claim(padded(outputs));
        result.noise = std::exchange(noise_size, noise_size + inputs + outputs);
    }
    if (hidden && settings.layer_norm) {
        result.gain = claim(padded(outputs));
        result.shift = claim(padded(outputs));
    }
    return result;
}

Learner::Stream Learner::stream(Size inputs, Size outputs) {
    Stream result;
    if (!settings.widths.empty()) {
        result.push_back(layer(inputs, settings.widths.back(), settings.noisy, true));
        inputs = settings.widths.back();
    }
    result.push_back(layer(inputs, outputs, settings.noisy, false));
    return result;
}

void Learner::lay_out(const Stream& stream, std::vector<Trace>& traces, Sizes& sizes) const {
    traces = std::vector<Trace>(stream.size());
    for (std::size_t i = 0; i < stream.size(); ++i) {
        if (!stream[i].hidden) continue;
        const Size size = padded(stream[i].outputs) * PANEL;
        sizes.emplace_back(&traces[i].output, size);
        if (settings.activation == Activation::silu) sizes.emplace_back(&traces[i].before_activation, size);
        if (settings.layer_norm) sizes.emplace_back(&traces[i].normalised, size);
        if (settings.layer_norm) sizes.emplace_back(&traces[i].inverse_deviation, PANEL);
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
    for (const Stream* stream : {&torso_, &advantage_, &value_})
        for (const Layer& each : *stream)
            if (each.hidden) result = std::max(result, each.outputs);
    return result;
}

// Noise

const float* Learner::View::at(const Layer& layer, Size place) const {
    return (noise != nullptr && layer.noisy ? noise->weights : parameters).data() + place;
}

void Learner::set_noise(bool of_target, const float* drawn) {
    Noise& noise = of_target ? target_noise_ : online_noise_;
    for (Size i = 0; i < noise_size; ++i)
        noise.drawn.data()[i] = std::copysign(std::sqrt(std::fabs(drawn[i])), drawn[i]);
    add_noise(of_target ? target : online, noise);
}

void Learner::add_noise(const Buffer& parameters, Noise& noise) const {
    const float one = 1;
    const float* from = parameters.data();
    float* to = noise.weights.data();
    for (const Stream* stream : {&advantage_, &value_})
        for (const Layer& l : *stream) {
            const float *of_input = noise.drawn.data() + l.noise, *of_output = of_input + l.inputs;
            kernels.add_noise(l.outputs, l.inputs, l.row(), from + l.weight, from + l.weight_sigma, of_output, of_input,
                              to + l.weight);
            kernels.add_noise(1, l.outputs, 0, from + l.bias, from + l.bias_sigma, &one, of_output, to + l.bias);
        }
}

// ∂σ = ∂(μ + σ ε) ε, the latter being what the weights' gradient holds.
void Learner::sigma_gradient(const Stream& stream) {
    const float one = 1;
    float* g = gradient.data();
    for (const Layer& l : stream) {
        const float *of_input = online_noise_.drawn.data() + l.noise, *of_output = of_input + l.inputs;
        kernels.noise_gradient(l.outputs, l.inputs, l.row(), g + l.weight, of_output, of_input, g + l.weight_sigma);
        kernels.noise_gradient(1, l.outputs, 0, g + l.bias, &one, of_output, g + l.bias_sigma);
    }
}

// Forward

template <typename Number>
void Learner::gather(const Number* rows, const std::int64_t* place, Size count, Size columns, float* panel) {
    const Size inputs = settings.inputs, row = padded(inputs);
    for (Size b = 0; b < count; ++b) {
        const Number* from = rows + (place == nullptr ? b : place[b]) * inputs;
        float* to = rows_.data() + b * row;
        for (Size i = 0; i < inputs; ++i) to[i] = static_cast<float>(from[i]);
    }
    if (columns == 1) {
        std::memcpy(panel, rows_.data(), static_cast<std::size_t>(inputs) * sizeof(float));
        return;
    }
    clear(rows_.data() + count * row, (columns - count) * row);
    kernels.transpose(columns, row, rows_.data(), row, panel, columns);
}

const float* Learner::forward(const View& view, const Stream& stream, std::vector<Trace>& traces, const float* input,
                              Size columns, float* last) const {
    for (std::size_t i = 0; i < stream.size(); ++i) {
        const Layer& l = stream[i];
        Trace& trace = traces[i];
        float* output = l.hidden ? trace.output.data() : last;
        const float *weight = view.at(l, l.weight), *bias = view.at(l, l.bias);
        if (columns == 1)
            kernels.multiply_vector(l.outputs, l.inputs, weight, l.row(), input, bias, output);
        else
            kernels.multiply(Start::column, {l.outputs, columns, l.inputs, weight, l.row(), 1, input, columns, output,
                                             columns, bias});
        if (l.hidden) {
            const Size size = l.outputs * columns;
            // The weights' gradient reads whole blocks of 16 rows.
            if (columns > 1) clear(output + size, (padded(l.outputs) - l.outputs) * columns);
            if (settings.layer_norm)
                kernels.normalise(l.outputs, columns, output, view.parameters.data() + l.gain,
                                  view.parameters.data() + l.shift, trace.normalised.data(),
                                  trace.inverse_deviation.data());
            if (settings.activation == Activation::silu)
                std::memcpy(trace.before_activation.data(), output, static_cast<std::size_t>(size) * sizeof(float));
            kernels.activate(settings.activation, size, output);
        }
        input = output;
    }
    return input;
}

void Learner::head(const View& view, Tape& tape, const float* features, Size columns, Size outputs,
                   float* output) const {
    forward(view, advantage_, tape.advantage, features, columns, output);
    if (settings.dueling) {
        forward(view, value_, tape.value, features, columns, tape.state_value.data());
        kernels.duel(settings.loss.actions, outputs, columns, output, tape.state_value.data());
    }
}

void Learner::forward(const View& view, Tape& tape, const float* input, Size count, Size columns,
                      const float* fractions, Size asked, float* output) {
    const float* features = forward(view, torso_, tape.torso, input, columns, nullptr);
    if (settings.cosines > 0)
        implicit_head(view, tape, features, count, columns, fractions, asked, output);
    else
        head(view, tape, features, columns, settings.loss.outputs, output);
}

void Learner::action_values(const View& view, const float* input, Size count, Size columns, float* q) {
    LossSettings loss = settings.loss;
    if (settings.cosines > 0) loss.outputs = settings.policy_fractions;
    forward(view, asking_, input, count, columns, nullptr, loss.outputs, policy_output_.data());
    kernels.action_values(loss, columns, policy_output_.data(), q, scratch_.data());
}

template <typename Number>
void Learner::q_values(Size count, const Number* obs, bool noisy, float* q) {
    const Size actions = settings.loss.actions;
    for (Size begin = 0; begin < count; begin += PANEL) {
        const Size n = std::min(PANEL, count - begin), columns = n == 1 ? 1 : padded(n);
        gather(obs + begin * settings.inputs, nullptr, n, columns, obs_.data());
        action_values(online_view(noisy && settings.noisy), obs_.data(), n, columns, q_.data());
        for (Size b = 0; b < n; ++b)
            for (Size a = 0; a < actions; ++a) q[(begin + b) * actions + a] = q_.data()[a * columns + b];
    }
}

template void Learner::q_values(Size, const float*, bool, float*);
template void Learner::q_values(Size, const std::uint8_t*, bool, float*);

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

void Learner::backward(const Stream& stream, std::vector<Trace>& traces, const float* input, Size columns,
                       float* output_gradient, float* input_gradient, Start input_start, Start start) {
    float* of_output = output_gradient;
    for (std::size_t i = stream.size(); i-- > 0;) {
        const Layer& l = stream[i];
        if (l.hidden) {
            Trace& trace = traces[i];
            const Buffer& seen = settings.activation == Activation::silu ? trace.before_activation : trace.output;
            kernels.deactivate(settings.activation, l.outputs * columns, seen.data(), of_output);
            if (settings.layer_norm)
                kernels.denormalise(l.outputs, columns, of_output, online.data() + l.gain, trace.normalised.data(),
                                    trace.inverse_deviation.data(), gradient.data() + l.gain,
                                    gradient.data() + l.shift, scratch_.data());
        }
        weight_gradient(l, i == 0 ? input : traces[i - 1].output.data(), of_output, columns, start);
        float* of_input = i == 0 ? input_gradient : hidden_gradient_[i % 2].data();
        if (of_input != nullptr)  // ∂x = Wᵀ ∂y
            kernels.multiply(i == 0 ? input_start : Start::zero,
                             {l.inputs, columns, l.outputs, online_view(settings.noisy).at(l, l.weight), 1, l.row(),
                              of_output, columns, of_input, columns});
        of_output = of_input;
    }
}

void Learner::backward_head(const float* features, Size columns, Size outputs, float* output_gradient,
                            float* features_gradient, Start start) {
    if (settings.dueling)
        kernels.separate(settings.loss.actions, outputs, columns, output_gradient, value_gradient_.data());
    backward(advantage_, learning_.advantage, features, columns, output_gradient, features_gradient, Start::zero,
             start);
    if (settings.dueling)
        backward(value_, learning_.value, features, columns, value_gradient_.data(), features_gradient,
                 Start::accumulate, start);
}

void Learner::backward(const float* input, Size count, Size columns, const float* fractions, Start start) {
    const float* features = torso_.empty() ? input : learning_.torso.back().output.data();
    if (settings.cosines > 0)
        implicit_backward(features, count, columns, fractions, start);
    else
        backward_head(features, columns, settings.loss.outputs, output_gradient_.data(),
                      torso_.empty() ? nullptr : features_gradient_.data(), start);
    backward(torso_, learning_.torso, input, columns, features_gradient_.data(), nullptr, Start::zero, start);
}

void Learner::clear_norm_gradient(const Stream& stream) {
    for (const Layer& l : stream)
        if (l.hidden && settings.layer_norm) {
            clear(gradient.data() + l.gain, l.outputs);
            clear(gradient.data() + l.shift, l.outputs);
        }
}

// The update

bool Learner::Measures::finite() const { return std::isfinite(loss) && std::isfinite(norm); }

Learner::Measures Learner::update(const Columns& memory, Size count, const std::int64_t* place, const double* weight,
                                  const float* fractions, const float* target_fractions, double learning_rate,
                                  float* priority) {
    const LossSettings& loss = settings.loss;
    std::int32_t action[PANEL];
    float reward[PANEL], discount[PANEL], share[PANEL], per_sample[PANEL], of_panel[PANEL];
    double total = 0, q_total = 0;
    for (const Stream* each : {&torso_, &advantage_, &value_}) clear_norm_gradient(*each);

    for (Size begin = 0; begin < count; begin += PANEL) {
        const Size n = std::min(PANEL, count - begin), columns = padded(n);
        const std::int64_t* here = place + begin;
        for (Size b = 0; b < columns; ++b) {
            const bool is_sample = b < n;  // else it fills the panel, and weighs nothing
            action[b] = is_sample ? static_cast<std::int32_t>(memory.action[here[b]]) : 0;
            reward[b] = is_sample ? static_cast<float>(memory.reward[here[b]]) : 0;
            discount[b] = is_sample ? static_cast<float>(memory.discount[here[b]]) : 0;
            const double importance = is_sample && weight != nullptr ? weight[begin + b] : 1;
            share[b] = is_sample ? static_cast<float>(importance / static_cast<double>(count)) : 0;
            for (const auto& [from, to] : {std::pair{memory.mask, &allowed_}, {memory.next_mask, &next_allowed_}})
                for (Size a = 0; from != nullptr && a < loss.actions; ++a)
                    to->data()[a * columns + b] = !is_sample || from[here[b] * loss.actions + a] ? 1 : 0;
        }
        if (memory.bytes) {
            gather(static_cast<const std::uint8_t*>(memory.obs), here, n, columns, obs_.data());
            gather(static_cast<const std::uint8_t*>(memory.next_obs), here, n, columns, next_obs_.data());
        } else {
            gather(static_cast<const float*>(memory.obs), here, n, columns, obs_.data());
            gather(static_cast<const float*>(memory.next_obs), here, n, columns, next_obs_.data());
        }
        const View online_network = online_view(settings.noisy), target_network = target_view();
        const bool implicit = settings.cosines > 0;
        const float* asked = implicit ? fractions + begin * loss.outputs : nullptr;
        forward(target_network, asking_, next_obs_.data(), n, columns,
                implicit ? target_fractions + begin * loss.targets : nullptr, loss.targets, target_next_.data());
        if (loss.double_q)
            action_values(online_network, next_obs_.data(), n, columns, q_next_.data());
        else if (implicit)  // by fractions of its own
            action_values(target_network, next_obs_.data(), n, columns, q_next_.data());
        else
            kernels.action_values(loss, columns, target_next_.data(), q_next_.data(), scratch_.data());
        if (loss.munchausen) action_values(target_network, obs_.data(), n, columns, q_.data());
        forward(online_network, learning_, obs_.data(), n, columns, asked, loss.outputs, output_.data());

        kernels.temporal_difference(
            loss, {columns, n, output_.data(), target_next_.data(), q_next_.data(), q_.data(), asked, action, reward,
                   discount, share, memory.mask == nullptr ? nullptr : allowed_.data(),
                   memory.next_mask == nullptr ? nullptr : next_allowed_.data(), output_gradient_.data(), per_sample,
                   of_panel, scratch_.data()});
        for (Size b = 0; b < n; ++b) {
            total += static_cast<double>(share[b]) * per_sample[b];
            priority[begin + b] = of_panel[b];
        }
        kernels.action_values(loss, columns, output_.data(), q_.data(), scratch_.data());
        for (Size a = 0; a < loss.actions; ++a)
            for (Size b = 0; b < n; ++b) q_total += q_.data()[a * columns + b];

        backward(obs_.data(), n, columns, asked, begin == 0 ? Start::zero : Start::accumulate);
    }
    if (settings.noisy)
        for (const Stream* each : {&advantage_, &value_}) sigma_gradient(*each);

    const double norm = std::sqrt(kernels.sum_of_squares(gradient.size(), gradient.data()));
    const Measures measures{total, norm, q_total / static_cast<double>(count * loss.actions)};
    if (measures.finite()) {
        ++steps;
        const double scale = std::min(1.0, settings.max_norm / (norm + 1e-6));
        kernels.optimize({settings.optimizer, settings.amsgrad, learning_rate, settings.epsilon, settings.weight_decay,
                          scale, settings.max_value, steps, online.size(), online.data(), gradient.data(),
                          first_moment.data(), second_moment.data(), largest_moment.data()});
    }
    return measures;
}

}  // namespace upright
