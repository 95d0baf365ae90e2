// Tiles: weights stay compressed in memory (one bit a weight and the non-zeros) and are expanded, a strip
// of 32 rows at a time, into the L1 cache, from where the tile unit multiplies them as if dense.
//
// The unit does 1024 8-bit products a cycle, eight times what vector instructions do, so that skipping 90 % of them
// in vector registers would be slower. Zeros still save memory and its bandwidth: 0.225 byte a weight at 90 %.
#pragma once
#include "../kernel.h"

namespace prunella {

/// A layout for tiles, in the order in which they are used: groups of kTogether row blocks (16 rows each), within them k
/// blocks of 64 bytes, and of each the tile of the first 16 rows and then those of the others.
///
/// A tile's row i holds, for 16 outputs, the weights of the 4 bytes of input from i * 4 on: byte 4 n + j belongs to output
/// n and input byte 4 i + j. Sparse: parts[0] masks, one bit an element, a 64-bit word a tile's row; [1] the non-zeros;
/// [2] uint32, where those of each group begin. Dense: parts[1] holds all elements, the others are empty.
template <class Weight, int kTogether>
void prepare_tiles(const Matrix<Weight>& matrix, Layout& layout);

extern const Int8Kernel int8_amx, int8_amx_dense;
extern const Bf16Kernel bf16_amx, bf16_amx_dense;

}  // namespace prunella
