// What the AVX2 kernels with tokens in lanes share. Only for files compiled with AVX2.
//
// A tile's 32 tokens lie in such an order that interleaving bytes, then 16-bit words, within the two halves of a register
// leaves four registers of sums with the tokens 16 h + 4 i + {0 1 2 3 | 8 9 10 11}, for h, i in {0, 1}.
#pragma once
#include <immintrin.h>

#include "avx2.h"

namespace prunella {
namespace {

#define INLINE inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")  // what is indexed stays in registers

constexpr int kTile = 32;
constexpr int kHalf = 16;
constexpr int kChunk = 256;   // rows whose partial sums are kept: 32 KB
constexpr int kAhead = 1024;  // bytes of weights to fetch ahead: with few tokens, memory is what takes time

/// 4 x 4 elements of 32 bits, in either half of the registers.
INLINE void transpose4(__m256& a, __m256& b, __m256& c, __m256& d) {
  const __m256 ab = _mm256_unpacklo_ps(a, b), AB = _mm256_unpackhi_ps(a, b);
  const __m256 cd = _mm256_unpacklo_ps(c, d), CD = _mm256_unpackhi_ps(c, d);
  a = _mm256_castpd_ps(_mm256_unpacklo_pd(_mm256_castps_pd(ab), _mm256_castps_pd(cd)));
  b = _mm256_castpd_ps(_mm256_unpackhi_pd(_mm256_castps_pd(ab), _mm256_castps_pd(cd)));
  c = _mm256_castpd_ps(_mm256_unpacklo_pd(_mm256_castps_pd(AB), _mm256_castps_pd(CD)));
  d = _mm256_castpd_ps(_mm256_unpackhi_pd(_mm256_castps_pd(AB), _mm256_castps_pd(CD)));
}

/// scratch[row][a tile's tokens in their order] -> sums[token][row], for elements of 32 bits.
INLINE void write_sums(const float* scratch, int rows, int tokens, float* sums, std::ptrdiff_t stride) {
  const int registers = tokens > kHalf ? 4 : 2;
  for (int r = 0; r < rows; r += 8)
    for (int q = 0; q < registers; ++q) {
      __m256 m[8];
      for (int i = 0; i < 8; ++i) m[i] = _mm256_load_ps(scratch + (r + i) * kTile + 8 * q);
      transpose4(m[0], m[1], m[2], m[3]);
      transpose4(m[4], m[5], m[6], m[7]);
      float* to = sums + (kHalf * (q / 2) + 4 * (q % 2)) * stride + r;
      for (int i = 0; i < 4; ++i) {
        _mm256_storeu_ps(to + i * stride, _mm256_permute2f128_ps(m[i], m[4 + i], 0x20));
        _mm256_storeu_ps(to + (8 + i) * stride, _mm256_permute2f128_ps(m[i], m[4 + i], 0x31));
      }
    }
}

/// Calls row(row, entry_begin, entry_end) for the rows of a block, in their order.
template <class Row>
INLINE void each_row(const Layout& layout, int block, int row_begin, int row_end, const Row& row) {
  const std::size_t base = static_cast<std::size_t>(block) * layout.rows;
  const auto* begins = layout.parts[0].as<std::uint32_t>() + base;
  const auto* order = layout.parts[1].as<std::uint8_t>() + base;
  for (int p = row_begin; p < row_end; ++p) row(p / kRowWindow * kRowWindow + order[p], begins[p], begins[p + 1]);
}

}  // namespace
}  // namespace prunella
