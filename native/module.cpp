// The Python module upright._native: what crosses the border, checked.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "learner.h"
#include "sum_tree.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace upright {
namespace {

template <typename Number>
using Vector = nb::ndarray<Number, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Matrix = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Array = nb::ndarray<nb::ro, nb::c_contig, nb::device::cpu>;
using View = nb::ndarray<nb::numpy, float, nb::ndim<1>>;

// A new NumPy array of `size` values.
template <typename Number>
using Made = nb::ndarray<nb::numpy, Number, nb::ndim<1>>;
template <typename Number, typename Function>
Made<Number> made(std::size_t size, const Function& value) {
    auto* values = new Number[size];
    const nb::capsule owner(values, [](void* each) noexcept { delete[] static_cast<Number*>(each); });
    for (std::size_t i = 0; i < size; ++i) values[i] = value(i);
    return Made<Number>(values, {size}, owner);
}

template <typename Value>
Value named(const std::string& name, const std::vector<std::pair<const char*, Value>>& values, const char* what) {
    for (const auto& [known, value] : values)
        if (name == known) return value;
    throw std::invalid_argument("there is no " + std::string(what) + " " + name);
}

// A number of inputs, units, actions or values: so small that the products of any two are numbers too.
Size positive(Size value, const char* what) {
    if (value < 1) throw std::invalid_argument(std::string(what) + " is below 1");
    if (value > std::numeric_limits<std::int32_t>::max())
        throw std::invalid_argument(std::string(what) + " is above 2147483647");
    return value;
}

double finite(double value, const char* what) {
    if (!std::isfinite(value)) throw std::invalid_argument(std::string(what) + " is not finite");
    return value;
}

template <typename Given>
void check_alignment(const Given& array) {
    if (array.size() > 0 && reinterpret_cast<std::uintptr_t>(array.data()) % array.itemsize() != 0)
        throw std::invalid_argument("an array does not lie where numbers of its kind can");
}

// Places in a memory or a tree. They may lie apart, but are not converted: half a place is none.
class Places {
  public:
    explicit Places(const Array& array) : values_(static_cast<const std::int64_t*>(array.data())), size_(array.size()) {
        if (array.ndim() != 1 || array.dtype() != nb::dtype<std::int64_t>())
            throw std::invalid_argument("places are not int64 in one dimension");
        check_alignment(array);
    }
    const std::int64_t* data() const { return values_; }
    std::size_t size() const { return size_; }
    std::int64_t operator[](std::size_t i) const { return values_[i]; }

  private:
    const std::int64_t* values_;
    std::size_t size_;
};

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

// Arguments by name, of which each is to be taken once.
class Words {
  public:
    explicit Words(nb::dict given) : given_(std::move(given)) {}

    template <typename Value>
    Value take(const char* name) {
        ++taken_;
        if (!given_.contains(name)) {
            // Only what may be none may be left out.
            if constexpr (requires { Value(std::nullopt); }) return --taken_, Value(std::nullopt);
            throw nb::type_error((std::string(name) + " is missing").c_str());
        }
        Value value{};
        if (!nb::try_cast(given_[name], value)) throw nb::type_error((std::string(name) + " is of another type").c_str());
        return value;
    }

    void check_all_taken() const {
        if (taken_ != given_.size()) throw nb::type_error("an argument has a name that is not known");
    }

