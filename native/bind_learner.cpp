// The learner as Python sees it, with every check of what it is given.
#include <nanobind/stl/map.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <cstdint>
#include <limits>
#include <map>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "border.h"
#include "learner.h"
#include "settings.h"

namespace upright {
namespace {

using View = nb::ndarray<nb::numpy, float, nb::ndim<1>>;

// Marks a learner as at work, which it is in one thread at a time.
class AtWork {
  public:
    explicit AtWork(bool& flag) : flag_(flag) {
        if (flag) throw std::runtime_error("the learner is at work in another thread");
        flag = true;
    }
    AtWork(const AtWork&) = delete;
    AtWork& operator=(const AtWork&) = delete;
    ~AtWork() { flag_ = false; }

  private:
    bool& flag_;
};

const Kernels& named_kernels(const std::optional<std::string>& name) {
    const Kernels* table = kernels(name ? name->c_str() : nullptr);
    if (table == nullptr) throw std::invalid_argument("this machine has no instruction set " + *name);
    return *table;
}

nb::dict by_name(const std::vector<Measure>& measures) {
    nb::dict result;
    for (const Measure& measure : measures) result[measure.name] = measure.value;
    return result;
}

std::int64_t counted(std::int64_t value, const char* what) {
    if (value < 0 || value > std::numeric_limits<std::int64_t>::max() / 2)
        throw std::invalid_argument(std::string(what) + " is out of range");
    return value;
}

// A learner with the replay memory that it learns from.
class BoundLearner {
  public:
    BoundLearner(const nb::dict& settings, const std::optional<std::string>& instruction_set)
        : learner_(read_settings(settings), named_kernels(instruction_set)) {}

    Learner& learner() { return learner_; }

    void bind(Array obs, Array next_obs, Vector<const std::int64_t> action, Vector<const double> reward,
              Vector<const double> discount, std::optional<Array> mask, std::optional<Array> next_mask) {
        const AtWork at_work(at_work_);
        const std::size_t capacity = action.shape(0);
        if (reward.shape(0) != capacity || discount.shape(0) != capacity)
            throw std::invalid_argument("the columns differ in length");
        if (mask.has_value() != next_mask.has_value()) throw std::invalid_argument("one of the two masks is missing");
        check_alignment(action);
        check_alignment(reward);
        check_alignment(discount);
        const bool bytes = obs.dtype() == nb::dtype<std::uint8_t>();
        for (const Array* each : {&obs, &next_obs}) {
            if (each->dtype() != (bytes ? nb::dtype<std::uint8_t>() : nb::dtype<float>()))
                throw std::invalid_argument("observations are neither all uint8 nor all float32");
            check_rows(*each, capacity, learner_.inputs, "observations");
        }
        for (const auto& each : {mask, next_mask})
            if (each) {
                if (each->dtype() != nb::dtype<bool>()) throw std::invalid_argument("a mask is not of bool");
                check_rows(*each, capacity, loss().actions, "a mask");
            }
        columns_ = {.bytes = bytes,
                    .obs = obs.data(),
                    .next_obs = next_obs.data(),
                    .action = action.data(),
                    .reward = reward.data(),
                    .discount = discount.data(),
                    .mask = mask ? static_cast<const std::uint8_t*>(mask->data()) : nullptr,
                    .next_mask = next_mask ? static_cast<const std::uint8_t*>(next_mask->data()) : nullptr};
        capacity_ = static_cast<std::int64_t>(capacity);
        // The arrays stay alive for as long as they are bound.
        bound_ = nb::make_tuple(obs, next_obs, action, reward, discount, mask, next_mask);
    }

