// What a matrix kernel is: the interface that all of them implement, and their table.
//
// Files in kernels/ that are compiled for an instruction set include only this, C headers and intrinsics, and keep
// everything else in anonymous namespaces: an inline function of the standard library compiled there could be
// the copy that the linker keeps for the whole program, and stop it on an older processor. Layouts are
// built by plain code, in files without such flags.
#pragma once
#include <cstddef>
#include <cstdint>

#include "buffer.h"
#include "cpu.h"

namespace prunella {

/// A weight matrix [rows = outputs, columns = inputs] as it comes from the file.
///
/// Compressed sparse rows: the non-zeros of row r are values[starts[r] .. starts[r + 1]), ascending in
/// column. Without `starts` it is dense, row by row.
template <class Weight>
struct Matrix {
  int rows = 0;
  int columns = 0;
  const std::int32_t* starts = nullptr;
  const std::int32_t* indices = nullptr;
  const Weight* values = nullptr;
};

/// A weight matrix in the order that suits one kernel; what the parts mean is the kernel's own affair.
struct Layout {
  int rows = 0;
  int columns = 0;
  Buffer parts[6];
  /// The caller's own memory, which outlives the layout: dense kernels may read the matrix as it is.
  const void* borrowed = nullptr;
};

/// sums[t][r - row_begin] = sum over k of inputs[t][k] * weights[r][k], for row_begin <= r < row_end.
///
/// Input: unsigned 8-bit codes, bf16 bits, or floats. Every stride counts elements.
/// Guarantees to a kernel: row-major inputs have a stride of a multiple of 64 elements with zeros behind the last
/// column, and 16 rows (of any content) are readable from any multiple of 16 on; row_begin is a multiple of
/// `row_step`, row_end too or the end of the matrix; 1 <= tokens <= `token_step`; sums is aligned to 64 bytes with
/// a stride of a multiple of 16, whose padding (up to the next multiple of 16 or `row_step` rows) may be overwritten,
/// as may rows of sums up to the next multiple of 16 tokens.
template <class Input, class Weight, class Sum>
struct Kernel {
  const char* name;
  Isa isa;
  bool dense;      // for matrices with few zeros; sparse kernels get starts, dense ones get none
  int row_step;    // rows are handed out in multiples of this
  int token_step;  // and tokens in blocks of at most this many, a multiple of 16
  /// Builds the layout. Plain code, called once.
  void (*prepare)(const Matrix<Weight>& matrix, Layout& layout);
  /// Elements (of Input) that `tokens` inputs take in the kernel's own order; null: row-major is fine.
  std::size_t (*arranged_size)(int tokens, int columns);
  void (*arrange)(const Input* rows, std::ptrdiff_t stride, int tokens, int columns, Input* out);
  void (*multiply)(const Layout& layout, const Input* inputs, std::ptrdiff_t stride, int tokens, int row_begin,
                   int row_end, Sum* sums, std::ptrdiff_t sum_stride);
  /// Whether the kernel may be fast for this matrix: it is right for every one. Null: always.
  bool (*suits)(const Matrix<Weight>& matrix) = nullptr;
  /// Where this is not 0, a block in the kernel's own order is a row of pieces of this many tokens (a multiple of 16),
  /// each as if arranged alone, so that threads can share the work.
  int piece = 0;
};

using Int8Kernel = Kernel<std::uint8_t, std::int8_t, std::int32_t>;
using Bf16Kernel = Kernel<std::uint16_t, std::uint16_t, float>;
using Fp32Kernel = Kernel<float, float, float>;

/// All kernels of one arithmetic, ending with a null pointer (table.cpp).
template <class K>
const K* const* kernel_table();

}  // namespace prunella
