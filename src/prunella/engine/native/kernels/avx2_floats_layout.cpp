#include "avx2.h"
#include "row_order.h"

namespace prunella {

template <class Weight>
void prepare_avx2_floats(const Matrix<Weight>& matrix, Layout& layout) {
  constexpr bool kHalf = sizeof(Weight) == 2;
  constexpr int kFeatureBytes = 32 * sizeof(float);
  const ColumnBlocks blocks = avx2_blocks(matrix.columns, kAvx2FloatBlock);
  const std::size_t most = matrix.starts[matrix.rows] + static_cast<std::size_t>(blocks.count) * matrix.rows;
  layout.parts[2] = Buffer(most * (kHalf ? 4 : 2));
  layout.parts[3] = Buffer(kHalf ? 0 : most * 4);
  std::uint32_t to = 0;
  const auto put = [&](int offset, Weight value) {
    if constexpr (kHalf) {
      layout.parts[2].template as<std::uint32_t>()[to] = static_cast<std::uint32_t>(value) << 16 | offset;
    } else {
      layout.parts[2].template as<std::uint16_t>()[to] = static_cast<std::uint16_t>(offset);
      layout.parts[3].template as<Weight>()[to] = value;
    }
    ++to;
  };
  const auto count = [](int, int, std::int32_t begin, std::int32_t end) {
    return static_cast<std::uint32_t>(end - begin + 1) / 2 * 2;
  };
  const auto append = [&](int, int block, std::int32_t begin, std::int32_t end) {
    int offset = 0;
    for (std::int32_t i = begin; i < end; ++i) {
      offset = (matrix.indices[i] - block * blocks.width) * kFeatureBytes;
      put(offset, matrix.values[i]);
    }
    if ((end - begin) % 2) put(offset, 0);  // where the row reads anyhow: 0 times infinity must not spread
  };
  order_rows(matrix, blocks, layout, count, append);
}

template void prepare_avx2_floats(const Matrix<std::uint16_t>&, Layout&);
template void prepare_avx2_floats(const Matrix<float>&, Layout&);

}  // namespace prunella
