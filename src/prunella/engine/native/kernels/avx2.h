// Tokens in lanes: activations lie feature by feature in tiles of 32 tokens, and every non-zero is multiplied with a
// whole tile's row. The columns are cut into blocks whose part of a tile stays in the L1 cache; partial sums wait
// in scratch memory, row by row, and are transposed at the end.
//
// Floats: one multiply-add for 8 tokens and a non-zero. 8-bit codes: "pairs", see avx2_pairs.cpp.
#pragma once
#include "../kernel.h"
#include "row_window.h"

namespace prunella {

/// Blocks of about equal width.
constexpr ColumnBlocks avx2_blocks(int columns, int widest) {
  const int count = columns > widest ? (columns + widest - 1) / widest : 1;
  return {count, (columns + count - 1) / count};
}

constexpr int kAvx2FloatBlock = 256;  // columns: 32 KB of a tile
constexpr int kAvx2PairsBlock = 768;  // 24 KB

/// Two groups of up to 2 * kPairs non-zeros; the weights of a group have one sign.
///
/// offsets: bytes into the block's part of a tile, multiples of 32; the first has bits 3 and 4 as well, which say
/// that the first and the second group are negative. weights: magnitudes, a byte each. Groups of two: all four in one
/// word. Groups of four: a word for each pair, which is in it twice.
template <int kPairs>
struct Avx2Groups {
  std::uint16_t offsets[4 * kPairs];
  std::uint32_t weights[kPairs == 1 ? 1 : 4];
};

/// Both layouts, block after block, with a window's rows in an order of their own: parts [0] uint32, where each place's
/// entries begin; [1] uint8, which row of its window comes at this place.
/// Floats: [2] uint16 offsets, in bytes, and [3] values, an even number a row. Bf16: [2] uint32, value << 16 | offset.
template <class Weight>
void prepare_avx2_floats(const Matrix<Weight>& matrix, Layout& layout);
/// [2] groups of four, or [4] groups of two, whichever makes less work; [3] int32, 128 times the sum of each row's
/// weights.
void prepare_avx2_pairs(const Matrix<std::int8_t>& matrix, Layout& layout);

constexpr int kAvx2DenseRows = 16;
template <class Weight>
constexpr int kAvx2DenseColumns = sizeof(Weight) == 1 ? 2 : 1;  // side by side

/// [0] [blocks of 16 rows][columns / kAvx2DenseColumns][row][column], zeros behind the last row and column.
template <class Weight>
void prepare_avx2_dense(const Matrix<Weight>& matrix, Layout& layout);

extern const Int8Kernel int8_avx2, int8_avx2_dense;
extern const Bf16Kernel bf16_avx2, bf16_avx2_dense;
extern const Fp32Kernel fp32_avx2, fp32_avx2_dense;

}  // namespace prunella
