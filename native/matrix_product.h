// The matrix product.
//
// A tile of C stays in registers while k runs: of each row of B a few vectors are loaded once, and every entry of a
// column of A is broadcast against them. B's and C's rows are contiguous. A may be read along either axis, so that Wᵀ
// costs no transposition.
#pragma once

#include <utility>

#include "kernels.h"
#include "vector.h"

namespace upright::UPRIGHT_INSTRUCTION_SET {

// A tile is up to WIDE vectors wide, and as tall as leaves registers for one row of B and one broadcast entry of A.
constexpr int WIDE = REGISTERS == 32 ? 4 : 2;
constexpr int tallest(int vectors) {
    const int rows = (REGISTERS - 1 - vectors) / vectors;
    return rows < 16 ? rows : 16;
}
// Longer sums are taken in parts, so that the rows of B that a part reads stay in the cache.
constexpr Size PART = 256;

template <Start start, int rows, int vectors>
void tile(const Product& p, Size i, Size j) {
    Vector sum[rows][vectors];
    float* c = p.c + i * p.c_row + j;
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r)
#pragma GCC unroll 16
        for (int v = 0; v < vectors; ++v) {
            if constexpr (start == Start::accumulate)
                sum[r][v] = load(c + r * p.c_row + v * WIDTH);
            else if constexpr (start == Start::column)
                sum[r][v] = everywhere(p.column[i + r]);
            else
                sum[r][v] = Vector{};
        }
    const float* a = p.a + i * p.a_row;
    const float* b = p.b + j;
    const Size a_row = p.a_row, a_column = p.a_column, b_row = p.b_row;
    for (Size k = 0; k < p.k; ++k) {
        Vector row[vectors];
#pragma GCC unroll 16
        for (int v = 0; v < vectors; ++v) row[v] = load(b + k * b_row + v * WIDTH);
#pragma GCC unroll 16
        for (int r = 0; r < rows; ++r) {
            const Vector entry = everywhere(a[r * a_row + k * a_column]);
#pragma GCC unroll 16
            for (int v = 0; v < vectors; ++v) sum[r][v] += entry * row[v];
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r)
#pragma GCC unroll 16
        for (int v = 0; v < vectors; ++v) store(c + r * p.c_row + v * WIDTH, sum[r][v]);
}

// The tiles below each other at column j; the last one may be shorter.
template <Start start, int vectors>
void strip(const Product& p, Size j) {
    constexpr int rows = tallest(vectors);
    Size i = 0;
    for (; i + rows <= p.m; i += rows) tile<start, rows, vectors>(p, i, j);
    const auto shorter = [&]<int... rest>(std::integer_sequence<int, rest...>) {
        (void)((p.m - i == rest + 1 && (tile<start, rest + 1, vectors>(p, i, j), true)) || ...);
    };
    shorter(std::make_integer_sequence<int, rows - 1>{});
}

template <Start start>
void multiply_part(const Product& p) {
    Size j = 0;
    for (; j + WIDE * WIDTH <= p.n; j += WIDE * WIDTH) strip<start, WIDE>(p, j);
    if constexpr (WIDE * WIDTH > MULTIPLE) {  // else nothing can be left
        if (j + 2 * WIDTH <= p.n) {
            strip<start, 2>(p, j);
            j += 2 * WIDTH;
        }
        if (j < p.n) strip<start, 1>(p, j);
    }
}

inline void multiply(Start start, const Product& product) {
    Product part = product;
    for (Size k = 0; k == 0 || k < product.k; k += PART) {
        part.k = product.k - k < PART ? product.k - k : PART;
        part.a = product.a + k * product.a_column;
        part.b = product.b + k * product.b_row;
        switch (k == 0 ? start : Start::accumulate) {
            case Start::zero: multiply_part<Start::zero>(part); break;
            case Start::column: multiply_part<Start::column>(part); break;
            case Start::accumulate: multiply_part<Start::accumulate>(part); break;
        }
    }
}

// Four rows at a time, each along its entries; what is left of k after whole vectors is added one by one.
template <int rows>
void multiply_rows(Size k, const float* a, Size a_row, const float* x, const float* column, float* y) {
    Vector sum[rows][2] = {};
    Size j = 0;
    for (; j + 2 * WIDTH <= k; j += 2 * WIDTH)
#pragma GCC unroll 8
        for (int r = 0; r < rows; ++r) {
            sum[r][0] += load(a + r * a_row + j) * load(x + j);
            sum[r][1] += load(a + r * a_row + j + WIDTH) * load(x + j + WIDTH);
        }
    for (int r = 0; r < rows; ++r) {
        float total = column[r] + sum_of(sum[r][0] + sum[r][1]);
        for (Size rest = j; rest < k; ++rest) total += a[r * a_row + rest] * x[rest];
        y[r] = total;
    }
}

inline void multiply_vector(Size m, Size k, const float* a, Size a_row, const float* x, const float* column, float* y) {
    Size i = 0;
    for (; i + 4 <= m; i += 4) multiply_rows<4>(k, a + i * a_row, a_row, x, column + i, y + i);
    for (; i < m; ++i) multiply_rows<1>(k, a + i * a_row, a_row, x, column + i, y + i);
}

// Blocks of 16×16: a block's lines stay in the nearest cache while it is read along one axis and written along the
// other.
inline void transpose(Size rows, Size columns, const float* from, Size from_row, float* to, Size to_row) {
    for (Size i = 0; i < rows; i += MULTIPLE)
        for (Size j = 0; j < columns; j += MULTIPLE)
            transpose_block(from + i * from_row + j, from_row, to + j * to_row + i, to_row);
}

}  // namespace upright::UPRIGHT_INSTRUCTION_SET