  private:
    nb::dict given_;
    std::size_t taken_ = 0;
};

// A learner with the replay memory that it learns from.
class BoundLearner {
  public:
    explicit BoundLearner(const nb::kwargs& given) : BoundLearner(Words(given)) {}

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
            check_rows(*each, capacity, settings().inputs, "observations");
        }
        for (const auto& each : {mask, next_mask})
            if (each) {
                if (each->dtype() != nb::dtype<bool>()) throw std::invalid_argument("a mask is not of bool");
                check_rows(*each, capacity, settings().loss.actions, "a mask");
            }
        columns_ = {bytes, obs.data(), next_obs.data(), action.data(), reward.data(), discount.data(),
                    mask ? static_cast<const std::uint8_t*>(mask->data()) : nullptr,
                    next_mask ? static_cast<const std::uint8_t*>(next_mask->data()) : nullptr};
        capacity_ = static_cast<std::int64_t>(capacity);
        // The arrays stay alive for as long as they are bound.
        bound_ = nb::make_tuple(obs, next_obs, action, reward, discount, mask, next_mask);
    }

    bool update(Array given, std::optional<Vector<const double>> weight, double learning_rate,
                std::optional<Vector<float>> priority, std::optional<Matrix> fractions,
                std::optional<Matrix> target_fractions) {
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
            if (action < 0 || action >= settings().loss.actions) throw std::out_of_range("an action is out of range");
        }
        check_fractions(fractions, count, settings().loss.outputs);
        check_fractions(target_fractions, count, settings().loss.targets);
        if (!priority && unused_.size() < count) unused_.resize(count);
        const nb::gil_scoped_release release;
        const auto measures = learner_.update(columns_, static_cast<Size>(count), place.data(),
                                              weight ? weight->data() : nullptr,
                                              fractions ? fractions->data() : nullptr,
                                              target_fractions ? target_fractions->data() : nullptr, learning_rate,
                                              priority ? priority->data() : unused_.data());
        last_ = {measures.loss, measures.norm};
        if (!measures.finite()) return false;
        loss_ += measures.loss;
        norm_ += measures.norm;
        mean_q_ = measures.mean_q;
        ++updates_;
        return true;
    }

    void q_values(Array obs, nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu> q, bool noisy) {
        const AtWork at_work(at_work_);
        const std::size_t count = q.shape(0);
        check_alignment(q);
        if (q.shape(1) != static_cast<std::size_t>(settings().loss.actions))
            throw std::invalid_argument("the result has not one column for each action");
        check_rows(obs, count, settings().inputs, "observations");
        if (obs.dtype() == nb::dtype<float>())
            learner_.q_values(static_cast<Size>(count), static_cast<const float*>(obs.data()), noisy, q.data());
        else if (obs.dtype() == nb::dtype<std::uint8_t>())
            learner_.q_values(static_cast<Size>(count), static_cast<const std::uint8_t*>(obs.data()), noisy, q.data());
        else
            throw std::invalid_argument("observations are neither uint8 nor float32");
    }

    void set_noise(bool of_target, Vector<const float> drawn) {
        const AtWork at_work(at_work_);
        check_alignment(drawn);
        if (!settings().noisy) throw std::invalid_argument("there are no noisy layers");
        if (drawn.shape(0) != static_cast<std::size_t>(learner_.noise_size))
            throw std::invalid_argument("the noise has not the size of the noisy layers");
        learner_.set_noise(of_target, drawn.data());
    }

    void update_target(double share) {
        const AtWork at_work(at_work_);
        learner_.update_target(finite(share, "the share"));
    }

    std::int64_t steps() const { return learner_.steps; }
    void set_steps(std::int64_t steps) {
        if (steps < 0 || steps > std::numeric_limits<std::int64_t>::max() / 2)
            throw std::invalid_argument("the number of steps is out of range");
        learner_.steps = steps;
    }

    // Loss and gradient norm of the last update.
    std::pair<double, double> last() const { return last_; }

    // Sums of both, the last batch's mean Q, and the number of updates since they were set.
    std::tuple<double, double, double, std::int64_t> sums() const { return {loss_, norm_, mean_q_, updates_}; }
    void set_sums(const std::tuple<double, double, double, std::int64_t>& sums) {
        if (std::get<3>(sums) < 0 || std::get<3>(sums) > std::numeric_limits<std::int64_t>::max() / 2)
            throw std::invalid_argument("the number of updates is out of range");
        std::tie(loss_, norm_, mean_q_, updates_) = sums;
    }

  private:
    explicit BoundLearner(Words words)
        : learner_(settings(words), named_kernels(words.take<std::optional<std::string>>("instruction_set"))) {
        words.check_all_taken();
    }

    static Settings settings(Words& words) {
        Settings result{};
        result.inputs = positive(words.take<Size>("inputs"), "the observation's size");
        result.widths = words.take<std::vector<Size>>("widths");
        for (const Size width : result.widths) positive(width, "a layer's width");
        result.activation = named<Activation>(
            words.take<std::string>("activation"),
            {{"relu", Activation::relu}, {"tanh", Activation::tanh}, {"silu", Activation::silu}}, "activation");
        result.layer_norm = words.take<bool>("layer_norm");
        result.dueling = words.take<bool>("dueling");
        result.noisy = words.take<bool>("noisy");
        result.cosines = words.take<Size>("cosines");
        result.policy_fractions = words.take<Size>("policy_fractions");
        result.loss = loss(words, result);
        result.optimizer = named<OptimizerKind>(words.take<std::string>("optimizer"),
                                                {{"adam", OptimizerKind::adam},
                                                 {"adamw", OptimizerKind::adamw},
                                                 {"rmsprop", OptimizerKind::rmsprop},
                                                 {"sgd", OptimizerKind::sgd}},
                                                "optimizer");
        result.amsgrad = words.take<bool>("amsgrad");
        result.epsilon = words.take<double>("epsilon");
        result.weight_decay = words.take<double>("weight_decay");
        constexpr double none = std::numeric_limits<double>::infinity();
        result.max_norm = words.take<std::optional<double>>("max_norm").value_or(none);
        result.max_value = words.take<std::optional<double>>("max_value").value_or(none);
        return result;
    }

    static LossSettings loss(Words& words, const Settings& settings) {
        LossSettings result{};
        result.kind = named<LossKind>(words.take<std::string>("loss"),
                                      {{"q_learning", LossKind::q_learning},
                                       {"categorical", LossKind::categorical},
                                       {"quantile", LossKind::quantile},
                                       {"implicit_quantile", LossKind::implicit_quantile}},
                                      "loss");
        result.huber = words.take<bool>("huber");
        result.double_q = words.take<bool>("double_q");
        const auto munchausen = words.take<std::optional<std::tuple<double, double, double>>>("munchausen");
        result.munchausen = munchausen.has_value();
        if (munchausen) {
            const auto [alpha, temperature, clip] = *munchausen;
            result.soft = {static_cast<float>(alpha), static_cast<float>(temperature), static_cast<float>(clip)};
        }
        result.actions = positive(words.take<Size>("actions"), "the number of actions");
        result.outputs = positive(words.take<Size>("outputs"), "the number of outputs per action");
        result.targets = positive(words.take<Size>("targets"), "the number of target outputs per action");
        positive(result.actions * result.outputs, "the number of outputs");
        positive(result.actions * result.targets, "the number of target outputs");
        if (result.kind == LossKind::q_learning && result.outputs != 1)
            throw std::invalid_argument("a scalar Q has one output per action");
        if (result.kind == LossKind::categorical && result.outputs < 2)
            throw std::invalid_argument("there is one atom only");
        if (result.kind == LossKind::implicit_quantile) {
            positive(settings.cosines, "the number of cosines");
            const Size fractions = positive(settings.policy_fractions, "the number of fractions");
            if (std::max({result.outputs, result.targets, fractions}) > PANEL)
                throw std::invalid_argument("there are more fractions than a panel's " + std::to_string(PANEL));
        } else if (result.targets != result.outputs || settings.policy_fractions != 0 || settings.cosines != 0) {
            throw std::invalid_argument("only implicit quantiles have fractions and cosines");
        }
        result.v_min = static_cast<float>(words.take<double>("v_min"));
        result.v_max = static_cast<float>(words.take<double>("v_max"));
        result.kappa = static_cast<float>(words.take<double>("kappa"));
        return result;
    }

    const Settings& settings() const { return learner_.settings; }

    void check_fractions(const std::optional<Matrix>& fractions, std::size_t count, Size asked) const {
        if (fractions.has_value() != (settings().cosines > 0))
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
    std::pair<double, double> last_;
    double loss_ = 0, norm_ = 0, mean_q_ = 0;
    std::int64_t updates_ = 0;
};

