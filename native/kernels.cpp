// Compiled once for each instruction set, which UPRIGHT_INSTRUCTION_SET names. Nothing of the standard library's that
// could leave a function behind is used below this line: the linker would keep one copy for all, compiled for whichever.
#include "kernels.h"
#include "layers.h"
#include "losses.h"
#include "matrix_product.h"
#include "optimizer.h"

namespace upright::UPRIGHT_INSTRUCTION_SET {

inline double multiply_and_add(std::int64_t rounds, float* sink) {
    constexpr int count = REGISTERS == 32 ? 20 : 10;
#if defined(__aarch64__)
    // NEON's instruction adds to what it overwrites. The compiler does not know the factor, and so not the result.
    const Vector factor = everywhere(0.001f / static_cast<float>(rounds));
    const auto next = [factor](Vector sum) { return sum + sum * factor; };
#else
    const Vector factor = everywhere(0.999f), term = everywhere(0.001f);
    const auto next = [factor, term](Vector sum) { return sum * factor + term; };
#endif
    Vector sum[count];
#pragma GCC unroll 20
    for (int i = 0; i < count; ++i) sum[i] = everywhere(static_cast<float>(i));
    for (std::int64_t round = 0; round < rounds; ++round)
#pragma GCC unroll 20
        for (int i = 0; i < count; ++i) sum[i] = next(sum[i]);
    Vector total{};
    for (int i = 0; i < count; ++i) total += sum[i];
    *sink = sum_of(total);
    return 2.0 * WIDTH * count * static_cast<double>(rounds);
}

extern const Kernels table;
const Kernels table = {
    NAME,
    multiply,
    multiply_vector,
    transpose,
    sum_rows,
    sum_of_squares,
    activate,
    deactivate,
    normalise,
    denormalise,
    duel,
    separate,
    add_noise,
    noise_gradient,
    cosines,
    mix,
    unmix,
    action_values,
    temporal_difference,
    optimize,
    move_towards,
    multiply_and_add,
};

}  // namespace upright::UPRIGHT_INSTRUCTION_SET
