// The body of attention in bf16, softmax in floats. The file that includes it defines before, in an anonymous namespace,
//   struct Unit { Unit(); ~Unit(); };  for what lasts while a head is computed, and
//   four_tiles(...), up to four neighbouring tiles of a product.
// Tiles are 1024 bytes: 16 rows of 32 bf16. As the right side of a product, row i holds inner elements 2 i and 2 i + 1 of
// each of 16 columns, side by side.

namespace prunella {
namespace {

constexpr int round_up(int n, int multiple) { return (n + multiple - 1) / multiple * multiple; }

/// Scratch memory. Tiles are 1024 bytes: 16 rows of 32 bf16.
struct Scratch {
  char *keys, *values;      // tiles for q k^T [keys / 16][width / 32], and for p v [keys / 32][width / 16]
  char* queries;            // 16 rows of bf16
  float* scores;            // 16 rows
  std::uint16_t* weights;   // 16 rows
  float* result;            // 16 rows
};

std::size_t layout(int tokens, int width, char* base, Scratch* out) {
  const int keys = round_up(tokens, 32), wide = round_up(width, 32);
  const std::size_t sizes[] = {std::size_t(keys) * wide * 2, std::size_t(keys) * wide * 2, std::size_t(16) * wide * 2,
                               std::size_t(16) * keys * 4,   std::size_t(16) * keys * 2,   std::size_t(16) * wide * 4};
  char* at[6];
  std::size_t total = 0;
  for (int i = 0; i < 6; ++i) {
    at[i] = base + total;
    total += sizes[i];
  }
  if (out)
    *out = {at[0], at[1], at[2], reinterpret_cast<float*>(at[3]), reinterpret_cast<std::uint16_t*>(at[4]),
            reinterpret_cast<float*>(at[5])};
  return total;
}

std::size_t scratch_bytes(int tokens, int width) { return layout(tokens, width, nullptr, nullptr); }

inline __m512 load(const float* x, int n) {
  return n >= 16 ? _mm512_loadu_ps(x) : n <= 0 ? _mm512_setzero_ps() : _mm512_maskz_loadu_ps((1u << n) - 1, x);
}

/// 32 floats of a row of `n`, from `at` on, as bf16.
inline __m512i halves(const float* row, int at, int n) {
  return reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(load(row + at + 16, n - at - 16), load(row + at, n - at)));
}

/// Transposes 16 x 16 words in place.
inline void transpose(__m512i r[16]) {
  __m512i t[16];
  for (int i = 0; i < 8; ++i) {
    t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
    t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
  }
  for (int i = 0; i < 4; ++i) {
    r[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
    r[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
    r[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
    r[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
  }
  // r[4 i + j] holds words j, j + 4, j + 8, j + 12 (one in each 128 bits) of rows 4 i .. 4 i + 3.
  for (int j = 0; j < 4; ++j) {
    const __m512i a = _mm512_shuffle_i32x4(r[j], r[4 + j], 0x88), b = _mm512_shuffle_i32x4(r[8 + j], r[12 + j], 0x88);
    const __m512i c = _mm512_shuffle_i32x4(r[j], r[4 + j], 0xdd), d = _mm512_shuffle_i32x4(r[8 + j], r[12 + j], 0xdd);
    t[j] = _mm512_shuffle_i32x4(a, b, 0x88);
    t[8 + j] = _mm512_shuffle_i32x4(a, b, 0xdd);
    t[4 + j] = _mm512_shuffle_i32x4(c, d, 0x88);
    t[12 + j] = _mm512_shuffle_i32x4(c, d, 0xdd);
  }
  for (int i = 0; i < 16; ++i) r[i] = t[i];
}

void arrange_keys(const float* k, std::ptrdiff_t stride, int tokens, int width, char* out) {
  const int wide = round_up(width, 32);
  for (int t = 0; t < round_up(tokens, 32); t += 16)
    for (int d = 0; d < wide; d += 32, out += 1024) {
      __m512i r[16];
      for (int i = 0; i < 16; ++i)
        r[i] = t + i < tokens ? halves(k + (t + i) * stride, d, width) : _mm512_setzero_si512();
      transpose(r);
      for (int i = 0; i < 16; ++i) _mm512_store_si512(out + 64 * i, r[i]);
    }
}

void arrange_values(const float* v, std::ptrdiff_t stride, int tokens, int width, char* out) {
  const int wide = round_up(width, 32);
  alignas(64) std::uint16_t order[32];
  for (int i = 0; i < 32; ++i) order[i] = i / 2 + i % 2 * 16;
  const __m512i interleave = _mm512_load_si512(order);
  for (int t = 0; t < round_up(tokens, 32); t += 32)
    for (int d = 0; d < wide; d += 16, out += 1024)
      for (int i = 0; i < 16; ++i) {
        const int a = t + 2 * i, b = a + 1;
        const __m512 even = a < tokens ? load(v + a * stride + d, width - d) : _mm512_setzero_ps();
        const __m512 odd = b < tokens ? load(v + b * stride + d, width - d) : _mm512_setzero_ps();
        const __m512i both = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(odd, even));
        _mm512_store_si512(out + 64 * i, _mm512_permutexvar_epi16(interleave, both));
      }
}

/// 2^x, relative error below 3e-6: bf16 keeps 4e-3.
inline __m512 exp2(__m512 x) {
  const __m512 r = _mm512_reduce_ps(x, 0x09);  // x - floor(x)
  __m512 p = _mm512_set1_ps(0.0135340264f);
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.0520113974f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.241443065f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.693003689f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.00000261f));
  return _mm512_scalef_ps(p, x);
}

/// Scores (in powers of two) of one query to bf16 weights; returns the reciprocal of their sum.
inline float soften(float* scores, int n, int padded, std::uint16_t* weights) {
  for (int i = n; i < padded; ++i) scores[i] = -1e30f;
  __m512 top = _mm512_load_ps(scores);
  for (int i = 16; i < padded; i += 16) top = _mm512_max_ps(top, _mm512_load_ps(scores + i));
  const __m512 highest = _mm512_set1_ps(_mm512_reduce_max_ps(top));
  __m512 total = _mm512_setzero_ps();
  for (int i = 0; i < padded; i += 32) {
    const __m512 a = exp2(_mm512_sub_ps(_mm512_load_ps(scores + i), highest));
    const __m512 b = exp2(_mm512_sub_ps(_mm512_load_ps(scores + i + 16), highest));
    total = _mm512_add_ps(total, _mm512_add_ps(a, b));
    _mm512_store_si512(weights + i, reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(b, a)));
  }
  return 1.0f / _mm512_reduce_add_ps(total);
}

void attend(const float* q, const float* k, const float* v, std::ptrdiff_t stride, int tokens, int width, float scale,
            int begin, int end, float* out, std::ptrdiff_t out_stride, void* memory) {
  [[maybe_unused]] const Unit unit;
  Scratch s;
  layout(tokens, width, static_cast<char*>(memory), &s);
  const int keys = round_up(tokens, 32), wide = round_up(width, 32);
  arrange_keys(k, stride, tokens, width, s.keys);
  arrange_values(v, stride, tokens, width, s.values);
  const __m512 factor = _mm512_set1_ps(scale * 1.44269504f);  // scores in powers of two
  for (int first = begin; first < end; first += 16) {
    const int count = end - first < 16 ? end - first : 16;
    for (int i = 0; i < 16; ++i)
      for (int d = 0; d < wide; d += 32) {
        const float* row = q + (first + (i < count ? i : 0)) * stride;
        const __m512 low = _mm512_mul_ps(load(row + d, width - d), factor);
        const __m512 high = _mm512_mul_ps(load(row + d + 16, width - d - 16), factor);
        _mm512_store_si512(s.queries + (i * wide + d) * 2, reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low)));
      }
    // Tiles of keys: [key block][width block].
    for (int j = 0; j < keys / 16; j += 4)
      four_tiles(s.queries, wide * 2, s.keys + std::ptrdiff_t(j) * (wide / 32) * 1024, (wide / 32) * 1024, 1024,
                 wide / 32, keys / 16 - j, reinterpret_cast<char*>(s.scores + j * 16), keys * 4);
    float factors[16];
    for (int i = 0; i < count; ++i) factors[i] = soften(s.scores + i * keys, tokens, keys, s.weights + i * keys);
    // Tiles of values: [key block][width block].
    for (int j = 0; j < wide / 16; j += 4)
      four_tiles(reinterpret_cast<const char*>(s.weights), keys * 2, s.values + j * 1024, 1024, (wide / 16) * 1024,
                 keys / 32, wide / 16 - j, reinterpret_cast<char*>(s.result + j * 16), wide * 4);
    for (int i = 0; i < count; ++i) {
      const __m512 f = _mm512_set1_ps(factors[i]);
      for (int d = 0; d < width; d += 16) {
        const __mmask16 some = width - d >= 16 ? 0xffff : (1u << (width - d)) - 1;
        _mm512_mask_storeu_ps(out + (first + i) * out_stride + d, some,
                              _mm512_mul_ps(_mm512_load_ps(s.result + i * wide + d), f));
      }
    }
  }
}

}  // namespace
}  // namespace prunella
