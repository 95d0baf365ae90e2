#include "amx.h"

namespace prunella {
namespace {

constexpr int kTileRows = 16;

/// Where weight (row, column) lies: its tile, the row of the tile, and the element in that row.
template <class Weight, int kTogether>
struct Place {
  static constexpr int kRows = kTogether * kTileRows;           // rows whose tiles lie side by side
  static constexpr int kGroup = 4 / sizeof(Weight);        // inputs that lie side by side
  static constexpr int kColumns = kTileRows * kGroup;      // inputs of a tile
  static constexpr int kElements = kTileRows * kGroup;     // elements of a tile's row
  std::size_t tile;
  int row, element;
  Place(int r, int k, int tiles_across)
      : tile((static_cast<std::size_t>(r / kRows) * tiles_across + k / kColumns) * kTogether + r / kTileRows % kTogether),
        row(k % kColumns / kGroup),
        element(r % kTileRows * kGroup + k % kGroup) {}
};

template <class Weight, int kTogether>
void prepare_dense(const Matrix<Weight>& matrix, Layout& layout, int groups, int across) {
  using P = Place<Weight, kTogether>;
  constexpr int kTile = kTileRows * P::kElements;
  layout.parts[1] = Buffer(static_cast<std::size_t>(groups) * across * kTogether * kTile * sizeof(Weight));
  auto* values = layout.parts[1].as<Weight>();
  for (int r = 0; r < matrix.rows; ++r)
    for (int k = 0; k < matrix.columns; ++k) {
      const P place(r, k, across);
      values[place.tile * kTile + place.row * P::kElements + place.element] =
          matrix.values[static_cast<std::size_t>(r) * matrix.columns + k];
    }
}

template <class Weight, int kTogether>
void prepare_sparse(const Matrix<Weight>& matrix, Layout& layout, int groups, int across) {
  using P = Place<Weight, kTogether>;
  using Mask = std::uint64_t;
  const std::size_t tiles_of_group = static_cast<std::size_t>(kTogether) * across, tiles = groups * tiles_of_group;
  layout.parts[0] = Buffer(tiles * kTileRows * sizeof(Mask));
  layout.parts[1] = Buffer(static_cast<std::size_t>(matrix.starts[matrix.rows]) * sizeof(Weight) + 64);
  layout.parts[2] = Buffer((groups + 1) * sizeof(std::uint32_t));
  auto* masks = layout.parts[0].as<Mask>();
  auto* values = layout.parts[1].as<Weight>();
  auto* begins = layout.parts[2].as<std::uint32_t>();
  for (int r = 0; r < matrix.rows; ++r)
    for (std::int32_t i = matrix.starts[r]; i < matrix.starts[r + 1]; ++i) {
      const P place(r, matrix.indices[i], across);
      masks[place.tile * kTileRows + place.row] |= Mask{1} << place.element;
    }
  std::uint32_t total = 0;
  Buffer row_begins(tiles * kTileRows * sizeof(std::uint32_t));
  for (std::size_t row = 0; row < tiles * kTileRows; ++row) {
    if (row % (tiles_of_group * kTileRows) == 0) begins[row / (tiles_of_group * kTileRows)] = total;
    row_begins.as<std::uint32_t>()[row] = total;
    total += __builtin_popcountll(masks[row]);
  }
  for (int r = 0; r < matrix.rows; ++r)
    for (std::int32_t i = matrix.starts[r]; i < matrix.starts[r + 1]; ++i) {
      const P place(r, matrix.indices[i], across);
      const std::size_t row = place.tile * kTileRows + place.row;
      const Mask below = masks[row] & ((Mask{1} << place.element) - 1);
      values[row_begins.as<std::uint32_t>()[row] + __builtin_popcountll(below)] = matrix.values[i];
    }
}

}  // namespace

template <class Weight, int kTogether>
void prepare_tiles(const Matrix<Weight>& matrix, Layout& layout) {
  layout.rows = matrix.rows;
  layout.columns = matrix.columns;
  using P = Place<Weight, kTogether>;
  const int groups = (matrix.rows + P::kRows - 1) / P::kRows;
  const int across = (matrix.columns + P::kColumns - 1) / P::kColumns;
  if (matrix.starts)
    prepare_sparse<Weight, kTogether>(matrix, layout, groups, across);
  else
    prepare_dense<Weight, kTogether>(matrix, layout, groups, across);
}

template void prepare_tiles<std::int8_t, 1>(const Matrix<std::int8_t>&, Layout&);
template void prepare_tiles<std::int8_t, 2>(const Matrix<std::int8_t>&, Layout&);
template void prepare_tiles<std::uint16_t, 1>(const Matrix<std::uint16_t>&, Layout&);
template void prepare_tiles<std::uint16_t, 2>(const Matrix<std::uint16_t>&, Layout&);

}  // namespace prunella
