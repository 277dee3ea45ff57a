#include "settings.h"

#include <nanobind/stl/vector.h>

#include <algorithm>
#include <limits>
#include <optional>
#include <vector>

namespace upright {

namespace nb = nanobind;

namespace {

// What the engine knows, by the names that the settings give it. Whatever has another name is another engine's.

template <typename Value>
using Names = std::vector<std::pair<const char*, Value>>;

const Names<LossKind> LOSSES{{"q_learning", LossKind::q_learning},
                             {"categorical", LossKind::categorical},
                             {"quantile", LossKind::quantile},
                             {"implicit_quantile", LossKind::implicit_quantile}};
const Names<bool> IS_HUBER{{"huber", true}, {"squared", false}};
const Names<OptimizerKind> OPTIMIZERS{{"adam", OptimizerKind::adam},
                                      {"adamw", OptimizerKind::adamw},
                                      {"rmsprop", OptimizerKind::rmsprop},
                                      {"sgd", OptimizerKind::sgd}};
const Names<Activation> ACTIVATIONS{
    {"relu", Activation::relu}, {"tanh", Activation::tanh}, {"silu", Activation::silu}};
const Names<bool> IS_NOISY{{"linear", false}, {"noisy", true}};  // of the kinds of layers
const Names<Stream> STREAMS{{"torso", Stream::torso},
                            {"advantage", Stream::advantage},
                            {"value", Stream::value},
                            {"embedding", Stream::embedding}};

template <typename Value>
Value named(const std::string& name, const Names<Value>& names, const char* what) {
    for (const auto& [known, value] : names)
        if (name == known) return value;
    throw Lacking(std::string(what) + " is " + name);
}

// A number of inputs, units, actions or values: so small that the products of any two are numbers too.
Size positive(Size value, const char* what) {
    if (value < 1) throw std::invalid_argument(std::string(what) + " is below 1");
    if (value > std::numeric_limits<std::int32_t>::max())
        throw std::invalid_argument(std::string(what) + " is above 2147483647");
    return value;
}

LayerSettings read_layer(Words words) {
    const LayerSettings result{
        .stream = named(words.take<std::string>("stream"), STREAMS, "a layer's stream"),
        .noisy = named(words.take<std::string>("kind"), IS_NOISY, "a layer's kind"),
        .inputs = positive(words.take<Size>("inputs"), "a layer's number of inputs"),
        .outputs = positive(words.take<Size>("outputs"), "a layer's number of outputs"),
        .norm = words.take<bool>("norm"),
        .activation = [&]() -> std::optional<Activation> {
            const auto name = words.take<std::optional<std::string>>("activation");
            return name ? std::optional(named(*name, ACTIVATIONS, "activation")) : std::nullopt;
        }(),
    };
    words.check_all_taken("layers.");
    return result;
}

void read_loss(Words words, Settings& settings) {
    LossSettings& result = settings.loss;
    result.kind = named(words.take<std::string>("kind"), LOSSES, "loss");
    result.double_q = words.take<bool>("double");
    result.outputs = 1;
    switch (result.kind) {
        case LossKind::q_learning:
            result.huber = named(words.take<std::string>("error"), IS_HUBER, "loss.error");
            break;
        case LossKind::categorical:
            result.outputs = words.take<Size>("atoms");
            if (result.outputs < 2) throw std::invalid_argument("a support has two atoms at least");
            result.v_min = static_cast<float>(words.take<double>("v_min"));
            result.v_max = static_cast<float>(words.take<double>("v_max"));
            break;
        case LossKind::quantile:
        case LossKind::implicit_quantile:
            result.outputs = words.take<Size>("quantiles");
            result.kappa = static_cast<float>(words.take<double>("kappa"));
            break;
    }
    result.targets = positive(result.outputs, "the number of outputs per action");
    if (result.kind == LossKind::implicit_quantile) {
        result.targets = positive(words.take<Size>("target_quantiles"), "the number of target quantiles");
        settings.policy_fractions = positive(words.take<Size>("policy_quantiles"), "the number of policy quantiles");
        settings.cosines = positive(words.take<Size>("cosines"), "the number of cosines");
        if (std::max({result.outputs, result.targets, settings.policy_fractions}) > PANEL)
            throw Lacking("loss has more than 64 quantiles, target_quantiles or policy_quantiles");
    }
    positive(result.actions * result.outputs, "the number of outputs");
    positive(result.actions * result.targets, "the number of target outputs");
    words.check_all_taken("loss.");
}

void read_munchausen(const std::optional<nb::dict>& given, LossSettings& loss) {
    loss.munchausen = given.has_value();
    if (!given) return;
    Words words(*given);
    loss.soft = {.alpha = static_cast<float>(words.take<double>("alpha")),
                 .temperature = static_cast<float>(words.take<double>("temperature")),
                 .clip = static_cast<float>(words.take<double>("clip"))};
    words.check_all_taken("munchausen.");
}

// The outputs of the last of these layers, the first of which has `inputs`; `inputs` where there is none.
Size chain(const std::vector<LayerSettings>& layers, Size inputs) {
    for (const LayerSettings& layer : layers) {
        if (layer.inputs != inputs) throw std::invalid_argument("a layer's inputs are not the outputs before it");
        inputs = layer.outputs;
    }
    return inputs;
}

// Throws unless the layers are those that the passes and their buffers rely on.
void check_layers(const Settings& settings) {
    const auto stream = [&](Stream name) {
        std::vector<LayerSettings> result;
        for (const LayerSettings& layer : settings.layers)
            if (layer.stream == name) result.push_back(layer);
        return result;
    };
    const auto torso = stream(Stream::torso), advantage = stream(Stream::advantage), value = stream(Stream::value),
               embedding = stream(Stream::embedding);
    const LossSettings& loss = settings.loss;
    const bool implicit = loss.kind == LossKind::implicit_quantile;
    const Size outputs = implicit ? 1 : loss.outputs;
    if (advantage.empty()) throw std::invalid_argument("the network has no output");
    const Size features = chain(torso, torso.empty() ? advantage[0].inputs : torso[0].inputs);
    if (chain(advantage, features) != loss.actions * outputs || (!value.empty() && chain(value, features) != outputs))
        throw std::invalid_argument("the network's outputs are not those that the loss reads");
    if (embedding.size() != (implicit ? 1 : 0) || chain(embedding, settings.cosines) != (implicit ? features : 0))
        throw std::invalid_argument("implicit quantiles, and only they, embed their cosines in the torso's features");
    for (const auto& layers : {torso, advantage, value, embedding})
        for (std::size_t i = 0; i < layers.size(); ++i) {
            const LayerSettings& layer = layers[i];
            const bool in_head = layer.stream == Stream::advantage || layer.stream == Stream::value;
            const bool hidden = layer.stream == Stream::torso || i + 1 < layers.size();
            if (layer.activation.has_value() != hidden || (layer.norm && !hidden))
                throw std::invalid_argument("hidden layers, and only they, have an activation and may have a norm");
            if (layer.noisy && !in_head) throw std::invalid_argument("only layers of the head may be noisy");
        }
}

}  // namespace

Settings read_settings(const nb::dict& given) {
    Words words(given);
    Settings result{};
    for (const nb::dict& layer : words.take<std::vector<nb::dict>>("layers"))
        result.layers.push_back(read_layer(Words(layer)));
    result.loss.actions = positive(words.take<Size>("actions"), "the number of actions");
    read_loss(Words(words.take<nb::dict>("loss")), result);
    read_munchausen(words.take<std::optional<nb::dict>>("munchausen"), result.loss);
    check_layers(result);
    result.optimizer = named(words.take<std::string>("optimizer"), OPTIMIZERS, "optimizer");
    result.amsgrad = words.take<bool>("amsgrad");
    result.optimizer_eps = words.take<double>("optimizer_eps");
    result.weight_decay = words.take<double>("weight_decay");
    constexpr double none = std::numeric_limits<double>::infinity();
    result.max_grad_norm = words.take<std::optional<double>>("max_grad_norm").value_or(none);
    result.max_grad_value = words.take<std::optional<double>>("max_grad_value").value_or(none);
    words.check_all_taken("");
    return result;
}

}  // namespace upright
