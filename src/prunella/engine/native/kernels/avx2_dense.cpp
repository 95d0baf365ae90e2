// Dense matrices: 16 rows in lanes, a token's inputs broadcast. A register tile is 2 registers of rows by up to 6 tokens;
// a span of columns keeps the weights of 16 rows in the L1 cache and the inputs of a block of tokens in the L2.
#include <immintrin.h>

#include "avx2.h"

namespace prunella {
namespace {

#define INLINE inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")  // sums stay in registers only if every index is known

constexpr int kTokens = 6;
constexpr int kRegisters = kAvx2DenseRows / 8;
constexpr int kKept = 16;  // inputs that are converted together

// The three arithmetics: kColumns columns at a time, for inputs as the kernel keeps them (Kept).

INLINE __m256 widened(const std::uint16_t* from) {
  const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
  return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}
INLINE __m256 widened(const float* from) { return _mm256_load_ps(from); }

template <class T>
struct Floats {
  using Input = T;
  using Kept = float;
  using Weight = T;
  using Sum = float;
  using Register = __m256;
  static constexpr int kSpan = 384;
  static INLINE __m256 load(const float* p) { return _mm256_load_ps(p); }
  static INLINE void store(float* p, __m256 v) { _mm256_store_ps(p, v); }
  static INLINE void keep(const T* from, float* to) {
    for (int i = 0; i < kKept; i += 8) _mm256_storeu_ps(to + i, widened(from + i));
  }
  template <int kCount>
  static INLINE void add(const T* w, const float* x, std::ptrdiff_t stride, __m256 (&sums)[kCount][kRegisters]) {
    __m256 rows[kRegisters];
    UNROLL
    for (int b = 0; b < kRegisters; ++b) rows[b] = widened(w + 8 * b);
    UNROLL
    for (int t = 0; t < kCount; ++t) {
      const __m256 input = _mm256_broadcast_ss(x + t * stride);
      UNROLL
      for (int b = 0; b < kRegisters; ++b) sums[t][b] = _mm256_fmadd_ps(input, rows[b], sums[t][b]);
    }
  }
};
using Fp32 = Floats<float>;
using Bf16 = Floats<std::uint16_t>;

struct Int8 {
  using Input = std::uint8_t;
  using Kept = std::int16_t;  // 16-bit products of two columns are added in 32 bits: nothing saturates
  using Weight = std::int8_t;
  using Sum = std::int32_t;
  using Register = __m256i;
  static constexpr int kSpan = 768;
  static INLINE __m256i load(const std::int32_t* p) { return _mm256_load_si256(reinterpret_cast<const __m256i*>(p)); }
  static INLINE void store(std::int32_t* p, __m256i v) { _mm256_store_si256(reinterpret_cast<__m256i*>(p), v); }
  static INLINE void keep(const std::uint8_t* from, std::int16_t* to) {
    const __m256i wide = _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), wide);
  }
  template <int kCount>
  static INLINE void add(const std::int8_t* w, const std::int16_t* x, std::ptrdiff_t stride,
                         __m256i (&sums)[kCount][kRegisters]) {
    __m256i rows[kRegisters];
    UNROLL
    for (int b = 0; b < kRegisters; ++b)
      rows[b] = _mm256_cvtepi8_epi16(_mm_load_si128(reinterpret_cast<const __m128i*>(w + 16 * b)));
    UNROLL
    for (int t = 0; t < kCount; ++t) {
      std::int32_t pair;
      __builtin_memcpy(&pair, x + t * stride, sizeof(pair));
      const __m256i input = _mm256_set1_epi32(pair);
      UNROLL
      for (int b = 0; b < kRegisters; ++b)
        sums[t][b] = _mm256_add_epi32(sums[t][b], _mm256_madd_epi16(input, rows[b]));
    }
  }
};

