#include "amx.h"

#include <immintrin.h>

namespace prunella {
namespace {

constexpr int kTileBytes = 1024;
// k blocks of a strip. Two strips, one in use and one growing, fill half of L1; with many tokens longer ones, whose sums
// are read and written less often, are better although they do not fit. Measured.
constexpr int kStripTiles = 6, kLongStripTiles = 12, kLongFrom = 192;

struct __attribute__((packed)) TileConfig {
  std::uint8_t palette = 1, start = 0, reserved[14] = {};
  std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

constexpr int kAhead = 1024;  // bytes

/// Turns masks and non-zeros into tiles, some rows at a time, between the steps of the tile unit, which is busy meanwhile.
template <class Weight>
struct Expander {
  const std::uint64_t* masks;
  const Weight* values;
  char* out;
  int left;  // rows until the strip is whole

  inline __attribute__((always_inline)) void step(int rows) {
    rows = rows < left ? rows : left;
    left -= rows;
    for (int i = 0; i < rows; ++i) {
      if (i % 8 == 0) {  // masks and non-zeros come from the L3 cache: two streams of about 8 bytes a row
        _mm_prefetch(reinterpret_cast<const char*>(masks) + kAhead, _MM_HINT_T0);
        _mm_prefetch(reinterpret_cast<const char*>(values) + kAhead, _MM_HINT_T0);
      }
      const std::uint64_t mask = *masks++;
      const __m512i some = _mm512_loadu_si512(values);
      values += __builtin_popcountll(mask);
      if constexpr (sizeof(Weight) == 1)
        _mm512_store_si512(out, _mm512_maskz_expand_epi8(mask, some));
      else
        _mm512_store_si512(out, _mm512_maskz_expand_epi16(static_cast<__mmask32>(mask), some));
      out += 64;
    }
  }
};

/// tile C += A B for the type of the weights.
#define DOT(c, a, b)                                    \
  do {                                                  \
    if constexpr (sizeof(Weight) == 1) {                \
      _tile_dpbusd(c, a, b);                            \
    } else {                                            \
      _tile_dpbf16ps(c, a, b);                          \
    }                                                   \
  } while (0)

/// One strip for up to 32 tokens: sums (= or +=) inputs * weights. Tiles 0-3: sums, 4-5: inputs, 6-7: weights.
/// inputs: tiles of 16 tokens, `next_tokens` bytes apart; weights: pairs of tiles. Inputs pass by L1, which weights need.
template <class Weight, int kTokenTiles>
inline void strip(const char* inputs, std::ptrdiff_t next_tokens, const char* weights, int tiles, bool add, char* sums,
                  std::ptrdiff_t sum_stride, Expander<Weight>& expander, int rows_a_step) {
  char* below = sums + 16 * sum_stride;
  if (add) {
    _tile_loadd(0, sums, sum_stride);
    _tile_loadd(1, sums + 64, sum_stride);
    if constexpr (kTokenTiles == 2) {
      _tile_loadd(2, below, sum_stride);
      _tile_loadd(3, below + 64, sum_stride);
    }
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  for (int k = 0; k < tiles; ++k) {
    _tile_stream_loadd(4, inputs + kTileBytes * k, 64);
    _tile_loadd(6, weights + 2 * kTileBytes * k, 64);
    DOT(0, 4, 6);
    _tile_loadd(7, weights + 2 * kTileBytes * k + kTileBytes, 64);
    DOT(1, 4, 7);
    if constexpr (kTokenTiles == 2) {
      _tile_stream_loadd(5, inputs + next_tokens + kTileBytes * k, 64);
      DOT(2, 5, 6);
      DOT(3, 5, 7);
    }
    expander.step(rows_a_step);
  }
  _tile_stored(0, sums, sum_stride);
  _tile_stored(1, sums + 64, sum_stride);
  if constexpr (kTokenTiles == 2) {
    _tile_stored(2, below, sum_stride);
    _tile_stored(3, below + 64, sum_stride);
  }
}

template <class Weight>
int tiles_across(int columns) {
  constexpr int kColumns = 64 / sizeof(Weight);
  return (columns + kColumns - 1) / kColumns;
}

/// inputs: as `arrange` leaves them.
template <class Input, class Weight, class Sum, bool kDense>
void multiply(const Layout& layout, const Input* inputs, std::ptrdiff_t, int tokens, int row_begin, int row_end,
              Sum* sums, std::ptrdiff_t sum_stride) {
  const TileConfig config;
  _tile_loadconfig(&config);
  alignas(64) char strips[2][2 * kLongStripTiles * kTileBytes];
  const int strip_tiles = tokens < kLongFrom ? kStripTiles : kLongStripTiles;
  const int across = tiles_across<Weight>(layout.columns);
  const auto* dense = layout.parts[1].as<char>() + static_cast<std::size_t>(row_begin / 32) * across * 2 * kTileBytes;
  const std::ptrdiff_t next_tokens = static_cast<std::ptrdiff_t>(across) * kTileBytes, sum_bytes = sum_stride * 4;
  const int token_pairs = (tokens + 31) / 32, rows_a_step = kDense ? 0 : (32 + token_pairs - 1) / token_pairs;
  Expander<Weight> expander{};
  if constexpr (!kDense) {
    const std::size_t pair = row_begin / 32;
    expander.masks = layout.parts[0].as<std::uint64_t>() + pair * across * 32;
    expander.values = layout.parts[1].as<Weight>() + layout.parts[2].as<std::uint32_t>()[pair];
  }
  // Strips follow each other as they lie in memory; while one is multiplied, the next one is expanded.
  const int strips_across = (across + strip_tiles - 1) / strip_tiles, pairs = (row_end - row_begin + 31) / 32;
  const int count = strips_across * pairs;
  const auto tiles_of = [&](int s) {
    const int begin = s % strips_across * strip_tiles;
    return across - begin < strip_tiles ? across - begin : strip_tiles;
  };
  const auto expect = [&](int s) {
    expander.out = strips[s % 2];
    expander.left = kDense || s >= count ? 0 : tiles_of(s) * 32;
  };
  expect(0);
  expander.step(expander.left);
  for (int s = 0; s < count; ++s) {
    expect(s + 1);
    const int begin = s % strips_across * strip_tiles, tiles = tiles_of(s);
    const char* weights = kDense ? dense : strips[s % 2];
    dense += 2 * kTileBytes * tiles;
    const char* from = reinterpret_cast<const char*>(inputs) + kTileBytes * begin;
    char* to = reinterpret_cast<char*>(sums + s / strips_across * 32);
    int t = 0;
    for (; t + 16 < tokens; t += 32, from += 2 * next_tokens, to += 32 * sum_bytes)
      strip<Weight, 2>(from, next_tokens, weights, tiles, begin > 0, to, sum_bytes, expander, rows_a_step);
    if (t < tokens)
      strip<Weight, 1>(from, next_tokens, weights, tiles, begin > 0, to, sum_bytes, expander, rows_a_step);
    expander.step(expander.left);
  }
  _tile_release();
  if (across == 0)
    for (int t = 0; t < tokens; ++t)
      for (int r = row_begin; r < row_end; ++r) sums[t * sum_stride + r - row_begin] = 0;
}

/// Inputs as tiles of 16 tokens and 64 bytes, each in one piece: rows of a power of two bytes would share cache sets.
template <class Input>
std::size_t arranged_size(int tokens, int columns) {
  return static_cast<std::size_t>(tiles_across<Input>(columns)) * ((tokens + 15) / 16) * (kTileBytes / sizeof(Input));
}

template <class Input>
void arrange(const Input* rows, std::ptrdiff_t stride, int tokens, int columns, Input* out) {
  auto* to = reinterpret_cast<char*>(out);
  const int across = tiles_across<Input>(columns);
  for (int t = 0; t < tokens; ++t) {
    const auto* from = reinterpret_cast<const char*>(rows + t * stride);
    char* tile = to + static_cast<std::ptrdiff_t>(t / 16) * across * kTileBytes + t % 16 * 64;
    for (int k = 0; k < across; ++k) _mm512_store_si512(tile + k * kTileBytes, _mm512_load_si512(from + 64 * k));
  }
}

template <class Input, class Weight, class Sum, bool kDense>
constexpr Kernel<Input, Weight, Sum> tiles(const char* name) {
  return {name,           Isa::amx, kDense, 32, 256, prepare_tiles<Weight, 2>, arranged_size<Input>,
          arrange<Input>, multiply<Input, Weight, Sum, kDense>, nullptr, 16};
}

}  // namespace

const Int8Kernel int8_amx = tiles<std::uint8_t, std::int8_t, std::int32_t, false>("tiles");
const Int8Kernel int8_amx_dense = tiles<std::uint8_t, std::int8_t, std::int32_t, true>("tiles dense");
const Bf16Kernel bf16_amx = tiles<std::uint16_t, std::uint16_t, float, false>("tiles");
const Bf16Kernel bf16_amx_dense = tiles<std::uint16_t, std::uint16_t, float, true>("tiles dense");

}  // namespace prunella