    bool update(Array given, std::optional<Vector<const double>> weight, double learning_rate,
                std::optional<Vector<float>> priority, std::optional<Matrix<const float>> fractions,
                std::optional<Matrix<const float>> target_fractions) {
        const AtWork at_work(at_work_);
        const Places place(given);
        const std::size_t count = place.size();
        finite(learning_rate, "the learning rate");
        if (weight) check_alignment(*weight);
        if (priority) check_alignment(*priority);
        if (count == 0) throw std::invalid_argument("the batch is empty");
        if ((weight && weight->shape(0) != count) || (priority && priority->shape(0) != count))
            throw std::invalid_argument("places, weights and priorities differ in length");
        for (std::size_t i = 0; i < count; ++i) {
            if (place[i] < 0 || place[i] >= capacity_) throw std::out_of_range("a place is outside the memory");
            const std::int64_t action = columns_.action[place[i]];
            if (action < 0 || action >= loss().actions) throw std::out_of_range("an action is out of range");
        }
        check_fractions(fractions, count, loss().outputs);
        check_fractions(target_fractions, count, loss().targets);
        if (!priority && unused_.size() < count) unused_.resize(count);
        const nb::gil_scoped_release release;
        const Batch batch{.count = static_cast<Size>(count),
                          .place = place.data(),
                          .weight = weight ? weight->data() : nullptr,
                          .fractions = fractions ? fractions->data() : nullptr,
                          .target_fractions = target_fractions ? target_fractions->data() : nullptr};
        if (!learner_.update(columns_, batch, learning_rate, priority ? priority->data() : unused_.data()))
            return false;
        for (std::size_t i = 0; i < measured_.size(); ++i) {
            const Measure& last = learner_.measures[i];
            measured_[i].value = last.value + (last.is_mean ? measured_[i].value : 0);
        }
        ++updates_;
        return true;
    }

    void q_values(Array obs, Matrix<float> q, bool noisy) { answer(Learner::Answer::q_values, obs, q, noisy); }
    void outputs(Array obs, Matrix<float> output) { answer(Learner::Answer::outputs, obs, output, false); }
    Size outputs_asked() const { return learner_.outputs_asked(); }

    void scale(Vector<const float> factors) {
        const AtWork at_work(at_work_);
        check_alignment(factors);
        if (factors.shape(0) != static_cast<std::size_t>(learner_.inputs))
            throw std::invalid_argument("there is not one factor for each entry of an observation");
        learner_.scale.assign(factors.data(), factors.data() + factors.shape(0));
    }

    void set_noise(bool of_target, Vector<const float> drawn) {
        const AtWork at_work(at_work_);
        check_alignment(drawn);
        if (learner_.noise_size == 0) throw std::invalid_argument("there are no noisy layers");
        if (drawn.shape(0) != static_cast<std::size_t>(learner_.noise_size))
            throw std::invalid_argument("the noise has not the size of the noisy layers");
        learner_.set_noise(of_target, drawn.data());
    }

    void update_target(double share) {
        const AtWork at_work(at_work_);
        learner_.update_target(finite(share, "the share"));
    }

    std::int64_t steps() const { return learner_.steps; }
    void set_steps(std::int64_t steps) { learner_.steps = counted(steps, "the number of steps"); }

    nb::dict last() const { return by_name(learner_.measures); }

    nb::dict measured() const { return by_name(measured_); }
    void set_measured(const std::map<std::string, double>& given) {
        if (given.size() != measured_.size()) throw std::invalid_argument("there are more or fewer measures");
        std::vector<Measure> measures = measured_;
        for (Measure& measure : measures) {
            const auto found = given.find(measure.name);
            if (found == given.end()) throw std::invalid_argument(std::string(measure.name) + " is missing");
            measure.value = found->second;
        }
        measured_ = measures;
    }

    std::int64_t updates() const { return updates_; }
    void set_updates(std::int64_t updates) { updates_ = counted(updates, "the number of updates"); }

    nb::dict report() {
        if (updates_ == 0) return {};
        std::vector<Measure> means = measured_;
        for (std::size_t i = 0; i < means.size(); ++i)
            if (means[i].is_mean) {
                means[i].value /= static_cast<double>(updates_);
                measured_[i].value = 0;
            }
        updates_ = 0;
        return by_name(means);
    }

  private:
    const LossSettings& loss() const { return learner_.settings.loss; }

    void answer(Learner::Answer answer, const Array& obs, const Matrix<float>& result, bool noisy) {
        const AtWork at_work(at_work_);
        const std::size_t count = result.shape(0);
        const Size size = loss().actions * (answer == Learner::Answer::q_values ? 1 : learner_.outputs_asked());
        check_alignment(result);
        if (result.shape(1) != static_cast<std::size_t>(size))
            throw std::invalid_argument("the result has not one column for each value");
        check_rows(obs, count, learner_.inputs, "observations");
        const auto rows = static_cast<Size>(count);
        if (obs.dtype() == nb::dtype<float>())
            learner_.ask(answer, rows, static_cast<const float*>(obs.data()), noisy, result.data());
        else if (obs.dtype() == nb::dtype<std::uint8_t>())
            learner_.ask(answer, rows, static_cast<const std::uint8_t*>(obs.data()), noisy, result.data());
        else
            throw std::invalid_argument("observations are neither uint8 nor float32");
    }

