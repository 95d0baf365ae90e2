#include <algorithm>
#include <numeric>
#include <vector>

#include "avx512.h"

namespace prunella {

template <class Weight, int kTogether>
void prepare_spans(const Matrix<Weight>& matrix, Layout& layout) {
  constexpr int kTile = kSpanTile;
  layout.rows = matrix.rows;
  layout.columns = matrix.columns;
  const int tiles = (matrix.columns + kTile - 1) / kTile, rows = (matrix.rows + 15) / 16 * 16;
  layout.parts[0] = Buffer(sizeof(std::uint32_t) * tiles * (rows + 1));
  std::vector<std::uint16_t> columns;
  std::vector<Weight> weights;
  columns.reserve(static_cast<std::size_t>(matrix.starts[matrix.rows]) +
                  static_cast<std::size_t>(kTogether) * tiles * matrix.rows);
  weights.reserve(columns.capacity());
  std::vector<std::int32_t> at(matrix.starts, matrix.starts + matrix.rows), end(at);
  layout.parts[3] = Buffer(static_cast<std::size_t>(tiles) * rows);
  std::vector<int> order(kRowWindow);
  for (int tile = 0; tile < tiles; ++tile) {
    auto* begins = layout.parts[0].as<std::uint32_t>() + static_cast<std::size_t>(tile) * (rows + 1);
    auto* places = layout.parts[3].as<std::uint8_t>() + static_cast<std::size_t>(tile) * rows;
    for (int r = 0; r < matrix.rows; ++r)
      while (end[r] < matrix.starts[r + 1] && matrix.indices[end[r]] < (tile + 1) * kTile) ++end[r];
    for (int first = 0; first < rows; first += kRowWindow) {
      const int count = std::min(kRowWindow, rows - first);
      const auto length = [&](int i) { return first + i < matrix.rows ? end[first + i] - at[first + i] : 0; };
      std::iota(order.begin(), order.begin() + count, 0);
      std::stable_sort(order.begin(), order.begin() + count, [&](int a, int b) { return length(a) < length(b); });
      for (int i = 0; i < count; ++i) {
        begins[first + i] = static_cast<std::uint32_t>(columns.size());
        places[first + i] = static_cast<std::uint8_t>(order[i]);
        const int r = first + order[i];
        if (r >= matrix.rows) continue;
        for (; at[r] < end[r]; ++at[r]) {
          columns.push_back(static_cast<std::uint16_t>(matrix.indices[at[r]] - tile * kTile));
          weights.push_back(matrix.values[at[r]]);
        }
        while (columns.size() % kTogether) {
          columns.push_back(columns.back());
          weights.push_back(Weight{});
        }
      }
    }
    begins[rows] = static_cast<std::uint32_t>(columns.size());
  }
  layout.parts[1] = Buffer(columns.size() * sizeof(std::uint16_t));
  layout.parts[2] = Buffer(weights.size() * sizeof(Weight));
  if (columns.empty()) return;
  __builtin_memcpy(layout.parts[1].as<char>(), columns.data(), columns.size() * sizeof(std::uint16_t));
  __builtin_memcpy(layout.parts[2].as<char>(), weights.data(), weights.size() * sizeof(Weight));
}

template void prepare_spans<float, 1>(const Matrix<float>&, Layout&);
template void prepare_spans<std::uint16_t, 2>(const Matrix<std::uint16_t>&, Layout&);

void prepare_columns(const Matrix<std::int8_t>& matrix, Layout& layout) {
  std::vector<std::int32_t> starts{0}, indices, values;  // of a matrix whose elements are four
  starts.reserve(matrix.rows + 1u);
  for (int r = 0; r < matrix.rows; ++r) {
    const std::size_t begin = indices.size();
    for (std::int32_t i = matrix.starts[r]; i < matrix.starts[r + 1]; ++i) {
      const std::int32_t four = matrix.indices[i] / 4;
      if (indices.size() == begin || indices.back() != four) {
        indices.push_back(four);
        values.push_back(0);
      }
      reinterpret_cast<std::int8_t*>(&values.back())[matrix.indices[i] % 4] = matrix.values[i];
    }
    starts.push_back(static_cast<std::int32_t>(indices.size()));
  }
  prepare_spans<std::int32_t, 1>({matrix.rows, (matrix.columns + 3) / 4, starts.data(), indices.data(), values.data()},
                                 layout);
  layout.columns = matrix.columns;
}

bool suits_columns(const Matrix<std::int8_t>& matrix) {
  constexpr std::size_t kEnough = 4096;  // fours after which a matrix without blocks is known as such
  constexpr double kWeights = 1.7;       // that four columns must hold to be faster than one by one
  std::size_t fours = 0;
  for (int r = 0; r < matrix.rows; ++r) {
    std::int32_t last = -1;
    for (std::int32_t i = matrix.starts[r]; i < matrix.starts[r + 1]; ++i) {
      fours += matrix.indices[i] / 4 != last;
      last = matrix.indices[i] / 4;
    }
    if (fours > kEnough && matrix.starts[r + 1] < kWeights * fours) return false;
  }
  return matrix.starts[matrix.rows] >= kWeights * fours;
}

}  // namespace prunella
