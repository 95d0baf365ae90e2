// Kernels for AVX-512 with VNNI, VBMI, VBMI2 and BF16.
#pragma once
#include "../kernel.h"
#include "row_window.h"

namespace prunella {

// ---- quad and blocks: four non-zeros of a row together, tokens in lanes ----

/// Columns whose activations (64 tokens) stay in the L1 cache while rows pass over them.
constexpr int kQuadTile = 768;

/// The groups of one row in one tile of columns; or of four rows that share their columns.
///
/// A plain group's columns are even, odd, even, odd: activations of odd columns are stored with neighbouring tokens
/// swapped, so that a pair interleaves by one blend and one shift. Unpacking them instead would take as many
/// instructions, but on most processors shuffles run in fewer places than the others. Columns that find no partner of
/// the other kind come in groups of one kind, which the kernel turns first.
struct QuadRow {
  std::uint32_t begin;   // the first group
  std::uint16_t plain;   // groups of pairs, an even number
  std::uint16_t turned;  // then groups of columns of one kind
  std::uint16_t odd;     // which
  std::uint16_t place;   // of the row (or the first of four) in its window
};

/// parts: [0] QuadRow [tile][rows, to a multiple of 16, by kRows]; [1] four uint16 a group: 8 x column within the tile;
/// [2] the group's four weights of each of its kRows rows.
template <int kRows>
void prepare_quad(const Matrix<std::int8_t>& matrix, Layout& layout);

/// Whether rows share their columns by fours, by and large: a matrix pruned in blocks of 4 x 1.
bool suits_blocks(const Matrix<std::int8_t>& matrix);

extern const Int8Kernel int8_avx512_quad, int8_avx512_blocks;

// ---- lookup: rows in lanes, activations gathered from registers ----

/// Rows that change places so that 16 rows of similar counts share a group: outputs come back in the matrix's order.
constexpr int kLookupWindow = 64;

/// Back to the matrix's order: for 16 rows, where in the window their sums are. From registers (0, 1) or (2, 3).
struct LookupOrder {
  std::int32_t place[16];  // 0 to 31 in two registers
  std::uint16_t second;    // bit i: row i is in registers 2 and 3
  std::uint16_t unused[31];
};

/// parts: [0] steps of 64 bytes of column indices within a chunk (as wide as the weights) and 64 bytes of weights,
/// 32 bits for each row of a group; [1] uint16, steps of [group][chunk]; [2] uint32, first step of each group;
/// [3] LookupOrder for each 16 rows.
///
/// A chunk is what kRegisters hold. Larger ones waste less; where a lookup in two registers is slow, one wins.
template <class Weight, int kRegisters>
void prepare_lookup(const Matrix<Weight>& matrix, Layout& layout);

extern const Int8Kernel int8_avx512_lookup, int8_avx512_lookup_64;
extern const Bf16Kernel bf16_avx512_lookup;
extern const Fp32Kernel fp32_avx512_lookup;

// ---- floats: non-zeros one by one (fp32) or in pairs (bf16), tokens in lanes ----

/// Columns whose activations stay close while rows pass over them: fewer cost more in sums than they save in cache.
constexpr int kSpanTile = 384;

/// parts: [0] uint32, where each row begins in each tile of columns: [tile][rows, to a multiple of 16], and the end;
/// [1] uint8, each row's place in its window; [2] uint16, columns within the tile; [3] the weights. A row takes a multiple
/// of kTogether.
template <class Weight, int kTogether>
void prepare_spans(const Matrix<Weight>& matrix, Layout& layout);

/// The same for fours of neighbouring columns of which one at least is no zero, as if four weights of a byte were one.
void prepare_columns(const Matrix<std::int8_t>& matrix, Layout& layout);

/// Whether non-zeros lie in fours, by and large: a matrix pruned in blocks of 1 x 4.
bool suits_columns(const Matrix<std::int8_t>& matrix);

extern const Fp32Kernel fp32_avx512;
extern const Bf16Kernel bf16_avx512;
extern const Int8Kernel int8_avx512_columns;

// ---- dense: int8 and bf16 in the order of tiles (amx.h), fp32 as it comes ----

extern const Int8Kernel int8_avx512_dense;
extern const Bf16Kernel bf16_avx512_dense;
extern const Fp32Kernel fp32_avx512_dense;

}  // namespace prunella