    void check_fractions(const std::optional<Matrix<const float>>& fractions, std::size_t count, Size asked) const {
        if (fractions.has_value() != learner_.is_implicit())
            throw std::invalid_argument("implicit quantiles, and only they, are asked for at fractions");
        if (!fractions) return;
        check_alignment(*fractions);
        if (fractions->shape(0) != count || fractions->shape(1) != static_cast<std::size_t>(asked))
            throw std::invalid_argument("the fractions do not have the expected shape");
    }

    static void check_rows(const Array& array, std::size_t rows, Size size, const char* what) {
        std::size_t entries = 1;
        for (std::size_t i = 1; i < array.ndim(); ++i) entries *= array.shape(i);
        if (array.ndim() < 1 || array.shape(0) != rows || entries != static_cast<std::size_t>(size))
            throw std::invalid_argument(std::string(what) + " do not have the expected shape");
        check_alignment(array);
    }

    Learner learner_;
    Columns columns_{};
    std::int64_t capacity_ = 0;
    nb::object bound_;
    bool at_work_ = false;
    std::vector<float> unused_;
    std::vector<Measure> measured_ = learner_.measures;  // sums since the last report, or the last update's
    std::int64_t updates_ = 0;                           // since the last report
};

template <Buffer Learner::*buffer>
View view(BoundLearner& self) {
    Buffer& values = self.learner().*buffer;
    return View(values.data(), {static_cast<std::size_t>(values.size())}, nb::find(self));
}

// Why the engine cannot do what these settings ask for, as the end of a sentence; nothing when it can.
std::optional<std::string> obstacle(const nb::dict& settings) {
    try {
        read_settings(settings);
    } catch (const Lacking& lacking) {
        return lacking.what();
    }
    return std::nullopt;
}

}  // namespace

void bind_learner(nb::module_& module) {
    using namespace nb::literals;
    using Bound = BoundLearner;
    nb::class_<Bound>(module, "Learner")
        .def(nb::init<const nb::dict&, const std::optional<std::string>&>(), "settings"_a,
             "instruction_set"_a = nb::none())
        .def_prop_ro("online", &view<&Learner::online>)
        .def_prop_ro("target", &view<&Learner::target>)
        .def_prop_ro("gradient", &view<&Learner::gradient>)
        .def_prop_ro("first_moment", &view<&Learner::first_moment>)
        .def_prop_ro("second_moment", &view<&Learner::second_moment>)
        .def_prop_ro("largest_moment", &view<&Learner::largest_moment>)
        .def_prop_ro("instruction_set", [](Bound& self) { return std::string(self.learner().kernels.name); })
        .def_prop_ro("noise_size", [](Bound& self) { return self.learner().noise_size; })
        .def_prop_ro("outputs_asked", &Bound::outputs_asked)
        .def_prop_rw("steps", &Bound::steps, &Bound::set_steps)
        .def_prop_ro("last", &Bound::last)
        .def_prop_rw("measured", &Bound::measured, &Bound::set_measured)
        .def_prop_rw("updates", &Bound::updates, &Bound::set_updates)
        .def("report", &Bound::report)
        // Nothing is converted: a copy would be bound, or written to, in place of what was given.
        .def("bind", &Bound::bind, "obs"_a.noconvert(), "next_obs"_a.noconvert(), "action"_a.noconvert(),
             "reward"_a.noconvert(), "discount"_a.noconvert(), "mask"_a.noconvert().none(),
             "next_mask"_a.noconvert().none())
        .def("update", &Bound::update, "place"_a, "weight"_a.none(), "learning_rate"_a,
             "priority"_a.noconvert().none(), "fractions"_a.none() = nb::none(),
             "target_fractions"_a.none() = nb::none())
        .def("q_values", &Bound::q_values, "obs"_a, "q"_a.noconvert(), "noisy"_a)
        .def("outputs", &Bound::outputs, "obs"_a, "output"_a.noconvert())
        .def("scale", &Bound::scale, "factors"_a)
        .def("set_noise", &Bound::set_noise, "of_target"_a, "drawn"_a)
        .def("update_target", &Bound::update_target, "share"_a);
    module.def("obstacle", &obstacle, "settings"_a);
}

}  // namespace upright
