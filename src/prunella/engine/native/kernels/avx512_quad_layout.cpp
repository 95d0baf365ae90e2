#include <algorithm>
#include <utility>
#include <vector>

#include "avx512.h"

namespace prunella {
namespace {

/// A column of a row, or of four rows, and its weights.
template <int kRows>
struct Entry {
  int column;
  std::int8_t weights[kRows];
};

/// Groups of four entries, one group after another.
template <int kRows>
class Groups {
 public:
  explicit Groups(std::size_t expected) {
    columns_.reserve(expected * 4);
    weights_.reserve(expected * 4 * kRows);
  }
  void add(const Entry<kRows>& entry) {
    const std::size_t i = columns_.size() % 4;
    if (i == 0) weights_.resize(weights_.size() + 4 * kRows);
    columns_.push_back(static_cast<std::uint16_t>(8 * entry.column));
    std::int8_t* group = &weights_[weights_.size() - 4 * kRows];
    for (int r = 0; r < kRows; ++r) group[4 * r + i] = entry.weights[r];
  }
  std::uint32_t count() const { return static_cast<std::uint32_t>(columns_.size() / 4); }
  void write(Layout& layout) const {
    layout.parts[1] = Buffer(columns_.size() * 2);
    std::copy(columns_.begin(), columns_.end(), layout.parts[1].as<std::uint16_t>());
    layout.parts[2] = Buffer(weights_.size());
    std::copy(weights_.begin(), weights_.end(), layout.parts[2].as<std::int8_t>());
  }

 private:
  std::vector<std::uint16_t> columns_;
  std::vector<std::int8_t> weights_;
};

/// Non-zeros in one tile, those of even columns and those of odd ones.
template <int kRows>
struct Halves {
  Entry<kRows> entries[2][kQuadTile / 2];
  int count[2] = {0, 0};
  void add(const Entry<kRows>& entry) { entries[entry.column % 2][count[entry.column % 2]++] = entry; }
};

/// Groups of pairs, an even number, and groups of one kind that hold what is left.
template <int kRows>
std::pair<int, int> lengths(const Halves<kRows>& halves) {
  const int pairs = (std::min(halves.count[0], halves.count[1]) + 3) / 4 * 4;
  const int left = std::max(halves.count[0], halves.count[1]) - pairs;
  return {pairs / 2, (std::max(left, 0) + 3) / 4};
}

template <int kRows>
QuadRow group(const Halves<kRows>& halves, Groups<kRows>& groups) {
  QuadRow row{groups.count(), 0, 0, 0, 0};
  const int pairs = std::min(halves.count[0], halves.count[1]), longer = halves.count[1] > halves.count[0];
  int next = pairs;  // of the longer half
  const auto add_longer = [&] {
    groups.add(next < halves.count[longer] ? halves.entries[longer][next] : Entry<kRows>{longer, {}});
    ++next;
  };
  const auto add_pair = [&] {  // a column that lacks a partner, or none at all, and zeros
    for (int odd = 0; odd < 2; ++odd)
      if (odd == longer)
        add_longer();
      else
        groups.add({odd, {}});
  };
  for (int i = 0; i < pairs; ++i)
    for (int odd = 0; odd < 2; ++odd) groups.add(halves.entries[odd][i]);
  for (int i = pairs; i % 4; ++i) add_pair();
  row.plain = static_cast<std::uint16_t>(groups.count() - row.begin);
  while (next < halves.count[longer])
    for (int i = 0; i < 4; ++i) add_longer();
  row.turned = static_cast<std::uint16_t>(groups.count() - row.begin - row.plain);
  row.odd = static_cast<std::uint16_t>(longer);
  return row;
}

/// Takes what rows r .. r + kRows have before column `end`; `at` is where each row has come to.
template <int kRows>
void collect(const Matrix<std::int8_t>& matrix, std::vector<std::int32_t>& at, int r, int begin, int end,
             Halves<kRows>& halves) {
  const int last = std::min(matrix.rows, r + kRows);
  for (;;) {
    int column = end;
    for (int i = r; i < last; ++i)
      if (at[i] < matrix.starts[i + 1]) column = std::min(column, matrix.indices[at[i]]);
    if (column == end) return;
    Entry<kRows> entry{column - begin, {}};
    for (int i = r; i < last; ++i)
      if (at[i] < matrix.starts[i + 1] && matrix.indices[at[i]] == column)
        entry.weights[i - r] = matrix.values[at[i]++];
    halves.add(entry);
  }
}

}  // namespace

template <int kRows>
void prepare_quad(const Matrix<std::int8_t>& matrix, Layout& layout) {
  layout.rows = matrix.rows;
  layout.columns = matrix.columns;
  const int tiles = (matrix.columns + kQuadTile - 1) / kQuadTile, rows = (matrix.rows + 15) / 16 * 16 / kRows;
  layout.parts[0] = Buffer(sizeof(QuadRow) * tiles * rows);
  Groups<kRows> groups(matrix.starts[matrix.rows] / (4 * kRows) + static_cast<std::size_t>(tiles) * rows);
  std::vector<std::int32_t> at(matrix.starts, matrix.starts + matrix.rows);
  std::vector<Halves<kRows>> window(kRowWindow / kRows);
  std::vector<int> order(window.size());
  for (int tile = 0; tile < tiles; ++tile)
    for (int first = 0; first < rows * kRows; first += kRowWindow) {
      const int count = std::min(kRowWindow, rows * kRows - first) / kRows, begin = tile * kQuadTile;
      for (int i = 0; i < count; ++i) {
        window[i].count[0] = window[i].count[1] = 0;
        if (const int r = first + i * kRows; r < matrix.rows) collect(matrix, at, r, begin, begin + kQuadTile, window[i]);
        order[i] = i;
      }
      std::stable_sort(order.begin(), order.begin() + count,
                       [&](int a, int b) { return lengths(window[a]) < lengths(window[b]); });
      auto* out = layout.parts[0].as<QuadRow>() + static_cast<std::size_t>(tile) * rows + first / kRows;
      for (int i = 0; i < count; ++i) {
        out[i] = group(window[order[i]], groups);
        out[i].place = static_cast<std::uint16_t>(order[i] * kRows);
      }
    }
  groups.write(layout);
}

template void prepare_quad<1>(const Matrix<std::int8_t>&, Layout&);
template void prepare_quad<4>(const Matrix<std::int8_t>&, Layout&);

bool suits_blocks(const Matrix<std::int8_t>& matrix) {
  constexpr std::size_t kEnough = 4096;  // columns after which a matrix without blocks is known as such
  std::vector<int> seen(matrix.columns, -1);
  std::size_t columns = 0, nonzeros = 0;
  for (int r = 0; r < matrix.rows; r += 4) {
    for (std::int32_t i = matrix.starts[r]; i < matrix.starts[std::min(matrix.rows, r + 4)]; ++i)
      if (seen[matrix.indices[i]] != r) {
        seen[matrix.indices[i]] = r;
        ++columns;
      }
    nonzeros = matrix.starts[std::min(matrix.rows, r + 4)];
    if (columns > kEnough && 4 * columns > 2 * nonzeros) return false;
  }
  return 4 * columns <= 2 * nonzeros;
}

}  // namespace prunella
