// The order of rows in the layouts for tokens in lanes. For files compiled without instruction-set flags.
#pragma once
#include <algorithm>
#include <array>
#include <vector>

#include "../kernel.h"
#include "row_window.h"

namespace prunella {

/// Fills parts 0 and 1 of a layout, block by block.
///
/// `count(slot, block, begin, end)` says how many entries the row with the non-zeros [begin, end) in this block will
/// have; when all rows of a window are counted, `append(slot, block, begin, end)` is called in their order. A slot is a
/// row's place in its window before that.
template <class Weight, class Count, class Append>
void order_rows(const Matrix<Weight>& matrix, ColumnBlocks blocks, Layout& layout, const Count& count,
                const Append& append) {
  layout.rows = matrix.rows;
  layout.columns = matrix.columns;
  const std::size_t places = static_cast<std::size_t>(blocks.count) * matrix.rows;
  layout.parts[0] = Buffer((places + 1) * sizeof(std::uint32_t));
  layout.parts[1] = Buffer(places);
  auto* begins = layout.parts[0].template as<std::uint32_t>();
  auto* order = layout.parts[1].template as<std::uint8_t>();
  std::vector<std::int32_t> next(matrix.starts, matrix.starts + matrix.rows);
  for (int b = 0; b < blocks.count; ++b)
    for (int first = 0; first < matrix.rows; first += kRowWindow) {
      struct Row {
        std::uint32_t entries;
        std::int32_t begin, end;
        int slot;
      };
      std::array<Row, kRowWindow> rows;
      const int window = std::min(kRowWindow, matrix.rows - first);
      for (int slot = 0; slot < window; ++slot) {
        std::int32_t& i = next[first + slot];
        const std::int32_t begin = i, end = matrix.starts[first + slot + 1], limit = (b + 1) * blocks.width;
        while (i < end && matrix.indices[i] < limit) ++i;
        rows[slot] = {count(slot, b, begin, i), begin, i, slot};
      }
      std::sort(rows.begin(), rows.begin() + window, [](const Row& a, const Row& b) { return a.entries < b.entries; });
      for (int place = 0; place < window; ++place) {
        const Row& row = rows[place];
        append(row.slot, b, row.begin, row.end);
        *order++ = static_cast<std::uint8_t>(row.slot);
        begins[1] = begins[0] + row.entries;
        ++begins;
      }
    }
}

}  // namespace prunella
