// Non-negative values that can be drawn from in proportion (see SumTree in upright/replay/prioritised.py).
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace upright {

// A tree in which each node holds the sum of 16 below it. Of a changed value the sums above are taken anew, so no
// rounding error builds up.
class SumTree {
  public:
    explicit SumTree(std::size_t capacity) {
        std::size_t size = capacity;
        do {
            size = (size + FAN - 1) / FAN;
            levels_.emplace_back(size * FAN, 0.0);
        } while (size > 1);
    }

    double total() const {
        double sum = 0;
        for (double each : levels_.back()) sum += each;
        return sum;
    }

    double operator[](std::size_t place) const { return levels_.front()[place]; }

    void set(std::size_t place, double value) {
        levels_.front()[place] = value;
        for (std::size_t level = 0; level + 1 < levels_.size(); ++level) {
            place /= FAN;
            const double* below = &levels_[level][place * FAN];
            double sum = 0;
            for (std::size_t i = 0; i < FAN; ++i) sum += below[i];
            levels_[level + 1][place] = sum;
        }
    }

    // The place at which the running sum passes `mass`, from [0, total). Rounding can leave a mass at the very end, of
    // all or below a node: it belongs to the last child there that is not 0.
    std::size_t find(double mass) const {
        std::size_t place = 0;
        for (std::size_t level = levels_.size(); level-- > 0;) {
            const double* child = &levels_[level][place * FAN];
            std::size_t last = 0, i = 0;
            for (; i < FAN; ++i) {
                if (child[i] > 0) last = i;
                if (mass < child[i]) break;
                mass -= child[i];
            }
            place = place * FAN + (i < FAN ? i : last);
        }
        return place;
    }

  private:
    static constexpr std::size_t FAN = 16;
    std::vector<std::vector<double>> levels_;  // the values first, the root's children last
};

}  // namespace upright
