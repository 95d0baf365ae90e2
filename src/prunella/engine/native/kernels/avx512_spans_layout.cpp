#include "avx512.h"
#include "row_order.h"

namespace prunella {

template <class Weight, int kTogether>
void prepare_spans(const Matrix<Weight>& matrix, Layout& layout) {
  // As if there were rows of zeros up to a multiple of 16, which the kernels pass as well.
  const int rows = (matrix.rows + 15) / 16 * 16;
  std::vector<std::int32_t> starts(matrix.starts, matrix.starts + matrix.rows + 1);
  starts.resize(rows + 1, starts.back());
  const ColumnBlocks tiles{(matrix.columns + kSpanTile - 1) / kSpanTile, kSpanTile};
  std::vector<std::uint16_t> columns;
  std::vector<Weight> weights;
  columns.reserve(starts.back() + static_cast<std::size_t>(kTogether) * tiles.count * matrix.rows);
  weights.reserve(columns.capacity());
  const auto count = [](int, int, std::int32_t begin, std::int32_t end) {
    return static_cast<std::uint32_t>(end - begin + kTogether - 1) / kTogether * kTogether;
  };
  const auto append = [&](int, int tile, std::int32_t begin, std::int32_t end) {
    for (std::int32_t i = begin; i < end; ++i) {
      columns.push_back(static_cast<std::uint16_t>(matrix.indices[i] - tile * kSpanTile));
      weights.push_back(matrix.values[i]);
    }
    while (columns.size() % kTogether) {
      columns.push_back(columns.back());
      weights.push_back(Weight{});
    }
  };
  order_rows(Matrix<Weight>{rows, matrix.columns, starts.data(), matrix.indices, matrix.values}, tiles, layout, count,
             append);
  layout.rows = matrix.rows;
  layout.parts[2] = Buffer(columns.size() * sizeof(std::uint16_t));
  layout.parts[3] = Buffer(weights.size() * sizeof(Weight));
  if (columns.empty()) return;
  __builtin_memcpy(layout.parts[2].as<char>(), columns.data(), columns.size() * sizeof(std::uint16_t));
  __builtin_memcpy(layout.parts[3].as<char>(), weights.data(), weights.size() * sizeof(Weight));
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
