// A multilayer perceptron of the DQN family that learns: online and target parameters, gradient and optimiser.
//
// An update goes through the batch a panel of 64 samples at a time: gather, ask the target network, ask the online
// network, compare, go back. What a panel needs stays in the cache, and no batch is too large.
//
// The parameters of a network are one vector in the order of its layers (upright.learners.layout), in which each row of
// a matrix, and each vector, is padded with zeros to a multiple of 16: so no product has an edge.
#pragma once

#include <algorithm>
#include <array>
#include <optional>
#include <utility>
#include <vector>

#include "buffer.h"
#include "kernels.h"

namespace upright {

enum class Stream { torso, advantage, value, embedding };

// A fully connected layer and what follows it.
struct LayerSettings {
    Stream stream;
    bool noisy;
    Size inputs, outputs;
    bool norm;
    std::optional<Activation> activation;  // of hidden layers: all but the last of advantage and value, and the embedding
};

struct Settings {
    std::vector<LayerSettings> layers;
    LossSettings loss;
    Size policy_fractions, cosines;  // of implicit quantiles, at most 64 fractions; else 0
    OptimizerKind optimizer;
    bool amsgrad;
    double optimizer_eps, weight_decay;
    double max_grad_norm, max_grad_value;  // infinite for none
};

// The columns of a replay memory.
struct Columns {
    bool bytes;  // observations are uint8, else float
    const void* obs;
    const void* next_obs;
    const std::int64_t* action;
    const double* reward;
    const double* discount;
    const std::uint8_t* mask;  // 0 where an action is not allowed; null without masks, as is the next
    const std::uint8_t* next_mask;
};

// Rows of these columns.
struct Batch {
    Size count;
    const std::int64_t* place;  // [count]
    const double* weight;       // [count], or null for 1
    // Where implicit quantiles are asked for, [count, outputs] and [count, targets]; else null
    const float* fractions;
    const float* target_fractions;
};

// One of the numbers that an update measures, with the name of its metric, train/…, and of what a learner's state keeps
// of it, metrics/….
struct Measure {
    const char* name;
    bool is_mean;  // reported as the mean over the updates since the last report, else as the last update's
    double value;
};

class Learner {
  public:
    // Throws std::bad_alloc when this machine has not the memory for all that the learner holds, before it takes any.
    Learner(const Settings& settings, const Kernels& kernels);

    const Settings settings;
    const Kernels& kernels;

    Buffer online, target, gradient;
    // exp_avg or grad_avg; exp_avg_sq or square_avg; max_exp_avg_sq. Empty where the optimiser has none.
    Buffer first_moment, second_moment, largest_moment;
    std::int64_t steps = 0;  // of the optimiser

    Size inputs = 0;      // of the network
    std::vector<float> scale;  // [inputs]: factors for observations of bytes, or empty
    Size noise_size = 0;  // 0 without noisy layers
    // The normal numbers [noise_size] that the noise is made of: of each noisy layer, inputs then outputs.
    void set_noise(bool of_target, const float* drawn);

    // Of the online network for obs [count, inputs], with its noise or without: Q(s, ·) [count, actions], or the
    // outputs that a choice of action averages [count, actions · outputs_asked()].
    enum class Answer { q_values, outputs };
    template <typename Number>
    void ask(Answer answer, Size count, const Number* obs, bool noisy, float* result);
    Size outputs_asked() const { return is_implicit() ? settings.policy_fractions : settings.loss.outputs; }

    // Of the last update; all 0 before the first. Which there are is written in learner.cpp.
    std::vector<Measure> measures = no_measures();

    // One gradient step; fills priority [count]. Where the loss or the gradient's norm is not finite, it returns false
    // and leaves the parameters as they are.
    bool update(const Columns& memory, const Batch& batch, double learning_rate, float* priority);

    void update_target(double share) {
        kernels.move_towards(online.size(), static_cast<float>(share), online.data(), target.data());
    }

    bool is_implicit() const { return embedding_.outputs > 0; }

  private:
    // A layer's settings, and where its parameters begin in the vector.
    struct Layer : LayerSettings {
        Size weight, bias;
        Size weight_sigma, bias_sigma, noise;
        Size gain, shift;
        Size row() const { return padded(inputs); }  // from one row of the weight to the next
    };
    using Layers = std::vector<Layer>;
    using Sizes = std::vector<std::pair<Buffer*, Size>>;

    // A layer's output, and what going back needs beside it.
    struct Trace {
        Buffer output, before_activation, normalised, inverse_deviation;
    };
    // What a pass through the network leaves behind.
    struct Tape {
        std::vector<Trace> torso, advantage, value;
        Buffer state_value;
    };

