#include "avx512.h"
#include "avx512_common.h"

namespace prunella {
namespace {

constexpr int kTile = kSpanTile;

/// What a lane of 32 bits holds: a float, or the bytes of four columns that lie side by side.
struct Float {
  using Input = float;
  using Sum = float;
  using V = __m512;
  static constexpr int kColumns = 1;
  static V zero() { return _mm512_setzero_ps(); }
  static V load(const void* p) { return _mm512_load_ps(p); }
  static void store(void* p, V v) { _mm512_store_ps(p, v); }
  static V weight(const Sum* p) { return _mm512_set1_ps(*p); }
  static V add(V a, V b) { return _mm512_add_ps(a, b); }
  static V add_product(V sum, V x, V w) { return _mm512_fmadd_ps(x, w, sum); }
};

struct FourBytes {
  using Input = std::uint8_t;
  using Sum = std::int32_t;
  using V = __m512i;
  static constexpr int kColumns = 4;
  static V zero() { return _mm512_setzero_si512(); }
  static V load(const void* p) { return _mm512_load_si512(p); }
  static void store(void* p, V v) { _mm512_store_si512(p, v); }
  static V weight(const Sum* p) { return _mm512_set1_epi32(*p); }
  static V add(V a, V b) { return _mm512_add_epi32(a, b); }
  static V add_product(V sum, V x, V w) { return _mm512_dpbusd_epi32(sum, x, w); }
};

template <class L>
std::size_t arranged_size(int tokens, int columns) {
  return static_cast<std::size_t>(width_for(tokens)) * round_up(columns, 16 * L::kColumns);
}

/// [column, or four][16, 32 or 64 tokens].
template <class L>
void arrange(const typename L::Input* rows, std::ptrdiff_t stride, int tokens, int columns, typename L::Input* out) {
  const int width = width_for(tokens);
  auto* to = reinterpret_cast<char*>(out);
  for (int k = 0; k < columns; k += 16 * L::kColumns, to += std::ptrdiff_t{64} * width)
    for (int t = 0; t < tokens; t += 16) {
      __m512i z[16];
      transpose16(rows + t * stride + k, stride * static_cast<std::ptrdiff_t>(sizeof(*rows)), z);
      UNROLL
      for (int c = 0; c < 16; ++c) _mm512_store_si512(to + 4 * (c * width + t), z[c]);
    }
}

/// One row's sums (= or +=) over one tile of columns.
template <class L, int kWidth>
inline void row_sums(const char* x, const std::uint16_t* columns, const typename L::Sum* weights, int n, bool add,
                     typename L::Sum* out) {
  constexpr int kVectors = kWidth / 16;
  constexpr int kSets = kWidth == 16 ? 4 : 2;  // sums take turns, as each waits for the one before
  typename L::V sums[kSets][kVectors];
  UNROLL
  for (int s = 0; s < kSets; ++s)
    UNROLL
    for (int v = 0; v < kVectors; ++v) sums[s][v] = s == 0 && add ? L::load(out + 16 * v) : L::zero();
  const auto one = [&](int i, typename L::V* to) {
    const auto w = L::weight(weights + i);
    const char* from = x + static_cast<std::size_t>(columns[i]) * (4 * kWidth);
    UNROLL
    for (int v = 0; v < kVectors; ++v) to[v] = L::add_product(to[v], L::load(from + 64 * v), w);
  };
  int i = 0;
  for (; i + kSets <= n; i += kSets)
    UNROLL
    for (int s = 0; s < kSets; ++s) one(i + s, sums[s]);
  for (; i < n; ++i) one(i, sums[0]);
  UNROLL
  for (int v = 0; v < kVectors; ++v) {
    auto sum = L::add(sums[0][v], sums[1][v]);
    if constexpr (kSets == 4) sum = L::add(sum, L::add(sums[2][v], sums[3][v]));
    L::store(out + 16 * v, sum);
  }
}

template <class L, int kWidth>
void multiply_as(const Layout& layout, const typename L::Input* inputs, int tokens, int row_begin, int row_end,
                 typename L::Sum* sums, std::ptrdiff_t sum_stride) {
  const auto* begins = layout.parts[0].as<std::uint32_t>();
  const auto* places = layout.parts[1].as<std::uint8_t>();
  const auto* columns = layout.parts[2].as<std::uint16_t>();
  const auto* weights = layout.parts[3].as<typename L::Sum>();
  const auto* x = reinterpret_cast<const char*>(inputs);
  const int across = (layout.columns + L::kColumns - 1) / L::kColumns;
  const int tiles = (across + kTile - 1) / kTile, rows = round_up(layout.rows, 16);
  const auto row = [&](int tile, int r, typename L::Sum* window) {
    const std::size_t place = static_cast<std::size_t>(tile) * rows + r;
    const std::uint32_t* at = begins + place;
    auto* out = window + places[place] * kWidth;
    row_sums<L, kWidth>(x + static_cast<std::size_t>(tile) * kTile * kWidth * 4, columns + at[0], weights + at[0],
                        static_cast<int>(at[1] - at[0]), tile > 0, out);
  };
  multiply_tiles<kWidth, 1>(tiles, tokens, row_begin, row_end, sums, sum_stride, row);
}

template <class L>
void multiply(const Layout& layout, const typename L::Input* inputs, std::ptrdiff_t, int tokens, int row_begin,
              int row_end, typename L::Sum* sums, std::ptrdiff_t sum_stride) {
  const int width = width_for(tokens);
  const auto as = width == 64 ? multiply_as<L, 64> : width == 32 ? multiply_as<L, 32> : multiply_as<L, 16>;
  as(layout, inputs, tokens, row_begin, row_end, sums, sum_stride);
}

}  // namespace

const Fp32Kernel fp32_avx512 = {
    "lanes",  Isa::avx512, false, kRowWindow, 64, prepare_spans<float, 1>, arranged_size<Float>, arrange<Float>,
    multiply<Float>};
const Int8Kernel int8_avx512_columns = {
    "blocks 1x4",        Isa::avx512,  false, kRowWindow, 64, prepare_columns, arranged_size<FourBytes>, arrange<FourBytes>,
    multiply<FourBytes>, suits_columns};

}  // namespace prunella
