#include "avx512.h"
#include "avx512_common.h"

namespace prunella {
namespace {

/// Where the byte at position i of a feature comes from: its token.
///
/// Interleaved and unpacked (see `group`), sum register 2h + o holds in quarter q, slot s, what was at position
/// 16q + 8h + 2s + o. Registers shall hold consecutive tokens. In odd columns neighbours are swapped.
constexpr Bytes token_order(int width, bool odd) {
  Bytes order{};
  for (int i = 0; i < 64; ++i) {
    const int quarter = i / 16, half = i / 8 % 2, slot = i / 2 % 4, other = (i % 2) ^ odd;
    order.at[i] = static_cast<std::uint8_t>(width == 16 ? i : width / 4 * (2 * half + other) + 4 * quarter + slot);
  }
  return order;
}

/// Turns 16 groups of 4 bytes into 4 groups of 16.
constexpr Bytes by_feature() {
  Bytes order{};
  for (int i = 0; i < 64; ++i) order.at[i] = static_cast<std::uint8_t>(i % 16 * 4 + i / 16);
  return order;
}

/// Turns 4 groups of 16 bytes into 16 groups of 4.
constexpr Bytes by_token() {
  Bytes order{};
  for (int i = 0; i < 64; ++i) order.at[i] = static_cast<std::uint8_t>(i % 4 * 16 + i / 4);
  return order;
}

constexpr Bytes kByFeature = by_feature(), kByToken = by_token();
constexpr Bytes kOrders[3][2] = {{token_order(16, false), token_order(16, true)},
                                 {token_order(32, false), token_order(32, true)},
                                 {token_order(64, false), token_order(64, true)}};

std::size_t arranged_size(int tokens, int columns) {
  return static_cast<std::size_t>(width_for(tokens)) * round_up(columns, 64);
}

/// [column][16, 32 or 64 tokens].
void arrange(const std::uint8_t* rows, std::ptrdiff_t stride, int tokens, int columns, std::uint8_t* out) {
  const int width = width_for(tokens);
  const __m512i by_feature = kByFeature.vector();
  const __m512i order[2] = {kOrders[width / 32][0].vector(), kOrders[width / 32][1].vector()};
  __m512i words[4][16] = {};
  for (int k = 0; k < columns; k += 64) {
    for (int g = 0; 16 * g < tokens; ++g) transpose16(rows + 16 * g * stride + k, stride, words[g]);
    for (int c = 0; c < 16; ++c) {
      __m512i features[4];
      UNROLL
      for (int g = 0; g < 4; ++g) features[g] = _mm512_permutexvar_epi8(by_feature, words[g][c]);
      transpose_quarters(features);
      UNROLL
      for (int f = 0; f < 4; ++f) {
        const __m512i ordered = _mm512_permutexvar_epi8(order[f % 2], features[f]);
        std::uint8_t* to = out + static_cast<std::ptrdiff_t>(k + 4 * c + f) * width;
        if (width == 64)
          _mm512_store_si512(to, ordered);
        else if (width == 32)
          _mm256_store_si256(reinterpret_cast<__m256i*>(to), _mm512_castsi512_si256(ordered));
        else
          _mm_store_si128(reinterpret_cast<__m128i*>(to), _mm512_castsi512_si128(ordered));
      }
    }
  }
}

/// 64 or 32 tokens: what a group of four columns does, in whole or half registers.
struct Tokens64 {
  using V = __m512i;
  static constexpr int kWidth = 64;
  static V zero() { return _mm512_setzero_si512(); }
  static V load(const void* p) { return _mm512_load_si512(p); }
  static void store(void* p, V v) { _mm512_store_si512(p, v); }
  static V weights(const std::int32_t* p) { return _mm512_set1_epi32(*p); }
  static V blend(V a, V b) { return _mm512_mask_blend_epi8(0xAAAAAAAAAAAAAAAA, a, b); }
  static V shift(V a, V b) { return _mm512_shldi_epi16(b, a, 8); }
  static V turn(V a, V bits) { return _mm512_shldv_epi16(a, a, bits); }
  static V bits(int n) { return _mm512_set1_epi16(static_cast<short>(n)); }
  static V low(V a, V b) { return _mm512_unpacklo_epi16(a, b); }
  static V high(V a, V b) { return _mm512_unpackhi_epi16(a, b); }
  static V dot(V sum, V x, V w) { return _mm512_dpbusd_epi32(sum, x, w); }
  static V add(V a, V b) { return _mm512_add_epi32(a, b); }
};

struct Tokens32 {
  using V = __m256i;
  static constexpr int kWidth = 32;
  static V zero() { return _mm256_setzero_si256(); }
  static V load(const void* p) { return _mm256_load_si256(static_cast<const V*>(p)); }
  static void store(void* p, V v) { _mm256_store_si256(static_cast<V*>(p), v); }
  static V weights(const std::int32_t* p) { return _mm256_set1_epi32(*p); }
  static V blend(V a, V b) { return _mm256_mask_blend_epi8(0xAAAAAAAA, a, b); }
  static V shift(V a, V b) { return _mm256_shldi_epi16(b, a, 8); }
  static V turn(V a, V bits) { return _mm256_shldv_epi16(a, a, bits); }
  static V bits(int n) { return _mm256_set1_epi16(static_cast<short>(n)); }
  static V low(V a, V b) { return _mm256_unpacklo_epi16(a, b); }
  static V high(V a, V b) { return _mm256_unpackhi_epi16(a, b); }
  static V dot(V sum, V x, V w) { return _mm256_dpbusd_epi32(sum, x, w); }
  static V add(V a, V b) { return _mm256_add_epi32(a, b); }
};

/// sums += four columns of kRows rows. Even columns hold tokens (0, 1), odd ones (1, 0): a blend pairs up tokens 0,
/// a shift tokens 1. Where all are of one kind, every other one is turned first: by 8 bits, the rest by none.
template <class T, int kRows, bool kTurned>
inline void group(const std::uint8_t* x, const std::uint16_t* columns, const std::int32_t* weights,
                  const typename T::V* turns, typename T::V (*sums)[4]) {
  using V = typename T::V;
  V f[4];
  // The columns in one load, as loads are what bounds this loop; the compiler would make four of them again.
  std::uint64_t four;
  __builtin_memcpy(&four, columns, 8);
  asm("" : "+r"(four));
  UNROLL
  for (int i = 0; i < 4; ++i) {
    f[i] = T::load(x + static_cast<std::size_t>(static_cast<std::uint16_t>(four >> (16 * i))) * (T::kWidth / 8));
    if (kTurned) f[i] = T::turn(f[i], turns[i % 2]);
  }
  const V first = T::blend(f[0], f[1]), second = T::shift(f[0], f[1]);
  const V third = T::blend(f[2], f[3]), fourth = T::shift(f[2], f[3]);
  const V x4[4] = {T::low(first, third), T::low(second, fourth), T::high(first, third), T::high(second, fourth)};
  UNROLL
  for (int r = 0; r < kRows; ++r) {
    const V w = T::weights(weights + r);
    UNROLL
    for (int i = 0; i < 4; ++i) sums[r][i] = T::dot(sums[r][i], x4[i], w);
  }
}

/// Sums (= or +=) of kRows rows over one tile of columns, for 64 or 32 tokens.
template <class T, int kRows>
inline void row_sums(const std::uint8_t* x, const QuadRow& row, const std::uint16_t* columns,
                     const std::int32_t* weights, bool add, std::int32_t* out) {
  using V = typename T::V;
  constexpr int kStep = T::kWidth / 4;
  columns += std::size_t{4} * row.begin;
  weights += std::size_t{kRows} * row.begin;
  fetch_ahead<3>(columns, kAhead);
  fetch_ahead<kRows == 1 ? 2 : 4>(weights, kAhead * kRows / 2);
  V a[kRows][4], more[1][4];  // a single row's groups take turns, as a sum waits for the one before
  V(*b)[4] = kRows == 1 ? more : a;
  UNROLL
  for (int r = 0; r < kRows; ++r)
    UNROLL
    for (int i = 0; i < 4; ++i) a[r][i] = add ? T::load(out + r * T::kWidth + kStep * i) : T::zero();
  UNROLL
  for (int i = 0; i < 4; ++i) more[0][i] = T::zero();
  const V turns[2] = {T::bits(row.odd ? 8 : 0), T::bits(row.odd ? 0 : 8)};
  const std::uint16_t* const end = columns + 4 * row.plain;
  for (; columns < end; columns += 8, weights += 2 * kRows) {
    group<T, kRows, false>(x, columns, weights, turns, a);
    group<T, kRows, false>(x, columns + 4, weights + kRows, turns, b);
  }
  for (int i = 0; i < row.turned; ++i, columns += 4, weights += kRows)
    group<T, kRows, true>(x, columns, weights, turns, b);
  UNROLL
  for (int r = 0; r < kRows; ++r)
    UNROLL
    for (int i = 0; i < 4; ++i)
      T::store(out + r * T::kWidth + kStep * i, kRows == 1 ? T::add(a[r][i], more[0][i]) : a[r][i]);
}

struct Tokens16 {
  static constexpr int kWidth = 16;
};

/// 16 tokens: four columns fit one register, which one permutation interleaves.
template <int kRows>
inline void row_sums_16(const std::uint8_t* x, const QuadRow& row, const std::uint16_t* columns,
                        const std::int32_t* weights, bool add, std::int32_t* out) {
  const __m512i by_token = kByToken.vector();
  columns += std::size_t{4} * row.begin;
  weights += std::size_t{kRows} * row.begin;
  __m512i a[kRows], b[kRows];
  UNROLL
  for (int r = 0; r < kRows; ++r) {
    a[r] = add ? _mm512_load_si512(out + 16 * r) : _mm512_setzero_si512();
    b[r] = _mm512_setzero_si512();
  }
  const auto one = [&](__m512i* sums) {
    const auto at = [&](int i) {
      return _mm_load_si128(reinterpret_cast<const __m128i*>(x + std::size_t{2} * columns[i]));
    };
    __m512i z = _mm512_castsi128_si512(at(0));
    z = _mm512_inserti32x4(z, at(1), 1);
    z = _mm512_inserti32x4(z, at(2), 2);
    z = _mm512_inserti32x4(z, at(3), 3);
    z = _mm512_permutexvar_epi8(by_token, z);
    UNROLL
    for (int r = 0; r < kRows; ++r) sums[r] = _mm512_dpbusd_epi32(sums[r], z, _mm512_set1_epi32(weights[r]));
    columns += 4;
    weights += kRows;
  };
  int i = row.plain + row.turned;
  for (; i >= 2; i -= 2) {
    one(a);
    one(b);
  }
  if (i) one(a);
  UNROLL
  for (int r = 0; r < kRows; ++r) _mm512_store_si512(out + 16 * r, _mm512_add_epi32(a[r], b[r]));
}

template <class T, int kRows>
void multiply_as(const Layout& layout, const std::uint8_t* inputs, int tokens, int row_begin, int row_end,
                 std::int32_t* sums, std::ptrdiff_t sum_stride) {
  const auto* quads = layout.parts[0].as<QuadRow>();
  const auto* columns = layout.parts[1].as<std::uint16_t>();
  const auto* weights = layout.parts[2].as<std::int32_t>();
  const int tiles = (layout.columns + kQuadTile - 1) / kQuadTile, rows = round_up(layout.rows, 16);
  const auto row = [&](int tile, int r, std::int32_t* window) {
    const QuadRow& quad = quads[(static_cast<std::size_t>(tile) * rows + r) / kRows];
    std::int32_t* out = window + quad.place * T::kWidth;
    const std::uint8_t* x = inputs + static_cast<std::size_t>(tile) * kQuadTile * T::kWidth;
    if constexpr (T::kWidth == 16)
      row_sums_16<kRows>(x, quad, columns, weights, tile > 0, out);
    else
      row_sums<T, kRows>(x, quad, columns, weights, tile > 0, out);
  };
  multiply_tiles<T::kWidth, kRows>(tiles, tokens, row_begin, row_end, sums, sum_stride, row);
}

template <int kRows>
void multiply(const Layout& layout, const std::uint8_t* inputs, std::ptrdiff_t, int tokens, int row_begin,
              int row_end, std::int32_t* sums, std::ptrdiff_t sum_stride) {
  const int width = width_for(tokens);
  const auto as = width == 64   ? multiply_as<Tokens64, kRows>
                  : width == 32 ? multiply_as<Tokens32, kRows>
                                : multiply_as<Tokens16, kRows>;
  as(layout, inputs, tokens, row_begin, row_end, sums, sum_stride);
}

}  // namespace

const Int8Kernel int8_avx512_quad = {
    "quad", Isa::avx512, false, kRowWindow, 64, prepare_quad<1>, arranged_size, arrange, multiply<1>};
const Int8Kernel int8_avx512_blocks = {
    "blocks 4x1", Isa::avx512, false, kRowWindow, 64, prepare_quad<4>, arranged_size, arrange, multiply<4>, suits_blocks};

}  // namespace prunella
