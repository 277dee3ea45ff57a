// The sum tree as Python sees it, with every check of what it is given.
#include <algorithm>
#include <limits>
#include <new>

#include "border.h"
#include "buffer.h"
#include "sum_tree.h"

namespace upright {
namespace {

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

void bind_sum_tree(nb::module_& module) {
    using namespace nb::literals;
    nb::class_<BoundSumTree>(module, "SumTree")
        .def(nb::init<Size>(), "capacity"_a)
        .def_prop_ro("total", &BoundSumTree::total)
        .def("set", &BoundSumTree::set, "place"_a, "value"_a)
        .def("set", &BoundSumTree::set_one, "place"_a, "value"_a)
        .def("__getitem__", &BoundSumTree::get, "place"_a)
        .def("find", &BoundSumTree::find, "mass"_a);
}

}  // namespace upright
