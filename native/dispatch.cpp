// Which instruction set to compute with. The build defines UPRIGHT_HAS_… for those that it compiled kernels.cpp for.
#include <cstring>

#include "kernels.h"

namespace upright {

#ifdef UPRIGHT_HAS_AVX512
namespace avx512 {
extern const Kernels table;
}
#endif
#ifdef UPRIGHT_HAS_AVX2
namespace avx2 {
extern const Kernels table;
}
#endif
namespace portable {
extern const Kernels table;
}

const Kernels* kernels(const char* name) {
    const auto is_asked_for = [name](const Kernels& table) {
        return name == nullptr || std::strcmp(name, table.name) == 0;
    };
#ifdef UPRIGHT_HAS_AVX512
    if (is_asked_for(avx512::table) && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma"))
        return &avx512::table;
#endif
#ifdef UPRIGHT_HAS_AVX2
    if (is_asked_for(avx2::table) && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return &avx2::table;
#endif
    return is_asked_for(portable::table) ? &portable::table : nullptr;
}

}  // namespace upright
