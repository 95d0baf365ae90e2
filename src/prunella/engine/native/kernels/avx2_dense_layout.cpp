#include "avx2.h"

namespace prunella {

template <class Weight>
void prepare_avx2_dense(const Matrix<Weight>& matrix, Layout& layout) {
  constexpr int kTogether = kAvx2DenseColumns<Weight>, kRows = kAvx2DenseRows;
  layout.rows = matrix.rows;
  layout.columns = matrix.columns;
  const std::size_t columns = (matrix.columns + kTogether - 1) / kTogether * kTogether;
  const std::size_t blocks = (matrix.rows + kRows - 1) / kRows;
  layout.parts[0] = Buffer(blocks * kRows * columns * sizeof(Weight));
  for (int r = 0; r < matrix.rows; ++r) {
    const Weight* from = matrix.values + static_cast<std::size_t>(r) * matrix.columns;
    Weight* to = layout.parts[0].as<Weight>() + r / kRows * kRows * columns + r % kRows * kTogether;
    for (int k = 0; k < matrix.columns; ++k) to[std::size_t(k / kTogether) * kTogether * kRows + k % kTogether] = from[k];
  }
}

template void prepare_avx2_dense(const Matrix<std::int8_t>&, Layout&);
template void prepare_avx2_dense(const Matrix<std::uint16_t>&, Layout&);
template void prepare_avx2_dense(const Matrix<float>&, Layout&);

}  // namespace prunella
