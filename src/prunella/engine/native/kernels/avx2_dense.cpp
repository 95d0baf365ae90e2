// Dense matrices, read as they are: dot products of 3 tokens with 4 rows at a time, along the columns.
#include <immintrin.h>

#include "avx2.h"

namespace prunella {
namespace {

#define INLINE inline __attribute__((always_inline))

constexpr int kTokens = 3, kRows = 4;

INLINE __m128 fold(__m256 x) { return _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1)); }

/// The sums of four registers' elements.
INLINE __m128 fold(const __m256* x) {
  return _mm_hadd_ps(_mm_hadd_ps(fold(x[0]), fold(x[1])), _mm_hadd_ps(fold(x[2]), fold(x[3])));
}
INLINE __m128 fold(const __m256i* x) {
  const __m256i sums = _mm256_hadd_epi32(_mm256_hadd_epi32(x[0], x[1]), _mm256_hadd_epi32(x[2], x[3]));
  return _mm_castsi128_ps(_mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1)));
}

// The three arithmetics: kStep columns at a time, for activations as the kernel keeps them (Kept).

struct Fp32 {
  using Input = float;
  using Kept = float;
  using Weight = float;
  using Sum = float;
  using Register = __m256;
  static constexpr int kStep = 8;
  static INLINE void add(const float* const* x, const float* const* w, int k, __m256 (*sums)[kRows]) {
    __m256 a[kTokens];
    for (int t = 0; t < kTokens; ++t) a[t] = _mm256_loadu_ps(x[t] + k);
    for (int r = 0; r < kRows; ++r) {
      const __m256 b = _mm256_loadu_ps(w[r]);
      for (int t = 0; t < kTokens; ++t) sums[t][r] = _mm256_fmadd_ps(a[t], b, sums[t][r]);
    }
  }
};

struct Bf16 {
  using Input = std::uint16_t;
  using Kept = float;  // of each 16, those at even places first
  using Weight = std::uint16_t;
  using Sum = float;
  using Register = __m256;
  static constexpr int kStep = 16;
  static INLINE __m256i load(const std::uint16_t* from) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  }
  static INLINE __m256 even(__m256i x) { return _mm256_castsi256_ps(_mm256_slli_epi32(x, 16)); }
  static INLINE __m256 odd(__m256i x) { return _mm256_castsi256_ps(_mm256_and_si256(x, _mm256_set1_epi32(-65536))); }
  static INLINE void keep(const std::uint16_t* from, float* to) {
    _mm256_storeu_ps(to, even(load(from)));
    _mm256_storeu_ps(to + 8, odd(load(from)));
  }
  static INLINE void add(const float* const* x, const std::uint16_t* const* w, int k, __m256 (*sums)[kRows]) {
    for (int r = 0; r < kRows; ++r) {
      const __m256i b = load(w[r]);
      for (int t = 0; t < kTokens; ++t) {
        sums[t][r] = _mm256_fmadd_ps(_mm256_loadu_ps(x[t] + k), even(b), sums[t][r]);
        sums[t][r] = _mm256_fmadd_ps(_mm256_loadu_ps(x[t] + k + 8), odd(b), sums[t][r]);
      }
    }
  }
};

struct Int8 {
  using Input = std::uint8_t;
  using Kept = std::int16_t;
  using Weight = std::int8_t;
  using Sum = std::int32_t;
  using Register = __m256i;
  static constexpr int kStep = 16;
  static INLINE void keep(const std::uint8_t* from, std::int16_t* to) {
    const __m256i wide = _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), wide);
  }
  static INLINE void add(const std::int16_t* const* x, const std::int8_t* const* w, int k, __m256i (*sums)[kRows]) {
    __m256i a[kTokens];
    for (int t = 0; t < kTokens; ++t) a[t] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x[t] + k));
    for (int r = 0; r < kRows; ++r) {
      const __m256i b = _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(w[r])));
      for (int t = 0; t < kTokens; ++t) sums[t][r] = _mm256_add_epi32(sums[t][r], _mm256_madd_epi16(a[t], b));
    }
  }
};

