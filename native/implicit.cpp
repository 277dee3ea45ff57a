// Implicit quantiles: Z_τ(s, ·) = head(ψ(s) ⊙ relu(W cos(π i τ) + b))   (Dabney 2018b, eq. 4)
//
// ψ(s), the torso's features, are of a panel of samples. The head works on as many samples at once as have 64 fractions
// together, each fraction a column. Going back, it works through them again rather than to keep what they left behind.
#include "learner.h"

namespace upright {

// Fills `mixed_` [features, columns of the head] for samples whose features begin at `features`, one every column of
// `columns`; returns the columns of the head.
Size Learner::embed(const View& view, const float* features, Size columns, Size samples,
                    const float* fractions, Size asked) {
    const Size wide = padded(samples * asked), rows = embedding_.outputs;
    float* fraction = fractions_.data();
    for (Size i = 0; i < wide; ++i) {
        const float midpoint = (static_cast<float>(i % asked) + 0.5f) / static_cast<float>(asked);
        fraction[i] = i >= samples * asked ? 0 : fractions == nullptr ? midpoint : fractions[i];
    }
    kernels.cosines(embedding_.inputs, wide, fraction, cosines_.data());
    kernels.multiply(Start::column, {rows, wide, embedding_.inputs, view.at(embedding_, embedding_.weight),
                                     embedding_.row(), 1, cosines_.data(), wide, embedded_.data(), wide,
                                     view.at(embedding_, embedding_.bias)});
    kernels.activate(Activation::relu, rows * wide, embedded_.data());
    // The weights' gradient reads whole blocks of 16 rows; what lies between the samples and the next 16 columns is 0.
    std::fill_n(mixed_.data(), padded(rows) * wide, 0.0f);
    std::fill_n(cosines_.data() + embedding_.inputs * wide, (embedding_.row() - embedding_.inputs) * wide, 0.0f);
    kernels.mix(rows, samples, asked, wide, features, columns, embedded_.data(), mixed_.data());
    return wide;
}

void Learner::implicit_head(const View& view, Tape& tape, const float* features, Size count, Size columns,
                            const float* fractions, Size asked, float* output) {
    const Size actions = settings.loss.actions, at_once = samples_at_once(asked);
    std::fill_n(output, actions * asked * columns, 0.0f);
    for (Size begin = 0; begin < count; begin += at_once) {
        const Size samples = std::min(at_once, count - begin);
        const float* here = fractions == nullptr ? nullptr : fractions + begin * asked;
        const Size wide = embed(view, features + begin, columns, samples, here, asked);
        head(view, tape, mixed_.data(), wide, 1, head_output_.data());
        for (Size a = 0; a < actions; ++a)
            for (Size b = 0; b < samples; ++b)
                for (Size i = 0; i < asked; ++i)
                    output[(a * asked + i) * columns + begin + b] = head_output_.data()[a * wide + b * asked + i];
    }
}

void Learner::implicit_backward(const float* features, Size count, Size columns, const float* fractions, Start start) {
    const Size actions = settings.loss.actions, asked = settings.loss.outputs, at_once = samples_at_once(asked);
    const View view = online_view(is_noisy());
    std::fill_n(features_gradient_.data(), embedding_.outputs * columns, 0.0f);
    for (Size begin = 0; begin < count; begin += at_once) {
        const Size samples = std::min(at_once, count - begin);
        const Size wide = embed(view, features + begin, columns, samples, fractions + begin * asked, asked);
        head(view, learning_, mixed_.data(), wide, 1, head_output_.data());
        std::fill_n(head_output_.data(), actions * wide, 0.0f);
        for (Size a = 0; a < actions; ++a)
            for (Size b = 0; b < samples; ++b)
                for (Size i = 0; i < asked; ++i)
                    head_output_.data()[a * wide + b * asked + i] =
                        output_gradient_.data()[(a * asked + i) * columns + begin + b];
        backward_head(mixed_.data(), wide, 1, head_output_.data(), mixed_gradient_.data(), start);
        kernels.unmix(embedding_.outputs, samples, asked, wide, features + begin, columns, embedded_.data(),
                      mixed_gradient_.data(), features_gradient_.data() + begin);
        weight_gradient(embedding_, cosines_.data(), mixed_gradient_.data(), wide, start);
        start = Start::accumulate;
    }
}

}  // namespace upright
