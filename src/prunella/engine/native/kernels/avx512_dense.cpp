#include "amx.h"
#include "avx512.h"
#include "avx512_common.h"

namespace prunella {
namespace {

constexpr int kTileTokens = 6;  // of a register tile, with four registers of weights: 24 sums, and 8 registers to spare

// ---- int8 and bf16: 16 rows in lanes, four bytes of inputs broadcast ----

inline __m512i dot(__m512i sum, __m512i x, __m512i w, std::uint8_t) { return _mm512_dpbusd_epi32(sum, x, w); }
inline __m512i dot(__m512i sum, __m512i x, __m512i w, std::uint16_t) {
  return _mm512_castps_si512(_mm512_dpbf16_ps(_mm512_castsi512_ps(sum), (__m512bh)x, (__m512bh)w));
}

/// kBlocks x 16 rows, `block` bytes apart, times kTokens.
template <class Input, int kBlocks, int kTokens>
inline void packed_tile(const char* weights, std::ptrdiff_t block, const char* inputs, std::ptrdiff_t stride,
                        int groups, void* sums, std::ptrdiff_t sum_stride) {
  __m512i sum[kTokens][kBlocks];
  UNROLL
  for (int t = 0; t < kTokens; ++t)
    UNROLL
    for (int b = 0; b < kBlocks; ++b) sum[t][b] = _mm512_setzero_si512();
  for (int k = 0; k < groups; ++k) {
    __m512i w[kBlocks];
    UNROLL
    for (int b = 0; b < kBlocks; ++b) w[b] = _mm512_load_si512(weights + block * b + std::ptrdiff_t{64} * k);
    UNROLL
    for (int t = 0; t < kTokens; ++t) {
      const __m512i x = _mm512_set1_epi32(*reinterpret_cast<const std::int32_t*>(inputs + t * stride + 4 * k));
      UNROLL
      for (int b = 0; b < kBlocks; ++b) sum[t][b] = dot(sum[t][b], x, w[b], Input{});
    }
  }
  auto* to = static_cast<char*>(sums);
  UNROLL
  for (int t = 0; t < kTokens; ++t)
    UNROLL
    for (int b = 0; b < kBlocks; ++b) _mm512_store_si512(to + 4 * t * sum_stride + 64 * b, sum[t][b]);
}

template <class Input, int kBlocks>
inline void packed_rows(const char* weights, std::ptrdiff_t block, const char* inputs, std::ptrdiff_t stride,
                        int tokens, int groups, char* sums, std::ptrdiff_t sum_stride) {
  using Tile = void (*)(const char*, std::ptrdiff_t, const char*, std::ptrdiff_t, int, void*, std::ptrdiff_t);
  constexpr Tile kTiles[] = {packed_tile<Input, kBlocks, 1>, packed_tile<Input, kBlocks, 2>,
                             packed_tile<Input, kBlocks, 3>, packed_tile<Input, kBlocks, 4>,
                             packed_tile<Input, kBlocks, 5>, packed_tile<Input, kBlocks, 6>};
  for (int t = 0; t < tokens; t += kTileTokens) {
    const int count = tokens - t < kTileTokens ? tokens - t : kTileTokens;
    kTiles[count - 1](weights, block, inputs + t * stride, stride, groups, sums + 4 * t * sum_stride, sum_stride);
  }
}

template <class Input, class Weight, class Sum>
void multiply_packed(const Layout& layout, const Input* inputs, std::ptrdiff_t stride, int tokens, int row_begin,
                     int row_end, Sum* sums, std::ptrdiff_t sum_stride) {
  constexpr int kColumns = 64 / sizeof(Weight);
  const int across = (layout.columns + kColumns - 1) / kColumns, groups = 16 * across;
  const std::ptrdiff_t block = std::ptrdiff_t{1024} * across;
  const auto* x = reinterpret_cast<const char*>(inputs);
  for (int row = row_begin; row < row_end;) {
    const int blocks = (row_end - row + 15) / 16;
    const char* weights = layout.parts[1].as<char>() + block * (row / 16);
    const auto rows = blocks >= 4   ? packed_rows<Input, 4>
                      : blocks >= 2 ? packed_rows<Input, 2>
                                    : packed_rows<Input, 1>;
    rows(weights, block, x, stride * static_cast<std::ptrdiff_t>(sizeof(Input)), tokens, groups,
         reinterpret_cast<char*>(sums + row - row_begin), sum_stride);
    row += blocks >= 4 ? 64 : blocks >= 2 ? 32 : 16;
  }
}

// ---- fp32: the caller's matrix, columns in lanes ----

constexpr int kTileRows = 4;
constexpr int kSpan = 768;  // columns of four rows and six tokens that the L1 cache holds

/// (sum of a, sum of b, sum of c, sum of d)
inline __m128 sums_of(__m512 a, __m512 b, __m512 c, __m512 d) {
  const __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
  const __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
  const __m512 all = _mm512_add_ps(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xEE));
  const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(all), _mm512_extractf32x8_ps(all, 1));
  return _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
}

