// The order in which sparse kernels with tokens in lanes pass their rows.
#pragma once

namespace prunella {

/// Rows are ordered by their number of non-zeros within windows of this many: where loops of consecutive rows are of one
/// length, the processor predicts their ends. In a model every row is new to it, and a wrong guess costs as much as
/// some sixteen non-zeros.
constexpr int kRowWindow = 64;

/// How the columns are cut.
struct ColumnBlocks {
  int count, width;
};

}  // namespace prunella
