// Attention of a head in bf16 with vector instructions (vdpbf16ps).

#include <immintrin.h>

#include "vector.h"

namespace prunella {
namespace {

struct Unit {};

/// Four rows of a times up to four neighbouring tiles of b: 16 sums in registers.
template <int kTiles>
inline void four_rows(const char* a, std::ptrdiff_t a_stride, const char* b, std::ptrdiff_t b_column,
                      std::ptrdiff_t b_row, int inner_tiles, char* out, std::ptrdiff_t out_stride) {
  __m512 sums[4][kTiles];
  for (auto& row : sums)
    for (auto& sum : row) sum = _mm512_setzero_ps();
  for (int i = 0; i < inner_tiles; ++i) {
    for (int pair = 0; pair < 16; ++pair) {
      __m512bh right[kTiles];
      for (int j = 0; j < kTiles; ++j)
        right[j] = reinterpret_cast<__m512bh>(_mm512_load_si512(b + i * b_row + j * b_column + 64 * pair));
      for (int r = 0; r < 4; ++r) {
        std::int32_t both;
        __builtin_memcpy(&both, a + r * a_stride + 64 * i + 4 * pair, 4);
        const __m512bh left = reinterpret_cast<__m512bh>(_mm512_set1_epi32(both));
        for (int j = 0; j < kTiles; ++j) sums[r][j] = _mm512_dpbf16_ps(sums[r][j], left, right[j]);
      }
    }
  }
  for (int r = 0; r < 4; ++r)
    for (int j = 0; j < kTiles; ++j) _mm512_store_ps(out + r * out_stride + 64 * j, sums[r][j]);
}

/// Up to four neighbouring tiles of out [16, columns] = a [16, inner] b, with b in tiles.
inline void four_tiles(const char* a, std::ptrdiff_t a_stride, const char* b, std::ptrdiff_t b_column,
                       std::ptrdiff_t b_row, int inner_tiles, int count, char* out, std::ptrdiff_t out_stride) {
  using Rows = void (*)(const char*, std::ptrdiff_t, const char*, std::ptrdiff_t, std::ptrdiff_t, int, char*,
                        std::ptrdiff_t);
  constexpr Rows kRows[] = {four_rows<1>, four_rows<2>, four_rows<3>, four_rows<4>};
  const Rows rows = kRows[(count < 4 ? count : 4) - 1];
  for (int r = 0; r < 16; r += 4)
    rows(a + r * a_stride, a_stride, b, b_column, b_row, inner_tiles, out + r * out_stride, out_stride);
}

}  // namespace
}  // namespace prunella

#include "attention_half.inl"

namespace prunella {

extern const Attention attention_half_avx512 = {attend, scratch_bytes};

}  // namespace prunella
