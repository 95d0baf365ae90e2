#include "avx512.h"
#include "avx512_common.h"

namespace prunella {
namespace {

constexpr int kTokenStep = 64, kWindow = kLookupWindow;

/// What a step does: looks 64 bytes of activations up in one register or two, and multiplies.
struct Bytes8 {
  static __m512i find(__m512i low, __m512i index) { return _mm512_permutexvar_epi8(index, low); }
  static __m512i find(__m512i low, __m512i index, __m512i high) { return _mm512_permutex2var_epi8(low, index, high); }
  static __m512i dot(__m512i sum, __m512i x, __m512i w) { return _mm512_dpbusd_epi32(sum, x, w); }
  static __m512i add(__m512i a, __m512i b) { return _mm512_add_epi32(a, b); }
};

struct Floats {
  static __m512i add(__m512i a, __m512i b) {
    return _mm512_castps_si512(_mm512_add_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b)));
  }
};

struct Floats16 : Floats {
  static __m512i find(__m512i low, __m512i index, __m512i high) { return _mm512_permutex2var_epi16(low, index, high); }
  static __m512i dot(__m512i sum, __m512i x, __m512i w) {
    return _mm512_castps_si512(_mm512_dpbf16_ps(_mm512_castsi512_ps(sum), (__m512bh)x, (__m512bh)w));
  }
};

struct Floats32 : Floats {
  static __m512i find(__m512i low, __m512i index, __m512i high) { return _mm512_permutex2var_epi32(low, index, high); }
  static __m512i dot(__m512i sum, __m512i x, __m512i w) {
    return _mm512_castps_si512(
        _mm512_fmadd_ps(_mm512_castsi512_ps(x), _mm512_castsi512_ps(w), _mm512_castsi512_ps(sum)));
  }
};

/// Sums of 16 rows for a few tokens, which share one stream of indices and weights. Strides and columns in bytes.
template <class L, int kRegisters, int kTokens>
inline void group_sums(const char* x, std::ptrdiff_t stride, std::ptrdiff_t columns, const std::uint16_t* steps,
                       const char* stream, std::int32_t* out) {
  constexpr int kSets = kTokens <= 4 ? 2 : 1;  // a sum waits for the one before: with few tokens two take turns
  __m512i sums[kSets][kTokens];
  UNROLL
  for (int s = 0; s < kSets; ++s)
    UNROLL
    for (int t = 0; t < kTokens; ++t) sums[s][t] = _mm512_setzero_si512();
  for (std::ptrdiff_t k = 0; k < columns; k += 64 * kRegisters, ++steps) {
    __m512i low[kTokens], high[kTokens];
    const bool both = kRegisters == 2 && k + 64 < columns;
    UNROLL
    for (int t = 0; t < kTokens; ++t) {
      low[t] = _mm512_load_si512(x + t * stride + k);
      high[t] = both ? _mm512_load_si512(x + t * stride + k + 64) : low[t];
    }
    const auto step = [&](__m512i* to) {
      fetch_ahead<2>(stream, kAhead);
      const __m512i index = _mm512_load_si512(stream), weights = _mm512_load_si512(stream + 64);
      UNROLL
      for (int t = 0; t < kTokens; ++t)
        if constexpr (kRegisters == 2)
          to[t] = L::dot(to[t], L::find(low[t], index, high[t]), weights);
        else
          to[t] = L::dot(to[t], L::find(low[t], index), weights);
      stream += 128;
    };
    int n = *steps;
    for (; n >= kSets; n -= kSets)
      UNROLL
      for (int s = 0; s < kSets; ++s) step(sums[s]);
    if (kSets > 1 && n) step(sums[0]);
  }
  UNROLL
  for (int t = 0; t < kTokens; ++t)
    _mm512_store_si512(out + t * kWindow, kSets == 1 ? sums[0][t] : L::add(sums[0][t], sums[kSets - 1][t]));
}

/// One token's sums of a window, in the matrix's order.
inline void reorder(const std::int32_t* window, const LookupOrder* orders, int rows, void* sums) {
  __m512i in[4];
  UNROLL
  for (int i = 0; i < 4; ++i) in[i] = _mm512_load_si512(window + 16 * i);
  for (int r = 0; r < rows; r += 16, ++orders) {
    const __m512i place = _mm512_load_si512(orders->place);
    const __m512i first = _mm512_permutex2var_epi32(in[0], place, in[1]);
    const __m512i second = _mm512_permutex2var_epi32(in[2], place, in[3]);
    _mm512_store_si512(static_cast<std::int32_t*>(sums) + r, _mm512_mask_mov_epi32(first, orders->second, second));
  }
}

template <class L, int kRegisters, class Input, class Sum>
void multiply(const Layout& layout, const Input* inputs, std::ptrdiff_t stride, int tokens, int row_begin, int row_end,
              Sum* sums, std::ptrdiff_t sum_stride) {
  static_assert(sizeof(Sum) == sizeof(std::int32_t));
  alignas(64) std::int32_t window[kTokenStep * kWindow];
  constexpr std::ptrdiff_t kSize = sizeof(Input), kChunk = kRegisters * 64 / kSize;
  const std::ptrdiff_t chunks = (layout.columns + kChunk - 1) / kChunk, columns = layout.columns * kSize;
  const auto* x = reinterpret_cast<const char*>(inputs);
  stride *= kSize;
  for (int row = row_begin; row < row_end; row += kWindow) {
    for (int g = row / 16; g < (row + kWindow) / 16; ++g) {
      const auto* steps = layout.parts[1].as<std::uint16_t>() + g * chunks;
      const auto* stream = layout.parts[0].as<char>() + std::size_t{128} * layout.parts[2].as<std::uint32_t>()[g];
      std::int32_t* out = window + g * 16 % kWindow;
      for (int t = 0; t < tokens; t += 8) {
        const int left = tokens - t;
        const auto of = left > 4   ? group_sums<L, kRegisters, 8>
                        : left > 2 ? group_sums<L, kRegisters, 4>
                        : left > 1 ? group_sums<L, kRegisters, 2>
                                   : group_sums<L, kRegisters, 1>;
        of(x + t * stride, stride, columns, steps, stream, out + t * kWindow);
      }
    }
    const int rows = row_end - row < kWindow ? row_end - row : kWindow;
    const auto* orders = layout.parts[3].as<LookupOrder>() + row / 16;
    for (int t = 0; t < tokens; ++t)
      reorder(window + t * kWindow, orders, rows, sums + t * sum_stride + row - row_begin);
  }
}

template <class L, int kRegisters, class Input, class Weight, class Sum>
constexpr Kernel<Input, Weight, Sum> lookup(const char* name) {
  return {name,    Isa::avx512, false,
          kWindow, kTokenStep,  prepare_lookup<Weight, kRegisters>,
          nullptr, nullptr,     multiply<L, kRegisters, Input, Sum>};
}

}  // namespace

const Int8Kernel int8_avx512_lookup = lookup<Bytes8, 2, std::uint8_t, std::int8_t, std::int32_t>("lookup");
const Int8Kernel int8_avx512_lookup_64 = lookup<Bytes8, 1, std::uint8_t, std::int8_t, std::int32_t>("lookup 64");
const Bf16Kernel bf16_avx512_lookup = lookup<Floats16, 2, std::uint16_t, std::uint16_t, float>("lookup");
const Fp32Kernel fp32_avx512_lookup = lookup<Floats32, 2, float, float, float>("lookup");

}  // namespace prunella
