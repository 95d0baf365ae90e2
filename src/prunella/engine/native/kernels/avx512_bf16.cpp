#include "avx512.h"
#include "avx512_common.h"

namespace prunella {
namespace {

constexpr int kTile = kSpanTile;
using Words = Lanes<std::uint16_t>;

/// From two registers of 16 tokens x 2 features: one feature of 16 or 32 tokens.
///
/// Unpacking two features brings positions 8q + s of quarter q into the first sum register, 8q + 4 + s into the
/// second; registers shall hold consecutive tokens.
constexpr Words token_order(int width, int feature) {
  Words order{};
  for (int i = 0; i < 32; ++i) {
    const int quarter = i / 8, half = i / 4 % 2, slot = i % 4;
    const int token = (width < 32 ? 8 : 16) * half + 4 * quarter + slot;
    order.at[i] = static_cast<std::uint16_t>((2 * token + feature) % 64);
  }
  return order;
}

constexpr Words kOrders[2][2] = {{token_order(16, 0), token_order(16, 1)}, {token_order(32, 0), token_order(32, 1)}};

std::size_t arranged_size(int tokens, int columns) {
  return static_cast<std::size_t>(width_for(tokens)) * round_up(columns, 32);
}

/// [column][16, 32 or 64 tokens].
void arrange(const std::uint16_t* rows, std::ptrdiff_t stride, int tokens, int columns, std::uint16_t* out) {
  const int width = width_for(tokens);
  const __m512i order[2] = {kOrders[width > 16][0].vector(), kOrders[width > 16][1].vector()};
  for (int k = 0; k < columns; k += 32)
    for (int t = 0; t < tokens; t += 32) {
      __m512i low[16], high[16] = {};
      transpose16(rows + t * stride + k, 2 * stride, low);
      if (t + 16 < tokens) transpose16(rows + (t + 16) * stride + k, 2 * stride, high);
      for (int i = 0; i < 32; ++i) {
        const __m512i tokens32 = _mm512_permutex2var_epi16(low[i / 2], order[i % 2], high[i / 2]);
        std::uint16_t* to = out + static_cast<std::ptrdiff_t>(k + i) * width + t;
        if (width > 16)
          _mm512_store_si512(to, tokens32);
        else
          _mm256_store_si256(reinterpret_cast<__m256i*>(to), _mm512_castsi512_si256(tokens32));
      }
    }
}

/// 32 tokens of two columns, in registers whole or half.
struct Whole {
  using V = __m512i;
  using F = __m512;
  static constexpr int kTokens = 32;
  static V load(const std::uint16_t* p) { return _mm512_load_si512(p); }
  static V low(V a, V b) { return _mm512_unpacklo_epi16(a, b); }
  static V high(V a, V b) { return _mm512_unpackhi_epi16(a, b); }
  static F dot(F sum, V x, int w) { return _mm512_dpbf16_ps(sum, (__m512bh)x, (__m512bh)_mm512_set1_epi32(w)); }
  static F zero() { return _mm512_setzero_ps(); }
  static F load(const float* p) { return _mm512_load_ps(p); }
  static void store(float* p, F v) { _mm512_store_ps(p, v); }
  static F add(F a, F b) { return _mm512_add_ps(a, b); }
};

struct Half {
  using V = __m256i;
  using F = __m256;
  static constexpr int kTokens = 16;
  static V load(const std::uint16_t* p) { return _mm256_load_si256(reinterpret_cast<const V*>(p)); }
  static V low(V a, V b) { return _mm256_unpacklo_epi16(a, b); }
  static V high(V a, V b) { return _mm256_unpackhi_epi16(a, b); }
  static F dot(F sum, V x, int w) { return _mm256_dpbf16_ps(sum, (__m256bh)x, (__m256bh)_mm256_set1_epi32(w)); }
  static F zero() { return _mm256_setzero_ps(); }
  static F load(const float* p) { return _mm256_load_ps(p); }
  static void store(float* p, F v) { _mm256_store_ps(p, v); }
  static F add(F a, F b) { return _mm256_add_ps(a, b); }
};

/// One row's sums (= or +=) over one tile of columns.
template <class T, int kWidth>
inline void row_sums(const std::uint16_t* x, const std::uint16_t* columns, const std::int32_t* weights, int pairs,
                     bool add, float* out) {
  constexpr int kVectors = kWidth / T::kTokens;  // of activations; two of sums for each
  typename T::F sums[2][2 * kVectors];           // sums take turns, as each waits for the one before
  UNROLL
  for (int v = 0; v < 2 * kVectors; ++v) {
    sums[0][v] = add ? T::load(out + T::kTokens / 2 * v) : T::zero();
    sums[1][v] = T::zero();
  }
  const auto one = [&](int i, typename T::F* to) {
    const std::uint16_t* a = x + static_cast<std::size_t>(columns[2 * i]) * kWidth;
    const std::uint16_t* b = x + static_cast<std::size_t>(columns[2 * i + 1]) * kWidth;
    UNROLL
    for (int v = 0; v < kVectors; ++v) {
      const auto first = T::load(a + T::kTokens * v), second = T::load(b + T::kTokens * v);
      to[2 * v] = T::dot(to[2 * v], T::low(first, second), weights[i]);
      to[2 * v + 1] = T::dot(to[2 * v + 1], T::high(first, second), weights[i]);
    }
  };
  int i = 0;
  for (; i + 2 <= pairs; i += 2) {
    one(i, sums[0]);
    one(i + 1, sums[1]);
  }
  if (i < pairs) one(i, sums[0]);
  UNROLL
  for (int v = 0; v < 2 * kVectors; ++v) T::store(out + T::kTokens / 2 * v, T::add(sums[0][v], sums[1][v]));
}

template <class T, int kWidth>
void multiply_as(const Layout& layout, const std::uint16_t* inputs, int tokens, int row_begin, int row_end,
                 float* sums, std::ptrdiff_t sum_stride) {
  const auto* begins = layout.parts[0].as<std::uint32_t>();
  const auto* places = layout.parts[1].as<std::uint8_t>();
  const auto* columns = layout.parts[2].as<std::uint16_t>();
  const auto* weights = layout.parts[3].as<std::int32_t>();  // pairs
  const int tiles = (layout.columns + kTile - 1) / kTile, rows = round_up(layout.rows, 16);
  const auto row = [&](int tile, int r, float* window) {
    const std::size_t place = static_cast<std::size_t>(tile) * rows + r;
    const std::uint32_t* at = begins + place;
    auto* out = window + places[place] * kWidth;
    row_sums<T, kWidth>(inputs + static_cast<std::size_t>(tile) * kTile * kWidth, columns + at[0],
                        weights + at[0] / 2, static_cast<int>(at[1] - at[0]) / 2, tile > 0, out);
  };
  multiply_tiles<kWidth, 1>(tiles, tokens, row_begin, row_end, sums, sum_stride, row);
}

void multiply(const Layout& layout, const std::uint16_t* inputs, std::ptrdiff_t, int tokens, int row_begin,
              int row_end, float* sums, std::ptrdiff_t sum_stride) {
  const int width = width_for(tokens);
  const auto as = width == 64 ? multiply_as<Whole, 64> : width == 32 ? multiply_as<Whole, 32> : multiply_as<Half, 16>;
  as(layout, inputs, tokens, row_begin, row_end, sums, sum_stride);
}

}  // namespace

const Bf16Kernel bf16_avx512 = {"pairs",       Isa::avx512, false,    kRowWindow, 64, prepare_spans<std::uint16_t, 2>,
                                arranged_size, arrange,     multiply};

}  // namespace prunella