/// The products of kTokens inputs and kRows rows. tails: the rows' last columns % kStep weights and zeros.
template <class A>
INLINE void tile(const typename A::Kept* const* x, const typename A::Weight* const* rows, int columns,
                 const typename A::Weight (*tails)[A::kStep], __m128* out) {
  typename A::Register sums[kTokens][kRows] = {};
  const typename A::Weight* w[kRows] = {rows[0], rows[1], rows[2], rows[3]};
  int k = 0;
  for (; k + A::kStep <= columns; k += A::kStep) {
    A::add(x, w, k, sums);
    for (int r = 0; r < kRows; ++r) w[r] += A::kStep;
  }
  if (k < columns) {
    const typename A::Weight* last[kRows] = {tails[0], tails[1], tails[2], tails[3]};
    A::add(x, last, k, sums);
  }
  for (int t = 0; t < kTokens; ++t) out[t] = fold(sums[t]);
}

template <class A>
void multiply(const Layout& layout, const typename A::Input* inputs, std::ptrdiff_t stride, int tokens, int row_begin,
              int row_end, typename A::Sum* sums, std::ptrdiff_t sum_stride) {
  using Kept = typename A::Kept;
  using Weight = typename A::Weight;
  const int columns = layout.columns, whole = columns / A::kStep * A::kStep;
  if constexpr (sizeof(Kept) != sizeof(*inputs)) stride = (columns + A::kStep - 1) / A::kStep * A::kStep;
  const auto* kept = reinterpret_cast<const Kept*>(inputs);
  const auto* weights = static_cast<const Weight*>(layout.borrowed);
  for (int row = row_begin; row < row_end; row += kRows) {
    const Weight* w[kRows];
    Weight tails[kRows][A::kStep] = {};
    for (int r = 0; r < kRows; ++r) {
      // Behind the last row comes the last one again; its sums are padding.
      w[r] = weights + static_cast<std::ptrdiff_t>(row + r < row_end ? row + r : row_end - 1) * columns;
      __builtin_memcpy(tails[r], w[r] + whole, (columns - whole) * sizeof(Weight));
    }
    for (int t = 0; t < tokens; t += kTokens) {
      const Kept* x[kTokens];
      for (int i = 0; i < kTokens; ++i) x[i] = kept + (t + i < tokens ? t + i : tokens - 1) * stride;
      __m128 out[kTokens];
      tile<A>(x, w, columns, tails, out);
      for (int i = 0; i < kTokens && t + i < tokens; ++i)
        _mm_storeu_ps(reinterpret_cast<float*>(sums + (t + i) * sum_stride + row - row_begin), out[i]);
    }
  }
}

template <class A>
std::size_t arranged_size(int tokens, int columns) {
  constexpr std::size_t kEach = sizeof(typename A::Kept) / sizeof(typename A::Input);
  return kEach * tokens * ((columns + A::kStep - 1) / A::kStep * A::kStep);
}

template <class A>
void arrange(const typename A::Input* rows, std::ptrdiff_t stride, int tokens, int columns, typename A::Input* out) {
  auto* to = reinterpret_cast<typename A::Kept*>(out);
  for (int t = 0; t < tokens; ++t)
    for (int k = 0; k < columns; k += A::kStep, to += A::kStep) A::keep(rows + t * stride + k, to);
}

template <class A, bool kArranged>
constexpr Kernel<typename A::Input, typename A::Weight, typename A::Sum> dense() {
  if constexpr (kArranged)
    return {"avx2 dense", Isa::avx2, true, kRows, 128, prepare_avx2_dense<typename A::Weight>, arranged_size<A>, arrange<A>,
            multiply<A>};
  else
    return {"avx2 dense", Isa::avx2, true, kRows, 128, prepare_avx2_dense<typename A::Weight>, nullptr, nullptr, multiply<A>};
}

}  // namespace

const Int8Kernel int8_avx2_dense = dense<Int8, true>();
const Bf16Kernel bf16_avx2_dense = dense<Bf16, true>();
const Fp32Kernel fp32_avx2_dense = dense<Fp32, false>();

}  // namespace prunella
