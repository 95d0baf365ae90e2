// What the AVX-512 kernels share. Everything is in an anonymous namespace, see kernel.h.
#pragma once
#include <immintrin.h>

#include "avx512.h"

/// Arrays become registers only if the loops over them are unrolled early, which the compiler must be told.
#define UNROLL _Pragma("GCC unroll 16")

namespace prunella {
namespace {

constexpr int round_up(int n, int multiple) { return (n + multiple - 1) / multiple * multiple; }

/// Tokens that a block is computed as: lanes are wasted on the rest.
constexpr int width_for(int tokens) { return tokens <= 16 ? 16 : tokens <= 32 ? 32 : 64; }

/// How far ahead weights are fetched to the L2 cache, in bytes: in a model they come from further away each time.
constexpr int kAhead = 16384;

/// Asks for the lines of 64 bytes that begin `ahead` bytes behind p.
template <int kLines>
inline void fetch_ahead(const void* p, int ahead) {
  UNROLL
  for (int i = 0; i < kLines; ++i) _mm_prefetch(static_cast<const char*>(p) + ahead + 64 * i, _MM_HINT_T1);
}

/// 64 bytes: an index vector, made at compile time.
template <class T>
struct alignas(64) Lanes {
  T at[64 / sizeof(T)];
  __m512i vector() const { return _mm512_load_si512(at); }
};
using Bytes = Lanes<std::uint8_t>;

/// out[c] = the 16 words of 32 bits in column c of 16 rows that lie `stride` bytes apart.
///
/// Rows meet while they are loaded, 16 bytes each, so that only half of the usual shuffles remain.
inline void transpose16(const void* rows, std::ptrdiff_t stride, __m512i* out) {
  const auto* from = static_cast<const char*>(rows);
  for (int c = 0; c < 4; ++c) {
    __m512i z[4];
    for (int i = 0; i < 4; ++i) {
      const auto quarter = [&](int q) {
        return _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + (4 * q + i) * stride + 16 * c));
      };
      z[i] = _mm512_castsi128_si512(quarter(0));
      z[i] = _mm512_inserti32x4(z[i], quarter(1), 1);
      z[i] = _mm512_inserti32x4(z[i], quarter(2), 2);
      z[i] = _mm512_inserti32x4(z[i], quarter(3), 3);
    }
    const __m512i a = _mm512_unpacklo_epi32(z[0], z[1]), b = _mm512_unpackhi_epi32(z[0], z[1]);
    const __m512i d = _mm512_unpacklo_epi32(z[2], z[3]), e = _mm512_unpackhi_epi32(z[2], z[3]);
    out[4 * c] = _mm512_unpacklo_epi64(a, d);
    out[4 * c + 1] = _mm512_unpackhi_epi64(a, d);
    out[4 * c + 2] = _mm512_unpacklo_epi64(b, e);
    out[4 * c + 3] = _mm512_unpackhi_epi64(b, e);
  }
}

/// Writes 16 rows of sums, each of `width` tokens (a multiple of 16), as columns: sums[token][row].
inline void write_rows(const void* rows, int width, int tokens, void* sums, std::ptrdiff_t sum_stride) {
  for (int t = 0; t < tokens; t += 16) {
    __m512i columns[16];
    transpose16(static_cast<const char*>(rows) + 4 * t, 4 * width, columns);
    auto* to = static_cast<char*>(sums) + 4 * t * sum_stride;
    for (int i = 0; i < 16; ++i) _mm512_store_si512(to + 4 * i * sum_stride, columns[i]);
  }
}

/// Multiplies one tile of columns after another: row(tile, r, window) makes the sums of kRows rows, those at r in the order
/// of their window. `window` is where the window's sums are, [row][kWidth tokens]: row() finds the row's place there, and adds
/// to what is there in all tiles but the first.
template <int kWidth, int kRows, class Sum, class Row>
inline void multiply_tiles(int tiles, int tokens, int row_begin, int row_end, Sum* sums, std::ptrdiff_t sum_stride,
                           const Row& row) {
  constexpr int kScratchRows = 128;  // whose sums wait while several tiles are passed
  static_assert(kScratchRows % kRowWindow == 0);
  alignas(64) Sum scratch[kScratchRows * kWidth];
  if (tiles == 0) __builtin_memset(scratch, 0, sizeof(scratch));
  const int block = tiles > 1 ? kScratchRows : kRowWindow;
  for (int first = row_begin; first < row_end; first += block) {
    const int end = first + block < row_end ? first + block : round_up(row_end, 16);
    for (int tile = 0; tile < tiles; ++tile)
      for (int r = first; r < end; r += kRows)
        row(tile, r, scratch + (r - first) / kRowWindow * kRowWindow * kWidth);
    for (int r = first; r < end; r += 16)
      write_rows(scratch + (r - first) * kWidth, kWidth, tokens, sums + r - row_begin, sum_stride);
  }
}

/// The transposed order of four registers of four 128-bit quarters.
inline void transpose_quarters(__m512i* z) {
  const __m512i a = _mm512_shuffle_i32x4(z[0], z[1], 0x44), b = _mm512_shuffle_i32x4(z[2], z[3], 0x44);
  const __m512i c = _mm512_shuffle_i32x4(z[0], z[1], 0xEE), d = _mm512_shuffle_i32x4(z[2], z[3], 0xEE);
  z[0] = _mm512_shuffle_i32x4(a, b, 0x88);
  z[1] = _mm512_shuffle_i32x4(a, b, 0xDD);
  z[2] = _mm512_shuffle_i32x4(c, d, 0x88);
  z[3] = _mm512_shuffle_i32x4(c, d, 0xDD);
}

}  // namespace
}  // namespace prunella
