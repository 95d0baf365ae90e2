#include "avx2_tile.h"

namespace prunella {
namespace {

/// Non-zeros as they lie in the layouts: floats in two arrays, bf16 and its offset in one word.
struct Floats {
  const std::uint16_t* offsets;
  const float* values;
  explicit Floats(const Layout& layout)
      : offsets(layout.parts[2].as<std::uint16_t>()), values(layout.parts[3].as<float>()) {}
  INLINE void fetch(std::uint32_t i) const {
    _mm_prefetch(reinterpret_cast<const char*>(offsets + i) + kAhead / 2, _MM_HINT_T0);
    _mm_prefetch(reinterpret_cast<const char*>(values + i) + kAhead, _MM_HINT_T0);
  }
  INLINE std::size_t offset(std::uint32_t i) const { return offsets[i]; }
  INLINE __m256 value(std::uint32_t i) const { return _mm256_broadcast_ss(values + i); }
};
struct Halves {
  const std::uint32_t* words;
  explicit Halves(const Layout& layout) : words(layout.parts[2].as<std::uint32_t>()) {}
  INLINE void fetch(std::uint32_t i) const {
    _mm_prefetch(reinterpret_cast<const char*>(words + i) + kAhead, _MM_HINT_T0);
  }
  INLINE std::size_t offset(std::uint32_t i) const { return static_cast<std::uint16_t>(words[i]); }
  INLINE __m256 value(std::uint32_t i) const {
    // Broadcast as a float: compilers would take the word through a general register otherwise.
    const __m256 word = _mm256_broadcast_ss(reinterpret_cast<const float*>(words + i));
    return _mm256_and_ps(word, _mm256_castsi256_ps(_mm256_set1_epi32(-65536)));
  }
};

/// sums (= or +=) one row's products with a block of a tile.
template <int kRegisters, bool kFetch, class Entries>
INLINE void add_row(const Entries& entries, std::uint32_t begin, std::uint32_t end, const char* x, bool add,
                    float* sums) {
  __m256 even[kRegisters], odd[kRegisters];  // two chains of additions each, or their latency would count
  for (int q = 0; q < kRegisters; ++q) {
    even[q] = add ? _mm256_load_ps(sums + 8 * q) : _mm256_setzero_ps();
    odd[q] = _mm256_setzero_ps();
  }
  for (std::uint32_t i = begin; i < end; i += 2) {
    if constexpr (kFetch) entries.fetch(i);
    const auto* from0 = reinterpret_cast<const float*>(x + entries.offset(i));
    const auto* from1 = reinterpret_cast<const float*>(x + entries.offset(i + 1));
    const __m256 w0 = entries.value(i), w1 = entries.value(i + 1);
    for (int q = 0; q < kRegisters; ++q) even[q] = _mm256_fmadd_ps(w0, _mm256_load_ps(from0 + 8 * q), even[q]);
    for (int q = 0; q < kRegisters; ++q) odd[q] = _mm256_fmadd_ps(w1, _mm256_load_ps(from1 + 8 * q), odd[q]);
  }
  for (int q = 0; q < kRegisters; ++q) _mm256_store_ps(sums + 8 * q, _mm256_add_ps(even[q], odd[q]));
}

template <int kRegisters, bool kFetch, class Entries>
void tile(const Layout& layout, const char* x, int row_begin, int row_end, float* scratch) {
  const Entries entries(layout);
  const ColumnBlocks blocks = avx2_blocks(layout.columns, kAvx2FloatBlock);
  for (int b = 0; b < blocks.count; ++b, x += sizeof(float) * kTile * blocks.width)
    each_row(layout, b, row_begin, row_end, [&](int row, std::uint32_t begin, std::uint32_t end) {
      add_row<kRegisters, kFetch>(entries, begin, end, x, b > 0, scratch + (row - row_begin) * kTile);
    });
}

template <class Input, class Entries>
void multiply(const Layout& layout, const Input* inputs, std::ptrdiff_t, int tokens, int row_begin, int row_end,
              float* sums, std::ptrdiff_t sum_stride) {
  alignas(64) float scratch[kChunk * kTile];
  for (int row = row_begin; row < row_end; row += kChunk) {
    const int end = row_end - row < kChunk ? row_end : row + kChunk;
    for (int t = 0; t < tokens; t += kTile) {
      const char* x = reinterpret_cast<const char*>(inputs) + sizeof(float) * t * layout.columns;
      // The first tile brings the weights into the cache.
      if (tokens - t > kHalf)
        (t ? tile<4, false, Entries> : tile<4, true, Entries>)(layout, x, row, end, scratch);
      else
        (t ? tile<2, false, Entries> : tile<2, true, Entries>)(layout, x, row, end, scratch);
      write_sums(scratch, end - row, tokens - t, sums + t * sum_stride + row - row_begin, sum_stride);
    }
  }
}

INLINE __m256 load8(const float* from) { return _mm256_loadu_ps(from); }
INLINE __m256 load8(const std::uint16_t* from) {
  const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
  return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}

/// Floats, a tile after the other, whatever the input is.
template <class Input>
std::size_t arranged_size(int tokens, int columns) {
  return sizeof(float) / sizeof(Input) * ((tokens + kTile - 1) / kTile * kTile) * columns;
}

/// Eight tokens' registers at a time: the order of a tile's 32 tokens asks for 0-3 and 8-11, then 4-7 and 12-15.
template <class Input>
void arrange(const Input* rows, std::ptrdiff_t stride, int tokens, int columns, Input* out) {
  auto* to = reinterpret_cast<float*>(out);
  for (int t = 0; t < tokens; t += kTile, to += kTile * columns)
    for (int q = 0; q < (tokens - t > kHalf ? 4 : 2); ++q) {
      const Input* from = rows + (t + kHalf * (q / 2) + 4 * (q % 2)) * stride;
      for (int k = 0; k < columns; k += 8) {
        __m256 low[4], high[4];
        for (int i = 0; i < 4; ++i) {
          low[i] = load8(from + i * stride + k);
          high[i] = load8(from + (8 + i) * stride + k);
        }
        transpose4(low[0], low[1], low[2], low[3]);
        transpose4(high[0], high[1], high[2], high[3]);
        const int count = columns - k < 8 ? columns - k : 8;
        for (int i = 0; i < count; ++i)
          _mm256_store_ps(to + (k + i) * kTile + 8 * q,
                          i < 4 ? _mm256_permute2f128_ps(low[i], high[i], 0x20)
                                : _mm256_permute2f128_ps(low[i - 4], high[i - 4], 0x31));
      }
    }
}

template <class Input, class Entries>
constexpr Kernel<Input, Input, float> floats(const char* name) {
  return {name,  Isa::avx2, false, kRowWindow, 128, prepare_avx2_floats<Input>, arranged_size<Input>, arrange<Input>,
          multiply<Input, Entries>};
}

}  // namespace

const Bf16Kernel bf16_avx2 = floats<std::uint16_t, Halves>("avx2 lanes");
const Fp32Kernel fp32_avx2 = floats<float, Floats>("avx2 lanes");

}  // namespace prunella