/// sums (= or +=) 16 rows times kCount tokens over `groups` groups of columns.
template <class A, int kCount>
void tile(const typename A::Weight* w, const typename A::Kept* x, std::ptrdiff_t stride, int groups, bool more,
          typename A::Sum* out, std::ptrdiff_t out_stride) {
  constexpr int kColumns = kAvx2DenseColumns<typename A::Weight>;
  typename A::Register sums[kCount][kRegisters] = {};
  if (more)
    UNROLL
    for (int t = 0; t < kCount; ++t)
      UNROLL
      for (int b = 0; b < kRegisters; ++b) sums[t][b] = A::load(out + t * out_stride + 8 * b);
  for (int g = 0; g < groups; ++g, w += kColumns * kAvx2DenseRows, x += kColumns) A::add(w, x, stride, sums);
  UNROLL
  for (int t = 0; t < kCount; ++t)
    UNROLL
    for (int b = 0; b < kRegisters; ++b) A::store(out + t * out_stride + 8 * b, sums[t][b]);
}

constexpr std::ptrdiff_t kept_columns(int columns) { return (columns + kKept - 1) / kKept * kKept; }

template <class A>
void multiply(const Layout& layout, const typename A::Input* inputs, std::ptrdiff_t stride, int tokens, int row_begin,
              int row_end, typename A::Sum* sums, std::ptrdiff_t sum_stride) {
  using Kept = typename A::Kept;
  using Weight = typename A::Weight;
  constexpr int kColumns = kAvx2DenseColumns<Weight>;
  constexpr void (*kTiles[])(const Weight*, const Kept*, std::ptrdiff_t, int, bool, typename A::Sum*, std::ptrdiff_t) = {
      tile<A, 1>, tile<A, 2>, tile<A, 3>, tile<A, 4>, tile<A, 5>, tile<A, 6>};
  const auto* kept = reinterpret_cast<const Kept*>(inputs);
  if constexpr (sizeof(Kept) != sizeof(*inputs)) stride = kept_columns(layout.columns);
  const int groups = (layout.columns + kColumns - 1) / kColumns;
  const std::ptrdiff_t block = std::ptrdiff_t{groups} * kColumns * kAvx2DenseRows;
  const int tiles = (tokens + kTokens - 1) / kTokens;
  for (int g = 0; g == 0 || g < groups; g += A::kSpan / kColumns) {
    const int count = groups - g < A::kSpan / kColumns ? groups - g : A::kSpan / kColumns;
    for (int row = row_begin; row < row_end; row += kAvx2DenseRows) {
      const Weight* w = layout.parts[0].as<Weight>() + block * (row / kAvx2DenseRows) + g * kColumns * kAvx2DenseRows;
      for (int i = 0; i < tiles; ++i) {
        // Tiles of about equal size: a last one of a single token would cost as much as one of four.
        const int t = tokens * i / tiles, wide = tokens * (i + 1) / tiles - t;
        kTiles[wide - 1](w, kept + t * stride + g * kColumns, stride, count, g > 0, sums + t * sum_stride + row - row_begin,
                         sum_stride);
      }
    }
  }
}

template <class A>
std::size_t arranged_size(int tokens, int columns) {
  return sizeof(typename A::Kept) / sizeof(typename A::Input) * tokens * kept_columns(columns);
}

template <class A>
void arrange(const typename A::Input* rows, std::ptrdiff_t stride, int tokens, int columns, typename A::Input* out) {
  auto* to = reinterpret_cast<typename A::Kept*>(out);
  for (int t = 0; t < tokens; ++t)
    for (int k = 0; k < columns; k += kKept, to += kKept) A::keep(rows + t * stride + k, to);
}

template <class A>
constexpr Kernel<typename A::Input, typename A::Weight, typename A::Sum> dense() {
  Kernel<typename A::Input, typename A::Weight, typename A::Sum> kernel = {
      "avx2 dense", Isa::avx2, true, kAvx2DenseRows, 128, prepare_avx2_dense<typename A::Weight>,
      nullptr, nullptr, multiply<A>};
  if constexpr (sizeof(typename A::Kept) != sizeof(typename A::Input)) {
    kernel.arranged_size = arranged_size<A>;
    kernel.arrange = arrange<A>;
  }
  return kernel;
}

}  // namespace

const Int8Kernel int8_avx2_dense = dense<Int8>();
const Bf16Kernel bf16_avx2_dense = dense<Bf16>();
const Fp32Kernel fp32_avx2_dense = dense<Fp32>();

}  // namespace prunella
