// 8-bit codes in pairs: the bytes of two features interleaved are multiplied and added by one instruction into 16 bits.
//
// That instruction (vpmaddubsw) saturates, so that nothing may come near its limits: activations are taken less 128,
// which is put right by a constant of the row, weights as magnitudes, and the magnitudes of a group of one or two pairs,
// whose products are added in 16 bits, sum to 256 at most (the layout sees to that): -256 * 128 = -2^15. The group's
// sign, and the sum of two groups in 32 bits, come with the next multiply-add.
#include "avx2_tile.h"

namespace prunella {
namespace {

INLINE __m256i load(const void* from) { return _mm256_load_si256(static_cast<const __m256i*>(from)); }

// What the 16-bit sums of two groups side by side are multiplied with, by the bits that say which are negative.
alignas(64) constexpr std::int16_t kSigns[4][16] = {
    {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1},
    {-1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1},
    {1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1},
    {-1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1},
};

/// Two features' bytes interleaved: the tile's first half, and its second.
template <int kHalves>
INLINE void interleave_pair(__m256i a, __m256i b, __m256i* out) {
  out[0] = _mm256_unpacklo_epi8(a, b);
  if constexpr (kHalves == 2) out[1] = _mm256_unpackhi_epi8(a, b);
}

/// 16-bit sums of two groups side by side: what out[q] holds belongs to register q of a row's sums.
template <int kHalves>
INLINE void multiply_groups(const Avx2Groups<1>& groups, const __m256i* x, __m256i* out) {
  __m256i u[kHalves], v[kHalves];
  interleave_pair<kHalves>(x[0], x[1], u);
  interleave_pair<kHalves>(x[2], x[3], v);
  const __m256i w = _mm256_set1_epi32(static_cast<int>(groups.weights[0]));
  UNROLL
  for (int h = 0; h < kHalves; ++h) {
    out[2 * h] = _mm256_maddubs_epi16(w, _mm256_unpacklo_epi16(u[h], v[h]));
    out[2 * h + 1] = _mm256_maddubs_epi16(w, _mm256_unpackhi_epi16(u[h], v[h]));
  }
}
template <int kHalves>
INLINE void multiply_groups(const Avx2Groups<2>& groups, const __m256i* x, __m256i* out) {
  __m256i sums[2][kHalves];
  UNROLL
  for (int p = 0; p < 4; ++p) {
    __m256i pair[kHalves];
    interleave_pair<kHalves>(x[2 * p], x[2 * p + 1], pair);
    const __m256i w = _mm256_set1_epi32(static_cast<int>(groups.weights[p]));
    UNROLL
    for (int h = 0; h < kHalves; ++h) {
      const __m256i product = _mm256_maddubs_epi16(w, pair[h]);
      sums[p / 2][h] = p % 2 ? _mm256_add_epi16(sums[p / 2][h], product) : product;
    }
  }
  UNROLL
  for (int h = 0; h < kHalves; ++h) {
    out[2 * h] = _mm256_unpacklo_epi16(sums[0][h], sums[1][h]);
    out[2 * h + 1] = _mm256_unpackhi_epi16(sums[0][h], sums[1][h]);
  }
}

/// sums (= start, or +=) one row's products with a block of a tile.
template <int kPairs, int kHalves>
INLINE void add_row(const Avx2Groups<kPairs>* groups, const Avx2Groups<kPairs>* end, const char* x,
                    const std::int32_t* start, std::int32_t* sums) {
  constexpr int kRegisters = 2 * kHalves;
  __m256i total[kRegisters], products[kRegisters], features[4 * kPairs];
  UNROLL
  for (int q = 0; q < kRegisters; ++q) total[q] = start ? _mm256_set1_epi32(*start) : load(sums + 8 * q);
  for (; groups < end; ++groups) {
    _mm_prefetch(reinterpret_cast<const char*>(groups) + kAhead, _MM_HINT_T0);
    const std::uint32_t first = groups->offsets[0];
    features[0] = load(x + (first & ~31u));
    UNROLL
    for (int i = 1; i < 4 * kPairs; ++i) features[i] = load(x + groups->offsets[i]);
    multiply_groups<kHalves>(*groups, features, products);
    // Bits 3 and 4 times 4: a row of 32 bytes.
    const __m256i signs = load(reinterpret_cast<const char*>(kSigns) + (first & 24) * 4);
    UNROLL
    for (int q = 0; q < kRegisters; ++q) total[q] = _mm256_add_epi32(total[q], _mm256_madd_epi16(products[q], signs));
  }
  UNROLL
  for (int q = 0; q < kRegisters; ++q) _mm256_store_si256(reinterpret_cast<__m256i*>(sums + 8 * q), total[q]);
}

template <int kPairs, int kHalves>
void tile(const Layout& layout, const char* x, int row_begin, int row_end, std::int32_t* scratch) {
  const auto* groups = layout.parts[kPairs == 2 ? 2 : 4].as<Avx2Groups<kPairs>>();
  const auto* starts = layout.parts[3].as<std::int32_t>();
  const ColumnBlocks blocks = avx2_blocks(layout.columns, kAvx2PairsBlock);
  for (int b = 0; b < blocks.count; ++b, x += kTile * blocks.width)
    each_row(layout, b, row_begin, row_end, [&](int row, std::uint32_t begin, std::uint32_t end) {
      add_row<kPairs, kHalves>(groups + begin, groups + end, x, b ? nullptr : starts + row,
                               scratch + (row - row_begin) * kTile);
    });
}

void multiply(const Layout& layout, const std::uint8_t* inputs, std::ptrdiff_t, int tokens, int row_begin, int row_end,
              std::int32_t* sums, std::ptrdiff_t sum_stride) {
  alignas(64) std::int32_t scratch[kChunk * kTile];
  for (int row = row_begin; row < row_end; row += kChunk) {
    const int end = row_end - row < kChunk ? row_end : row + kChunk;
    for (int t = 0; t < tokens; t += kTile) {
      const char* x = reinterpret_cast<const char*>(inputs) + static_cast<std::ptrdiff_t>(t) * layout.columns;
      const bool both = tokens - t > kHalf;
      if (layout.parts[4].bytes())
        (both ? tile<1, 2> : tile<1, 1>)(layout, x, row, end, scratch);
      else
        (both ? tile<2, 2> : tile<2, 1>)(layout, x, row, end, scratch);
      write_sums(reinterpret_cast<const float*>(scratch), end - row, tokens - t,
                 reinterpret_cast<float*>(sums + t * sum_stride + row - row_begin), sum_stride);
    }
  }
}

std::size_t arranged_size(int tokens, int columns) {
  return static_cast<std::size_t>(tokens + kTile - 1) / kTile * kTile * columns;
}

/// One step of a transposition of 16 x 16 bytes: interleaves registers i and i + 8.
INLINE void interleave(const __m256i (&in)[16], __m256i (&out)[16]) {
  for (int i = 0; i < 8; ++i) {
    out[2 * i] = _mm256_unpacklo_epi8(in[i], in[i + 8]);
    out[2 * i + 1] = _mm256_unpackhi_epi8(in[i], in[i + 8]);
  }
}

/// Halves of registers hold 16 features of a token: tokens 0-7 and 16-23 in the first halves, 8-15 and 24-31 in the second.
void arrange(const std::uint8_t* rows, std::ptrdiff_t stride, int tokens, int columns, std::uint8_t* out) {
  const __m256i flip = _mm256_set1_epi8(-128);
  for (int t = 0; t < tokens; t += kTile, out += static_cast<std::ptrdiff_t>(kTile) * columns)
    for (int k = 0; k < columns; k += 16) {
      const std::uint8_t* from = rows + t * stride + k;
      __m256i a[16], b[16];
      for (int i = 0; i < 16; ++i) {
        const std::uint8_t* first = from + (i + i / 8 * 8) * stride;
        if (i >= 8 && tokens - t <= kHalf) first = from;  // of no tokens: anything that may be read
        a[i] = _mm256_xor_si256(flip, _mm256_loadu2_m128i(reinterpret_cast<const __m128i*>(first + 8 * stride),
                                                          reinterpret_cast<const __m128i*>(first)));
      }
      interleave(a, b);
      interleave(b, a);
      interleave(a, b);
      interleave(b, a);
      const int count = columns - k < 16 ? columns - k : 16;
      for (int i = 0; i < count; ++i)
        _mm256_store_si256(reinterpret_cast<__m256i*>(out + static_cast<std::ptrdiff_t>(k + i) * kTile), a[i]);
    }
}

}  // namespace

const Int8Kernel int8_avx2 = {"avx2 pairs", Isa::avx2,     false,   kRowWindow, 128, prepare_avx2_pairs,
                              arranged_size, arrange, multiply};

}  // namespace prunella
