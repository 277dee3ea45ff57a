// What the engine computes with, as a table of functions: one table for each instruction set that was compiled in.
//
// A panel holds up to 64 samples feature by feature: [rows, columns], contiguous, a sample a column. So every
// operation on a sample's features or actions runs over the samples of the panel at once. `columns` is 1, or a
// multiple of 16.
#pragma once

#include <cstddef>
#include <cstdint>

namespace upright {

using Size = std::ptrdiff_t;

constexpr Size PANEL = 64;    // samples
constexpr Size MULTIPLE = 16; // floats: the widest vector

constexpr Size padded(Size count) { return (count + MULTIPLE - 1) / MULTIPLE * MULTIPLE; }

// What C holds before A·B is added to it.
enum class Start { zero, column, accumulate };

// C [m, n] = A [m, k] · B [k, n]; n a multiple of 16.
struct Product {
    Size m, n, k;
    const float* a;
    Size a_row, a_column;  // the distance from one row to the next, and from one column to the next
    const float* b;
    Size b_row;
    float* c;
    Size c_row;
    const float* column = nullptr;  // [m], for Start::column
};

enum class Activation { relu, tanh, silu };
enum class LossKind { q_learning, categorical, quantile, implicit_quantile };
enum class OptimizerKind { adam, adamw, rmsprop, sgd };

struct Munchausen {
    float alpha, temperature, clip;
};

struct LossSettings {
    LossKind kind;
    bool huber;          // else squared; q_learning
    bool double_q;       // the online network chooses the next action
    bool munchausen;     // else greedy
    Munchausen soft;
    Size actions;
    Size outputs;        // atoms or quantiles per action; 1 for q_learning
    Size targets;        // quantiles of the target network; for both kinds of quantiles
    float v_min, v_max;  // categorical
    float kappa;         // both kinds of quantiles
};

// What the networks say of a panel of samples, and what was sampled.
struct LossPanel {
    Size columns, samples;       // the columns past the samples weigh nothing
    const float* online;         // [actions · outputs, columns], of s
    const float* target_next;    // [actions · outputs or targets, columns], of s'
    const float* q_next;         // [actions, columns]: the action values by which the next action is chosen
    const float* q;              // [actions, columns]: the target network's action values of s, for munchausen
    const float* fractions;      // [samples, outputs]: where the online quantiles lie; null for the midpoints
    const std::int32_t* action;  // [columns], as are the next three
    const float* reward;
    const float* discount;
    const float* weight;         // the sample's share in the loss: its importance weight / batch size
    const float* allowed;        // [actions, columns], 1 or 0; null allows all
    const float* next_allowed;
    float* gradient;             // [actions · outputs, columns]: of the weighted loss by `online`
    float* per_sample;           // [columns]
    float* priority;             // [columns]
    float* scratch;              // loss_scratch(settings) floats
};

struct OptimizerStep {
    OptimizerKind kind;
    bool amsgrad;
    double learning_rate, epsilon, weight_decay;
    double scale;      // of the gradient, to clip its norm
    double max_value;  // clips the gradient's entries; infinite for none
    std::int64_t step; // 1 for the first
    Size count;
    float* parameters;
    const float* gradient;
    float* first;      // exp_avg, or grad_avg
    float* second;     // exp_avg_sq, or square_avg
    float* largest;    // max_exp_avg_sq
};

struct Kernels {
    const char* name;

    void (*multiply)(Start, const Product&);
    // y [m] = A [m, k] · x [k] + column [m]; A's rows lie `a_row` apart
    void (*multiply_vector)(Size m, Size k, const float* a, Size a_row, const float* x, const float* column, float* y);
    // to [columns, rows] = from [rows, columns]ᵀ; rows and columns multiples of 16, rows `from_row` and `to_row` apart
    void (*transpose)(Size rows, Size columns, const float* from, Size from_row, float* to, Size to_row);
    // sums [rows] (+)= the sum of each row of values [rows, columns]
    void (*sum_rows)(Size rows, Size columns, const float* values, float* sums, bool accumulate);
    double (*sum_of_squares)(Size count, const float* values);

    void (*activate)(Activation, Size count, float* values);
    // gradient ⊙= f'(x): `values` are f(x), or x for silu
    void (*deactivate)(Activation, Size count, const float* values, float* gradient);

    // x̂ = (x − mean)/√(var + 1e-5) over the rows of each column; values become γ x̂ + β   (Ba 2016)
    void (*normalise)(Size rows, Size columns, float* values, const float* gain, const float* shift, float* normalised,
                      float* inverse_deviation);
    // gradient by γ x̂ + β → gradient by x; adds what γ and β get
    void (*denormalise)(Size rows, Size columns, float* gradient, const float* gain, const float* normalised,
                        const float* inverse_deviation, float* gain_gradient, float* shift_gradient, float* scratch);

    // Q(s, a) − mean_a Q + V   (Wang 2016, eq. 9): output [actions · outputs, columns] holds the advantages
    void (*duel)(Size actions, Size outputs, Size columns, float* output, const float* value);
    // gradient by the output → by the advantages, in place, and by the value
    void (*separate)(Size actions, Size outputs, Size columns, float* gradient, float* value_gradient);

    // result = mean + sigma ⊙ ε, ε = of_output of_inputᵀ   (Fortunato 2018, eq. 10); matrices' rows lie `row` apart
    void (*add_noise)(Size rows, Size columns, Size row, const float* mean, const float* sigma, const float* of_output,
                      const float* of_input, float* result);
    // gradient by sigma = gradient by the result ⊙ ε
    void (*noise_gradient)(Size rows, Size columns, Size row, const float* gradient, const float* of_output,
                           const float* of_input, float* result);

    // cos(π i τ), i < count, of each fraction τ [columns]: [count, columns]   (Dabney 2018b, eq. 4)
    void (*cosines)(Size count, Size columns, const float* fractions, float* result);
    // Each of `samples` columns of features [rows, row], from the first, times its `count` columns of the embedding
    // [rows, columns]: the same shape as that   (Dabney 2018b, eq. 4)
    void (*mix)(Size rows, Size samples, Size count, Size columns, const float* features, Size row,
                const float* embedding, float* result);
    // Its gradient: adds to the features' and becomes, in place, that by the embedding before its ReLU
    void (*unmix)(Size rows, Size samples, Size count, Size columns, const float* features, Size row,
                  const float* embedding, float* gradient, float* features_gradient);

    // Q(s, ·) [actions, columns] of an output
    void (*action_values)(const LossSettings&, Size columns, const float* output, float* q, float* scratch);
    void (*temporal_difference)(const LossSettings&, const LossPanel&);

    void (*optimize)(const OptimizerStep&);
    // target += share · (online − target)
    void (*move_towards)(Size count, float share, const float* online, float* target);

    // Multiplies and adds in registers; returns the floating-point operations done.
    double (*multiply_and_add)(std::int64_t rounds, float* sink);
};

// Floats that `action_values` and `temporal_difference` need to work in.
constexpr Size loss_scratch(const LossSettings& loss) { return (4 * loss.outputs + loss.targets + 3 * loss.actions) * PANEL; }

// The best table for this machine, or the one of that name; null when there is none of that name that runs here.
const Kernels* kernels(const char* name = nullptr);

}  // namespace upright
