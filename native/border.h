// What crosses the border between Python and the engine: kinds of arrays, and checks of them.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

namespace upright {

namespace nb = nanobind;

template <typename Number>
using Vector = nb::ndarray<Number, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <typename Number>
using Matrix = nb::ndarray<Number, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Array = nb::ndarray<nb::ro, nb::c_contig, nb::device::cpu>;

template <typename Given>
void check_alignment(const Given& array) {
    if (array.size() > 0 && reinterpret_cast<std::uintptr_t>(array.data()) % array.itemsize() != 0)
        throw std::invalid_argument("an array does not lie where numbers of its kind can");
}

inline double finite(double value, const char* what) {
    if (!std::isfinite(value)) throw std::invalid_argument(std::string(what) + " is not finite");
    return value;
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

// Each part of the module, which adds itself to it.
void bind_learner(nb::module_& module);
void bind_sum_tree(nb::module_& module);
void bind_benchmark(nb::module_& module);

}  // namespace upright