    // The parameters of one of the two networks in use, and its noise.
    struct Noise {
        Buffer drawn;   // f(x) = sgn(x)√|x| of each normal number   (Fortunato 2018, section 3)
        Buffer weights; // with noise, at the places of those without
    };
    struct View {
        const Buffer& parameters;
        const Noise* noise;  // null for none
        const float* at(const Layer& layer, Size place) const;
    };

    // The samples of a batch that a panel holds, whose observations are in `obs_` and `next_obs_`, and whose masks, if
    // there are any, in `allowed_` and `next_allowed_`. The columns past the samples weigh nothing.
    struct Panel {
        Size begin, samples, columns;
        bool has_masks;
        std::int32_t action[PANEL];
        float reward[PANEL], discount[PANEL];
        float share[PANEL];  // of the sample in the loss: its importance weight / batch size
        float per_sample[PANEL], priority[PANEL];  // to be filled
    };

    // architecture.cpp
    Layer claim(const LayerSettings& given);
    void lay_out(const Layers& layers, std::vector<Trace>& traces, Sizes& sizes) const;
    void lay_out(Tape& tape, Sizes& sizes) const;
    Size widest() const;
    std::array<const Layers*, 3> streams() const { return {&torso_, &advantage_, &value_}; }
    Size features() const { return advantage_.front().inputs; }  // that the torso gives

    // passes.cpp
    bool is_noisy() const { return noise_size > 0; }
    View online_view(bool noisy) const { return {online, noisy ? &online_noise_ : nullptr}; }
    View target_view() const { return {target, is_noisy() ? &target_noise_ : nullptr}; }
    const float* forward(const View& view, const Layers& layers, std::vector<Trace>& traces, const float* input,
                         Size columns, float* last) const;
    // The streams of the head: features [·, columns] to output [actions · outputs, columns].
    void head(const View& view, Tape& tape, const float* features, Size columns, Size outputs, float* output) const;
    // The whole network for the first `count` samples of a panel. Implicit quantiles are asked for at fractions
    // [count, asked], or at as many midpoints.
    void forward(const View& view, Tape& tape, const float* input, Size count, Size columns, const float* fractions,
                 Size asked, float* output);
    // What a choice of action averages, in `policy_output_`, and Q(s, ·) [actions, columns] by it.
    void policy_output(const View& view, const float* input, Size count, Size columns);
    void action_values(const View& view, const float* input, Size count, Size columns, float* q);
    // Adds to the gradient what a panel's output gradient gives, which it overwrites.
    void backward(const float* input, Size count, Size columns, const float* fractions, Start start);
    void backward_head(const float* features, Size columns, Size outputs, float* output_gradient,
                       float* features_gradient, Start start);
    void backward(const Layers& layers, std::vector<Trace>& traces, const float* input, Size columns,
                  float* output_gradient, float* input_gradient, Start input_start, Start start);
    void weight_gradient(const Layer& layer, const float* input, const float* output_gradient, Size columns,
                         Start start);
    void clear_norm_gradient();
    void sigma_gradient();

    // implicit.cpp: of implicit quantiles, the head for some samples' fractions, a column each, and what it is for
    Size samples_at_once(Size asked) const { return std::max<Size>(1, PANEL / asked); }
    Size embed(const View& view, const float* features, Size columns, Size samples, const float* fractions,
               Size asked);
    void implicit_head(const View& view, Tape& tape, const float* features, Size count, Size columns,
                       const float* fractions, Size asked, float* output);
    void implicit_backward(const float* features, Size count, Size columns, const float* fractions, Start start);

    // learner.cpp
    static std::vector<Measure> no_measures();
    template <typename Number>
    void gather(const Number* rows, const std::int64_t* place, Size count, Size columns, float* panel);
    void gather(const Columns& memory, const Batch& batch, Size begin, Panel& panel);
    LossPanel ask_networks(Panel& panel, const Batch& batch);
    void optimize(double learning_rate, double grad_norm);

    Size size_ = 0;  // of a vector of parameters
    Layers torso_, advantage_, value_;
    Layer embedding_{};
    Noise online_noise_, target_noise_;
    Tape learning_, asking_;
    Buffer obs_, next_obs_, rows_, block_, scratch_;
    Buffer output_, target_next_, policy_output_, q_, q_next_, allowed_, next_allowed_;
    Buffer output_gradient_, value_gradient_, features_gradient_;
    std::array<Buffer, 2> hidden_gradient_;
    Buffer fractions_, cosines_, embedded_, mixed_, mixed_gradient_, head_output_;
};

}  // namespace upright
