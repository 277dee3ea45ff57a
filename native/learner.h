// A multilayer perceptron of the DQN family that learns: online and target parameters, gradient and optimiser.
//
// An update goes through the batch a panel of 64 samples at a time: gather, ask the target network, ask the online
// network, compare, go back. What a panel needs stays in the cache, and no batch is too large.
//
// The parameters of a network are one vector in the order of upright.initialisation.parameter_shapes, in which each row
// of a matrix, and each vector, is padded with zeros to a multiple of 16: so no product has an edge.
#pragma once

#include <algorithm>
#include <array>
#include <memory>
#include <utility>
#include <vector>

#include "kernels.h"

namespace upright {

// The bytes of memory that this machine has, used or not.
double memory_of_machine();

// Floats that begin on a cache line, all 0 at first.
class Buffer {
  public:
    Buffer() = default;
    explicit Buffer(Size size);
    float* data() { return data_.get(); }
    const float* data() const { return data_.get(); }
    Size size() const { return size_; }

  private:
    struct Free {
        void operator()(float* data) const;
    };
    std::unique_ptr<float[], Free> data_;
    Size size_ = 0;
};

struct Settings {
    Size inputs;
    std::vector<Size> widths;  // of the hidden layers
    Activation activation;
    bool layer_norm, dueling, noisy;
    LossSettings loss;
    Size cosines, policy_fractions;  // of implicit quantiles, at most 64 fractions; else 0
    OptimizerKind optimizer;
    bool amsgrad;
    double epsilon, weight_decay;
    double max_norm, max_value;  // of the gradient; infinite for none
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

    Size noise_size = 0;
    // The normal numbers [noise_size] that the noise is made of: of each noisy layer, inputs then outputs.
    void set_noise(bool of_target, const float* drawn);

    // Q(s, ·) [count, actions] of the online network for obs [count, inputs], with its noise or without.
    template <typename Number>
    void q_values(Size count, const Number* obs, bool noisy, float* q);

    struct Measures {
        double loss, norm;  // of the gradient, before it is clipped
        double mean_q;      // of the online network over the batch
        bool finite() const;
    };
    // One gradient step on the transitions at `place` [count], with weight [count] or null; fills priority [count].
    // Implicit quantiles are asked for at fractions [count, outputs] and target_fractions [count, targets].
    // When what it measures is not finite, the parameters stay as they are.
    Measures update(const Columns& columns, Size count, const std::int64_t* place, const double* weight,
                    const float* fractions, const float* target_fractions, double learning_rate, float* priority);

    void update_target(double share) {
        kernels.move_towards(online.size(), static_cast<float>(share), online.data(), target.data());
    }

  private:
    // A linear layer and what follows it. The numbers are where its parameters begin in the vector.
    struct Layer {
        Size inputs, outputs;
        Size weight, bias;
        bool noisy;
        Size weight_sigma, bias_sigma, noise;
        bool hidden;  // normalised if the settings say so, and activated
        Size gain, shift;
        Size row() const { return padded(inputs); }  // from one row of the weight to the next
    };
    using Stream = std::vector<Layer>;
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

    Layer layer(Size inputs, Size outputs, bool noisy, bool hidden);
    Stream stream(Size inputs, Size outputs);
    void lay_out(const Stream& stream, std::vector<Trace>& traces, Sizes& sizes) const;
    void lay_out(Tape& tape, Sizes& sizes) const;
    Size widest() const;
    View online_view(bool noisy) const { return {online, noisy ? &online_noise_ : nullptr}; }
    View target_view() const { return {target, settings.noisy ? &target_noise_ : nullptr}; }
    void add_noise(const Buffer& parameters, Noise& noise) const;

    template <typename Number>
    void gather(const Number* rows, const std::int64_t* place, Size count, Size columns, float* panel);
    const float* forward(const View& view, const Stream& stream, std::vector<Trace>& traces, const float* input,
                         Size columns, float* last) const;
    // The streams of the head: features [·, columns] to output [actions · outputs, columns].
    void head(const View& view, Tape& tape, const float* features, Size columns, Size outputs, float* output) const;
    // The whole network for the first `count` samples of a panel. Implicit quantiles are asked for at fractions
    // [count, asked], or at as many midpoints.
    void forward(const View& view, Tape& tape, const float* input, Size count, Size columns, const float* fractions,
                 Size asked, float* output);
    // Q(s, ·) [actions, columns], by which actions are chosen.
    void action_values(const View& view, const float* input, Size count, Size columns, float* q);

    // Of implicit quantiles (implicit.cpp): the head for some samples' fractions, a column each, and what it is for.
    Size samples_at_once(Size asked) const { return std::max<Size>(1, PANEL / asked); }
    Size embed(const View& view, const float* features, Size columns, Size samples, const float* fractions,
               Size asked);
    void implicit_head(const View& view, Tape& tape, const float* features, Size count, Size columns,
                       const float* fractions, Size asked, float* output);
    void implicit_backward(const float* features, Size count, Size columns, const float* fractions, Start start);

    // Adds to the gradient what a panel's output gradient gives, which it overwrites.
    void backward(const float* input, Size count, Size columns, const float* fractions, Start start);
    void backward_head(const float* features, Size columns, Size outputs, float* output_gradient,
                       float* features_gradient, Start start);
    void backward(const Stream& stream, std::vector<Trace>& traces, const float* input, Size columns,
                  float* output_gradient, float* input_gradient, Start input_start, Start start);
    void weight_gradient(const Layer& layer, const float* input, const float* output_gradient, Size columns,
                         Start start);
    void clear_norm_gradient(const Stream& stream);
    void sigma_gradient(const Stream& stream);

    Size size_ = 0;  // of a vector of parameters
    Stream torso_, advantage_, value_;
    Noise online_noise_, target_noise_;
    Tape learning_, asking_;
    Buffer obs_, next_obs_, rows_, block_, scratch_;
    Buffer output_, target_next_, policy_output_, q_, q_next_, allowed_, next_allowed_;
    Buffer output_gradient_, value_gradient_, features_gradient_;
    std::array<Buffer, 2> hidden_gradient_;
    Layer embedding_{};
    Buffer fractions_, cosines_, embedded_, mixed_, mixed_gradient_, head_output_;
};

}  // namespace upright
