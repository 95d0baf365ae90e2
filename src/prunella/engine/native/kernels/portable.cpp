// Plain C++ for every processor.
#include "portable.h"

namespace prunella {
namespace {

float widen(float x) { return x; }
float widen(std::uint16_t bits) {
  const std::uint32_t word = static_cast<std::uint32_t>(bits) << 16;
  float x;
  __builtin_memcpy(&x, &word, 4);
  return x;
}
std::int32_t widen(std::uint8_t x) { return x; }
std::int32_t widen(std::int8_t x) { return x; }

// ---- sparse: 16 tokens at a time, as floats ----
//
// Activations lie feature by feature in tiles, [tile][column][16 tokens], so that a non-zero is multiplied with vectors
// of tokens. 8-bit codes are floats too: the sums of a block of columns stay below 2^24, where floats are exact
// integers, and blocks are added as integers.

constexpr int kTile = 16, kVectors = 4;
constexpr int kBlock = 512;  // columns: 32 KB of a tile, which stay in the L1 cache
static_assert(kBlock * 127 * 255 < 1 << 24);

typedef float V __attribute__((vector_size(16), may_alias));  // what every processor has

int blocks_of(int columns) { return columns > kBlock ? (columns + kBlock - 1) / kBlock : 1; }

/// parts: [0] int32, where the non-zeros of a row begin in each block, and where the last one's end; [1] uint16, their
/// places in the block; [2] values.
template <class Weight>
void split(const Matrix<Weight>& matrix, Layout& layout) {
  layout.rows = matrix.rows;
  layout.columns = matrix.columns;
  const int blocks = blocks_of(matrix.columns);
  const std::int32_t nonzeros = matrix.starts[matrix.rows];
  layout.parts[0] = Buffer(sizeof(std::int32_t) * matrix.rows * (blocks + 1));
  layout.parts[1] = Buffer(sizeof(std::uint16_t) * nonzeros);
  layout.parts[2] = Buffer(sizeof(Weight) * nonzeros);
  auto* begins = layout.parts[0].template as<std::int32_t>();
  for (int r = 0; r < matrix.rows; ++r) {
    std::int32_t i = matrix.starts[r];
    *begins++ = i;
    for (int b = 1; b <= blocks; ++b) {
      while (i < matrix.starts[r + 1] && matrix.indices[i] < b * kBlock) ++i;
      *begins++ = i;
    }
  }
  for (std::int32_t i = 0; i < nonzeros; ++i)
    layout.parts[1].template as<std::uint16_t>()[i] = static_cast<std::uint16_t>(matrix.indices[i] % kBlock);
  if (nonzeros) __builtin_memcpy(layout.parts[2].template as<Weight>(), matrix.values, sizeof(Weight) * nonzeros);
}

template <class Input>
std::size_t tiled_size(int tokens, int columns) {
  return sizeof(float) / sizeof(Input) * ((tokens + kTile - 1) / kTile * kTile) * columns;
}

template <class Input>
void make_tiles(const Input* rows, std::ptrdiff_t stride, int tokens, int columns, Input* out) {
  auto* to = reinterpret_cast<float*>(out);
  for (int t = 0; t < tokens; t += kTile)
    for (int k = 0; k < columns; ++k, to += kTile)
      for (int i = 0; i < kTile; ++i) to[i] = static_cast<float>(widen(rows[(t + i) * stride + k]));
}

/// One row times a block of a tile, of which only the first `kUsed` vectors hold tokens.
template <int kUsed, class Weight>
void add_row(const V* x, const std::uint16_t* places, const Weight* values, int count, V (&sums)[kVectors]) {
  V total[kUsed] = {};
  for (int i = 0; i < count; ++i) {
    const float weight = static_cast<float>(widen(values[i]));
    const V* from = x + kVectors * places[i];
    for (int v = 0; v < kUsed; ++v) total[v] += from[v] * weight;
  }
  for (int v = 0; v < kUsed; ++v) sums[v] = total[v];
}

template <class Input, class Weight, class Sum>
void sparse(const Layout& layout, const Input* inputs, std::ptrdiff_t, int tokens, int row_begin, int row_end, Sum* sums,
            std::ptrdiff_t sum_stride) {
  const int blocks = blocks_of(layout.columns);
  const auto* begins = layout.parts[0].as<std::int32_t>();
  const auto* places = layout.parts[1].as<std::uint16_t>();
  const auto* values = layout.parts[2].as<Weight>();
  for (int t = 0; t < tokens; t += kTile) {
    const int used = tokens - t < kTile ? tokens - t : kTile;
    const auto row_of = used > 12  ? add_row<4, Weight>
                        : used > 8 ? add_row<3, Weight>
                        : used > 4 ? add_row<2, Weight>
                                   : add_row<1, Weight>;
    const auto* x = reinterpret_cast<const V*>(inputs) + static_cast<std::ptrdiff_t>(t) / 4 * layout.columns;
    for (int b = 0; b < blocks; ++b, x += kVectors * kBlock)
      for (int r = row_begin; r < row_end; ++r) {
        const std::int32_t* bounds = begins + static_cast<std::ptrdiff_t>(r) * (blocks + 1) + b;
        V total[kVectors];
        row_of(x, places + bounds[0], values + bounds[0], bounds[1] - bounds[0], total);
        Sum* to = sums + t * sum_stride + r - row_begin;
        for (int i = 0; i < used; ++i, to += sum_stride)
          *to = (b ? *to : 0) + static_cast<Sum>(total[i / 4][i % 4]);
      }
  }
}

// ---- dense: the loops that the formula says ----

template <class Weight>
void borrow(const Matrix<Weight>& matrix, Layout& layout) {
  layout.rows = matrix.rows;
  layout.columns = matrix.columns;
  layout.borrowed = matrix.values;
}

template <class Input, class Weight, class Sum>
void dense(const Layout& layout, const Input* inputs, std::ptrdiff_t stride, int tokens, int row_begin, int row_end,
           Sum* sums, std::ptrdiff_t sum_stride) {
  const auto* values = static_cast<const Weight*>(layout.borrowed);
  for (int r = row_begin; r < row_end; ++r) {
    const Weight* w = values + static_cast<std::ptrdiff_t>(r) * layout.columns;
    for (int t = 0; t < tokens; ++t) {
      const Input* x = inputs + t * stride;
      Sum lanes[8] = {};  // eight sums at a time: compilers turn them into a vector
      int k = 0;
      for (; k + 8 <= layout.columns; k += 8)
        for (int lane = 0; lane < 8; ++lane) lanes[lane] += widen(x[k + lane]) * widen(w[k + lane]);
      for (; k < layout.columns; ++k) lanes[0] += widen(x[k]) * widen(w[k]);
      for (int lane = 1; lane < 8; ++lane) lanes[0] += lanes[lane];
      sums[t * sum_stride + r - row_begin] = lanes[0];
    }
  }
}

template <class Input, class Weight, class Sum, bool kDense>
constexpr Kernel<Input, Weight, Sum> portable(const char* name) {
  if constexpr (kDense)
    return {name, Isa::portable, true, 1, 64, borrow<Weight>, nullptr, nullptr, dense<Input, Weight, Sum>};
  else
    return {name, Isa::portable, false, 1, 64, split<Weight>, tiled_size<Input>, make_tiles<Input>,
            sparse<Input, Weight, Sum>};
}

}  // namespace

const Int8Kernel int8_portable = portable<std::uint8_t, std::int8_t, std::int32_t, false>("portable");
const Int8Kernel int8_portable_dense = portable<std::uint8_t, std::int8_t, std::int32_t, true>("portable dense");
const Bf16Kernel bf16_portable = portable<std::uint16_t, std::uint16_t, float, false>("portable");
const Bf16Kernel bf16_portable_dense = portable<std::uint16_t, std::uint16_t, float, true>("portable dense");
const Fp32Kernel fp32_portable = portable<float, float, float, false>("portable");
const Fp32Kernel fp32_portable_dense = portable<float, float, float, true>("portable dense");

}  // namespace prunella
