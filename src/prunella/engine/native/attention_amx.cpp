// Attention of a head in bf16 on the tile unit.

#include <immintrin.h>

#include "vector.h"

namespace prunella {
namespace {

struct __attribute__((packed)) TileConfig {
  std::uint8_t palette = 1, start = 0, reserved[14] = {};
  std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

struct Unit {
  Unit() {
    const TileConfig config;
    _tile_loadconfig(&config);
  }
  ~Unit() { _tile_release(); }
};

/// Up to four neighbouring tiles of out [16, columns] = a [16, inner] b, with b in tiles.
inline void four_tiles(const char* a, std::ptrdiff_t a_stride, const char* b, std::ptrdiff_t b_column,
                       std::ptrdiff_t b_row, int inner_tiles, int count, char* out, std::ptrdiff_t out_stride) {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int i = 0; i < inner_tiles; ++i) {
    _tile_loadd(4, a + 64 * i, a_stride);
    const char* tile = b + i * b_row;
    _tile_loadd(5, tile, 64);
    _tile_dpbf16ps(0, 4, 5);
    if (count > 1) {
      _tile_loadd(6, tile + b_column, 64);
      _tile_dpbf16ps(1, 4, 6);
    }
    if (count > 2) {
      _tile_loadd(7, tile + 2 * b_column, 64);
      _tile_dpbf16ps(2, 4, 7);
    }
    if (count > 3) {
      _tile_loadd(5, tile + 3 * b_column, 64);
      _tile_dpbf16ps(3, 4, 5);
    }
  }
  _tile_stored(0, out, out_stride);
  if (count > 1) _tile_stored(1, out + 64, out_stride);
  if (count > 2) _tile_stored(2, out + 128, out_stride);
  if (count > 3) _tile_stored(3, out + 192, out_stride);
}

}  // namespace
}  // namespace prunella

#include "attention_half.inl"

namespace prunella {

extern const Attention attention_amx = {attend, scratch_bytes};

}  // namespace prunella