template <Buffer Learner::*buffer>
View view(BoundLearner& self) {
    Buffer& values = self.learner().*buffer;
    return View(values.data(), {static_cast<std::size_t>(values.size())}, nb::find(self));
}

std::vector<std::string> instruction_sets() {
    std::vector<std::string> result;
    for (const char* name : {"avx512", "avx2", "portable"})
        if (kernels(name) != nullptr) result.emplace_back(name);
    return result;
}

double fma_peak() {
    const Kernels& table = *kernels();
    float sink;
    double best = 0;
    for (int attempt = 0; attempt < 20; ++attempt) {
        const auto begin = std::chrono::steady_clock::now();
        const double operations = table.multiply_and_add(200'000, &sink);
        const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
        best = std::max(best, operations / took.count() / 1e9);
    }
    return best;
}


class BoundSumTree {
  public:
    explicit BoundSumTree(Size capacity) : capacity_(fitting(capacity)), tree_(static_cast<std::size_t>(capacity)) {}

    double total() const { return tree_.total(); }

    void set(Array given, Vector<const double> value) {
        const Places place(given);
        check_alignment(value);
        if (place.size() != value.shape(0)) throw std::invalid_argument("places and values differ in length");
        for (std::size_t i = 0; i < place.size(); ++i) checked(place[i], value(i));
        for (std::size_t i = 0; i < place.size(); ++i) tree_.set(static_cast<std::size_t>(place[i]), value(i));
    }

    void set_one(std::int64_t place, double value) {
        checked(place, value);
        tree_.set(static_cast<std::size_t>(place), value);
    }

    Made<double> get(Array given) const {
        const Places place(given);
        for (std::size_t i = 0; i < place.size(); ++i) checked(place[i], 0);
        return made<double>(place.size(), [&](std::size_t i) { return tree_[static_cast<std::size_t>(place[i])]; });
    }

    Made<std::int64_t> find(Vector<const double> mass) const {
        check_alignment(mass);
        return made<std::int64_t>(mass.shape(0), [&](std::size_t i) {
            return std::min(static_cast<std::int64_t>(tree_.find(mass(i))), static_cast<std::int64_t>(capacity_) - 1);
        });
    }

  private:
    static Size fitting(Size capacity) {
        if (capacity < 1) throw std::invalid_argument("the capacity is below 1");
        if (static_cast<double>(capacity) * sizeof(double) > memory_of_machine()) throw std::bad_alloc();
        return capacity;
    }

    void checked(std::int64_t place, double value) const {
        if (place < 0 || place >= capacity_) throw std::out_of_range("a place is outside the tree");
        if (!(value >= 0) || value == std::numeric_limits<double>::infinity())
            throw std::invalid_argument("a value is negative or not finite");
    }

    Size capacity_;
    SumTree tree_;
};

}  // namespace
}  // namespace upright