/// sums (= or +=) four rows times kTokens over the first `columns` of what it is given.
template <int kTokens>
void float_tile(const float* const* weights, const float* inputs, std::ptrdiff_t stride, int columns, bool add,
                float* sums, std::ptrdiff_t sum_stride) {
  __m512 sum[kTokens][kTileRows];
  UNROLL
  for (int t = 0; t < kTokens; ++t)
    UNROLL
    for (int r = 0; r < kTileRows; ++r) sum[t][r] = _mm512_setzero_ps();
  for (int k = 0; k < columns; k += 16) {
    const auto mask = static_cast<__mmask16>(k + 16 <= columns ? 0xFFFF : (1u << (columns - k)) - 1);
    __m512 w[kTileRows];
    UNROLL
    for (int r = 0; r < kTileRows; ++r) w[r] = _mm512_maskz_loadu_ps(mask, weights[r] + k);
    UNROLL
    for (int t = 0; t < kTokens; ++t) {
      const __m512 x = _mm512_load_ps(inputs + t * stride + k);
      UNROLL
      for (int r = 0; r < kTileRows; ++r) sum[t][r] = _mm512_fmadd_ps(x, w[r], sum[t][r]);
    }
  }
  UNROLL
  for (int t = 0; t < kTokens; ++t) {
    float* to = sums + t * sum_stride;
    const __m128 four = sums_of(sum[t][0], sum[t][1], sum[t][2], sum[t][3]);
    _mm_store_ps(to, add ? _mm_add_ps(four, _mm_load_ps(to)) : four);
  }
}

void multiply_floats(const Layout& layout, const float* inputs, std::ptrdiff_t stride, int tokens, int row_begin,
                     int row_end, float* sums, std::ptrdiff_t sum_stride) {
  using Tile = void (*)(const float* const*, const float*, std::ptrdiff_t, int, bool, float*, std::ptrdiff_t);
  constexpr Tile kTiles[] = {float_tile<1>, float_tile<2>, float_tile<3>,
                             float_tile<4>, float_tile<5>, float_tile<6>};
  const auto* matrix = static_cast<const float*>(layout.borrowed);
  for (int row = row_begin; row < row_end; row += kTileRows)
    for (int k = 0; k == 0 || k < layout.columns; k += kSpan) {
      const int columns = layout.columns - k < kSpan ? layout.columns - k : kSpan;
      const float* weights[kTileRows];
      for (int r = 0; r < kTileRows; ++r)  // behind the end of the matrix: its last row again
        weights[r] = matrix + std::ptrdiff_t{layout.columns} * (row + r < row_end ? row + r : row_end - 1) + k;
      for (int t = 0; t < tokens; t += kTileTokens) {
        const int count = tokens - t < kTileTokens ? tokens - t : kTileTokens;
        kTiles[count - 1](weights, inputs + t * stride + k, stride, columns, k > 0,
                          sums + t * sum_stride + row - row_begin, sum_stride);
      }
    }
}

void borrow(const Matrix<float>& matrix, Layout& layout) {
  layout.rows = matrix.rows;
  layout.columns = matrix.columns;
  layout.borrowed = matrix.values;
}

template <class Input, class Weight, class Sum>
constexpr Kernel<Input, Weight, Sum> packed(const char* name) {
  return {name, Isa::avx512, true, 64, 128, prepare_tiles<Weight, 1>, nullptr, nullptr,
          multiply_packed<Input, Weight, Sum>};
}

}  // namespace

const Int8Kernel int8_avx512_dense = packed<std::uint8_t, std::int8_t, std::int32_t>("vnni dense");
const Bf16Kernel bf16_avx512_dense = packed<std::uint16_t, std::uint16_t, float>("bf16 dense");
const Fp32Kernel fp32_avx512_dense = {"dense", Isa::avx512, true, 16, 64, borrow, nullptr, nullptr, multiply_floats};

}  // namespace prunella
