// The Python module upright._native.
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <string>
#include <vector>

#include "border.h"
#include "kernels.h"

namespace upright {
namespace {

std::vector<std::string> instruction_sets() {
    std::vector<std::string> result;
    for (const char* name : {"avx512", "avx2", "neon", "portable"})
        if (kernels(name) != nullptr) result.emplace_back(name);
    return result;
}

}  // namespace
}  // namespace upright

NB_MODULE(_native, m) {
    upright::bind_learner(m);
    upright::bind_sum_tree(m);
    upright::bind_benchmark(m);
    m.def("instruction_sets", &upright::instruction_sets);
}
