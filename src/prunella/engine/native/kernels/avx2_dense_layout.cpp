#include "avx2.h"

namespace prunella {

template <class Weight>
void prepare_avx2_dense(const Matrix<Weight>& matrix, Layout& layout) {
  layout.rows = matrix.rows;
  layout.columns = matrix.columns;
  layout.borrowed = matrix.values;
}

template void prepare_avx2_dense(const Matrix<std::int8_t>&, Layout&);
template void prepare_avx2_dense(const Matrix<std::uint16_t>&, Layout&);
template void prepare_avx2_dense(const Matrix<float>&, Layout&);

}  // namespace prunella
