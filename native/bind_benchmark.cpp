// What benchmarks measure the engine against.
#include <algorithm>
#include <chrono>

#include "border.h"
#include "kernels.h"

namespace upright {
namespace {

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

}  // namespace

void bind_benchmark(nb::module_& module) { module.def("fma_peak", &fma_peak); }

}  // namespace upright