NB_MODULE(_native, m) {
    using namespace upright;
    using Bound = BoundLearner;
    nb::class_<Bound>(m, "Learner")
        .def(nb::init<const nb::kwargs&>())
        .def_prop_ro("online", &view<&Learner::online>)
        .def_prop_ro("target", &view<&Learner::target>)
        .def_prop_ro("gradient", &view<&Learner::gradient>)
        .def_prop_ro("first_moment", &view<&Learner::first_moment>)
        .def_prop_ro("second_moment", &view<&Learner::second_moment>)
        .def_prop_ro("largest_moment", &view<&Learner::largest_moment>)
        .def_prop_ro("instruction_set", [](Bound& self) { return std::string(self.learner().kernels.name); })
        .def_prop_ro("noise_size", [](Bound& self) { return self.learner().noise_size; })
        .def_prop_rw("steps", &Bound::steps, &Bound::set_steps)
        .def_prop_ro("last", &Bound::last)
        .def_prop_rw("sums", &Bound::sums, &Bound::set_sums)
        // Nothing is converted: a copy would be bound, or written to, in place of what was given.
        .def("bind", &Bound::bind, "obs"_a.noconvert(), "next_obs"_a.noconvert(), "action"_a.noconvert(),
             "reward"_a.noconvert(), "discount"_a.noconvert(), "mask"_a.noconvert().none(),
             "next_mask"_a.noconvert().none())
        .def("update", &Bound::update, "place"_a, "weight"_a.none(), "learning_rate"_a,
             "priority"_a.noconvert().none(), "fractions"_a.none() = nb::none(),
             "target_fractions"_a.none() = nb::none())
        .def("q_values", &Bound::q_values, "obs"_a, "q"_a.noconvert(), "noisy"_a)
        .def("set_noise", &Bound::set_noise, "of_target"_a, "drawn"_a)
        .def("update_target", &Bound::update_target, "share"_a);
    nb::class_<BoundSumTree>(m, "SumTree")
        .def(nb::init<Size>(), "capacity"_a)
        .def_prop_ro("total", &BoundSumTree::total)
        .def("set", &BoundSumTree::set, "place"_a, "value"_a)
        .def("set", &BoundSumTree::set_one, "place"_a, "value"_a)
        .def("__getitem__", &BoundSumTree::get, "place"_a)
        .def("find", &BoundSumTree::find, "mass"_a);
    m.def("instruction_sets", &instruction_sets);
    m.def("fma_peak", &fma_peak);
}
