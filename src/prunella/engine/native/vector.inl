// The body of vector_<isa>.cpp, which defines LANES (floats in a register) before including it.
//
// Written with GCC's vector types, which clang has too, so that one text serves every instruction set; a
// tail shorter than a register goes through a padded copy. a * b + c is fused only where fma() says so: what must
// equal numpy bit for bit rounds every operation.

#include <cfloat>

#include "vector.h"

namespace prunella {
namespace {

typedef float F __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef std::int32_t I __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef std::uint32_t U __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef std::uint16_t H __attribute__((vector_size(LANES * 2), aligned(2), may_alias));
typedef std::uint8_t B __attribute__((vector_size(LANES), aligned(1), may_alias));

#define INLINE inline __attribute__((always_inline))

INLINE F load(const float* p) { return *reinterpret_cast<const F*>(p); }
INLINE void store(float* p, F v) { *reinterpret_cast<F*>(p) = v; }
INLINE F all(float x) { return x - F{}; }
INLINE I as_int(F v) { return reinterpret_cast<I&>(v); }
INLINE F as_float(I v) { return reinterpret_cast<F&>(v); }
INLINE F select(I mask, F yes, F no) { return as_float((mask & as_int(yes)) | (~mask & as_int(no))); }
#if LANES == 16
INLINE F min(F a, F b) { return reinterpret_cast<F>(_mm512_min_ps(reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b))); }
INLINE F max(F a, F b) { return reinterpret_cast<F>(_mm512_max_ps(reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b))); }
#elif LANES == 8
INLINE F min(F a, F b) { return reinterpret_cast<F>(_mm256_min_ps(reinterpret_cast<__m256>(a), reinterpret_cast<__m256>(b))); }
INLINE F max(F a, F b) { return reinterpret_cast<F>(_mm256_max_ps(reinterpret_cast<__m256>(a), reinterpret_cast<__m256>(b))); }
#else
INLINE F min(F a, F b) { return a < b ? a : b; }
INLINE F max(F a, F b) { return a > b ? a : b; }
#endif
INLINE F to_float(I v) { return __builtin_convertvector(v, F); }

#if defined(__FMA__)
INLINE F fma(F a, F b, F c) {
#if LANES == 16
  return reinterpret_cast<F>(_mm512_fmadd_ps(reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b), reinterpret_cast<__m512>(c)));
#else
  return reinterpret_cast<F>(_mm256_fmadd_ps(reinterpret_cast<__m256>(a), reinterpret_cast<__m256>(b), reinterpret_cast<__m256>(c)));
#endif
}
#else
INLINE F fma(F a, F b, F c) { return a * b + c; }
#endif

// Adding and taking away 1.5 * 2^23 rounds to the nearest integer, ties to even, while |x| < 2^22.
constexpr float kRound = 12582912.0f;
INLINE F rint(F x) { return (x + kRound) - kRound; }

/// Halves a register again and again: combine(all lanes) in every lane of the result.
template <class Combine>
INLINE float fold(F v, const Combine& combine) {
#if LANES == 16
  const I half = {8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7};
  const I quarter = {4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11};
  v = combine(v, __builtin_shuffle(v, half));
  v = combine(v, __builtin_shuffle(v, quarter));
#elif LANES == 8
  const I quarter = {4, 5, 6, 7, 0, 1, 2, 3};
  v = combine(v, __builtin_shuffle(v, quarter));
#endif
  return combine(combine(all(v[0]), all(v[1])), combine(all(v[2]), all(v[3])))[0];
}
INLINE float sum(F v) {
  return fold(v, [](F a, F b) INLINE_LAMBDA { return a + b; });
}
INLINE float lowest(F v) {
  return fold(v, [](F a, F b) INLINE_LAMBDA { return min(a, b); });
}
INLINE float highest(F v) {
  return fold(v, [](F a, F b) INLINE_LAMBDA { return max(a, b); });
}

/// The n < LANES floats at p, and zeros.
INLINE F load_part(const float* p, int n) {
  F v{};
  __builtin_memcpy(&v, p, 4u * n);
  return v;
}
INLINE void store_part(float* p, F v, int n) { __builtin_memcpy(p, &v, 4u * n); }

/// f on every register full of x in place, the tail padded with zeros.
template <class Function>
INLINE void map(float* x, int n, const Function& f) {
  int i = 0;
  for (; i + LANES <= n; i += LANES) store(x + i, f(load(x + i)));
  if (i < n) store_part(x + i, f(load_part(x + i, n - i)), n - i);
}

// ---- elementary functions ----

/// e^x for x <= 0 or so, relative error below 2e-7: 2^n * p(r), r in [-ln 2 / 2, ln 2 / 2].
INLINE F exp(F x) {
  x = max(x, all(-87.0f));
  x = min(x, all(88.0f));
  const F n = rint(x * 1.44269504088896341f);
  F r = fma(n, all(-0.693359375f), x);
  r = fma(n, all(2.12194440e-4f), r);
  // Taylor's coefficients: at |r| < 0.347 the seventh power is below 1.2e-7.
  F p = all(1.0f / 5040);
  p = fma(p, r, all(1.0f / 720));
  p = fma(p, r, all(1.0f / 120));
  p = fma(p, r, all(1.0f / 24));
  p = fma(p, r, all(1.0f / 6));
  p = fma(p, r, all(0.5f));
  p = fma(p, r, all(1.0f));
  p = fma(p, r, all(1.0f));
  const I bits = (__builtin_convertvector(n, I) + 127) << 23;
  return p * as_float(bits);
}

/// x * Phi(x). Phi by Abramowitz and Stegun 7.1.26 for erfc, absolute error below 1.5e-7.
INLINE F gelu(F x) {
  const F z = as_float(as_int(x) & 0x7fffffff) * 0.70710678118654752f;
  const F t = 1.0f / fma(z, all(0.3275911f), all(1.0f));
  F p = all(1.061405429f);
  p = fma(p, t, all(-1.453152027f));
  p = fma(p, t, all(1.421413741f));
  p = fma(p, t, all(-0.284496736f));
  p = fma(p, t, all(0.254829592f));
  const F tail = p * t * exp(-z * z) * 0.5f;  // Phi(-|x|)
  return x * select(x < 0.0f, tail, 1.0f - tail);
}

/// x * (0.5 + z q(z^2)), z being x cut to +-4.5; least squares reweighted towards the least maximum, error 6e-5.
INLINE F gelu_fast(F x) {
  const F z = max(min(x, all(4.5f)), all(-4.5f));
  const F t = z * z;
  F q = all(3.03680761e-11f);
  q = fma(q, t, all(-3.31499073e-09f));
  q = fma(q, t, all(1.59111295e-07f));
  q = fma(q, t, all(-4.4519461e-06f));
  q = fma(q, t, all(8.14274899e-05f));
  q = fma(q, t, all(-0.00103760557f));
  q = fma(q, t, all(0.00958525017f));
  q = fma(q, t, all(-0.0659847334f));
  q = fma(q, t, all(0.398712635f));
  return x * fma(z, q, all(0.5f));
}

INLINE F tanh(F x) {
  // Through e^-2|x|; below 0.02, where that cancels, the series.
  const F a = as_float(as_int(x) & 0x7fffffff);
  const F e = exp(a * -2.0f);
  const F large = (1.0f - e) / (1.0f + e);
  const F square = x * x;
  const F small = a * (1.0f + square * (-1.0f / 3 + square * (2.0f / 15)));
  const F y = select(a < 0.02f, small, large);
  return select(x == x, select(x < 0.0f, -y, y), x);  // not a number stays so
}

INLINE F gelu_tanh(F x) {
  return x * 0.5f * (1.0f + tanh(0.79788456080286536f * (x + 0.044715f * x * x * x)));
}

INLINE F silu(F x) { return x / (1.0f + exp(-x)); }

/// Calls use(f) with the activation as a function of a register, so that loops around it are compiled for each.
template <class Use>
INLINE void with(Activation activation, const Use& use) {
  switch (activation) {
    case Activation::none: return use([](F v) INLINE_LAMBDA { return v; });
    case Activation::gelu: return use([](F v) INLINE_LAMBDA { return gelu(v); });
    case Activation::gelu_fast: return use([](F v) INLINE_LAMBDA { return gelu_fast(v); });
    case Activation::gelu_tanh: return use([](F v) INLINE_LAMBDA { return gelu_tanh(v); });
    case Activation::relu: return use([](F v) INLINE_LAMBDA { return max(F{}, v); });
    case Activation::tanh: return use([](F v) INLINE_LAMBDA { return tanh(v); });
    case Activation::silu: return use([](F v) INLINE_LAMBDA { return silu(v); });
  }
}

void activate(Activation activation, float* x, int n) {
  with(activation, [&](const auto& f) INLINE_LAMBDA { map(x, n, f); });
}

// ---- 8 bits ----

constexpr int kAtOnce = 4;

void quantize(const float* x, int n, std::uint8_t* codes, float* scale, std::int32_t* zero_point) {
  F low{}, high{};
  int i = 0;
  if (n >= kAtOnce * LANES) {  // several chains: one would wait for each comparison
    F lows[kAtOnce] = {}, highs[kAtOnce] = {};
    for (; i + kAtOnce * LANES <= n; i += kAtOnce * LANES)
      for (int k = 0; k < kAtOnce; ++k) {
        lows[k] = min(load(x + i + k * LANES), lows[k]);
        highs[k] = max(load(x + i + k * LANES), highs[k]);
      }
    low = min(min(lows[0], lows[1]), min(lows[2], lows[3]));
    high = max(max(highs[0], highs[1]), max(highs[2], highs[3]));
  }
  for (; i + LANES <= n; i += LANES) {
    low = min(load(x + i), low);
    high = max(load(x + i), high);
  }
  if (i < n) {
    const F v = load_part(x + i, n - i);
    low = min(v, low);
    high = max(v, high);
  }
  const float least = lowest(low);
  float s = (highest(high) - least) / 255.0f;
  s = s >= FLT_MIN ? s : 1.0f;
  const float inverse = 1.0f / s;
  const float zero = -rint(all(least * inverse))[0];
  *scale = s;
  *zero_point = zero >= 0 ? static_cast<std::int32_t>(zero) : 0;  // 0 too where infinities left no number
  i = 0;
  // As below, four registers at a time; packing cuts at 255.
#if LANES == 16
  const __m512 factor = _mm512_set1_ps(inverse);
  const __m512i shift = _mm512_set1_epi32(*zero_point);
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  const auto integers = [&](const float* p) INLINE_LAMBDA {
    return _mm512_add_epi32(_mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(p), factor)), shift);
  };
  for (; i + 64 <= n; i += 64) {
    const __m512i a = _mm512_packus_epi32(integers(x + i), integers(x + i + 16));
    const __m512i b = _mm512_packus_epi32(integers(x + i + 32), integers(x + i + 48));
    _mm512_storeu_si512(codes + i, _mm512_permutexvar_epi32(order, _mm512_packus_epi16(a, b)));
  }
#elif LANES == 8
  const __m256 factor = _mm256_set1_ps(inverse);
  const __m256i shift = _mm256_set1_epi32(*zero_point);
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  const auto integers = [&](const float* p) INLINE_LAMBDA {
    return _mm256_add_epi32(_mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(p), factor)), shift);
  };
  for (; i + 32 <= n; i += 32) {
    const __m256i a = _mm256_packus_epi32(integers(x + i), integers(x + i + 8));
    const __m256i b = _mm256_packus_epi32(integers(x + i + 16), integers(x + i + 24));
    const __m256i bytes = _mm256_permutevar8x32_epi32(_mm256_packus_epi16(a, b), order);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(codes + i), bytes);
  }
#endif
  const auto code = [&](F v) INLINE_LAMBDA {
    return __builtin_convertvector(__builtin_convertvector(min(rint(v * inverse) + zero, all(255.0f)), I), B);
  };
  for (; i + LANES <= n; i += LANES) *reinterpret_cast<B*>(codes + i) = code(load(x + i));
  if (i < n) {
    const B last = code(load_part(x + i, n - i));
    __builtin_memcpy(codes + i, &last, n - i);
  }
}

/// to[t][r] = f(value(t, r) [+ bias[r]]) over a block, a register at a time, the tail padded.
template <class Value, class Function>
INLINE void finish(int tokens, int rows, const float* bias, float* out, std::ptrdiff_t stride, const Value& value,
                   const Function& f) {
  for (int t = 0; t < tokens; ++t) {
    float* to = out + t * stride;
    int r = 0;
    for (; r + LANES <= rows; r += LANES) {
      const F y = value(t, r);
      store(to + r, f(bias ? y + load(bias + r) : y));
    }
    // Sums, scales and biases are readable up to a whole register.
    if (r < rows) store_part(to + r, f(bias ? value(t, r) + load(bias + r) : value(t, r)), rows - r);
  }
}

void dequantize(const std::int32_t* sums, std::ptrdiff_t sum_stride, int tokens, int rows,
                const std::int32_t* row_sums, const float* row_scale, const float* token_scale,
                const std::int32_t* zero_point, const float* bias, Activation activation, float* out,
                std::ptrdiff_t stride) {
  const auto value = [&](int t, int r) INLINE_LAMBDA {
    const I sum = *reinterpret_cast<const I*>(sums + t * sum_stride + r);
    const I total = sum - zero_point[t] * *reinterpret_cast<const I*>(row_sums + r);
    return to_float(total) * token_scale[t] * load(row_scale + r);
  };
  with(activation, [&](const auto& f) INLINE_LAMBDA { finish(tokens, rows, bias, out, stride, value, f); });
}

// ---- floats ----

void to_bf16(const float* x, int n, std::uint16_t* out) {
  int i = 0;
  for (; i + LANES <= n; i += LANES) {
    const U bits = reinterpret_cast<const U&>(x[i]);
    const U rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    const U quiet = (bits >> 16) | 0x40;  // not a number stays so
    const U nan = reinterpret_cast<U>((bits & 0x7fffffff) > 0x7f800000);
    const U chosen = (nan & quiet) | (~nan & rounded);
    *reinterpret_cast<H*>(out + i) = __builtin_convertvector(chosen, H);
  }
  for (; i < n; ++i) {
    std::uint32_t bits;
    __builtin_memcpy(&bits, x + i, 4);
    out[i] = (bits & 0x7fffffff) > 0x7f800000 ? (bits >> 16) | 0x40 : (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  }
}

void add_bias(const float* sums, std::ptrdiff_t sum_stride, int tokens, int rows, const float* bias,
              Activation activation, float* out, std::ptrdiff_t stride) {
  const auto value = [&](int t, int r) INLINE_LAMBDA { return load(sums + t * sum_stride + r); };
  with(activation, [&](const auto& f) INLINE_LAMBDA { finish(tokens, rows, bias, out, stride, value, f); });
}

void layer_norm(const float* x, const float* residual, int n, const float* gain, const float* bias, float epsilon,
                float* out) {
  // Two sums each, as an addition waits for the one before.
  F total{}, other{};
  const auto add = [&](int at, F& to) INLINE_LAMBDA {
    F v = load(x + at);
    if (residual) v = v + load(residual + at);
    store(out + at, v);
    to = to + v;
  };
  int i = 0;
  for (; i + 2 * LANES <= n; i += 2 * LANES) {
    add(i, total);
    add(i + LANES, other);
  }
  for (; i + LANES <= n; i += LANES) add(i, total);
  float rest = 0;
  for (; i < n; ++i) {
    out[i] = residual ? x[i] + residual[i] : x[i];
    rest += out[i];
  }
  const float mean = (sum(total + other) + rest) / n;
  F squares{}, others{};
  rest = 0;
  const auto square = [&](int at, F& to) INLINE_LAMBDA {
    const F d = load(out + at) - mean;
    to = fma(d, d, to);
  };
  for (i = 0; i + 2 * LANES <= n; i += 2 * LANES) {
    square(i, squares);
    square(i + LANES, others);
  }
  for (; i + LANES <= n; i += LANES) square(i, squares);
  for (; i < n; ++i) rest += (out[i] - mean) * (out[i] - mean);
  const float factor = 1.0f / __builtin_sqrtf((sum(squares + others) + rest) / n + epsilon);
  for (i = 0; i + LANES <= n; i += LANES)
    store(out + i, fma((load(out + i) - mean) * factor, load(gain + i), load(bias + i)));
  for (; i < n; ++i) out[i] = (out[i] - mean) * factor * gain[i] + bias[i];
}

// ---- attention ----

constexpr int padded(int n) { return (n + LANES - 1) / LANES * LANES; }

// k transposed [width, keys], v [keys, padded width] and scores of a few queries.
constexpr int kQueries = 4;
constexpr int kRegisters = LANES == 16 ? 4 : 2;  // of b at a time: AVX2 has 16 in all

std::size_t attention_scratch(int tokens, int width) {
  return sizeof(float) * (static_cast<std::size_t>(padded(tokens)) * (width + kQueries) +
                          static_cast<std::size_t>(tokens) * padded(width)) + 3 * 64;
}

/// out[q][j] = sum over i of a[q][i] * b[i][j], for `rows` <= kQueries rows; b has `columns` columns, a whole number
/// of registers, rows `columns` apart.
template <int kRows>
INLINE void multiply_rows(const float* a, std::ptrdiff_t a_stride, const float* b, int inner, int columns, float* out,
                          std::ptrdiff_t out_stride) {
  int j = 0;
  for (; j + kRegisters * LANES <= columns; j += kRegisters * LANES) {
    F sums[kRows][kRegisters] = {};
    for (int i = 0; i < inner; ++i) {
      const float* row = b + static_cast<std::ptrdiff_t>(i) * columns + j;
      for (int q = 0; q < kRows; ++q) {
        const F factor = all(a[q * a_stride + i]);
        for (int c = 0; c < kRegisters; ++c) sums[q][c] = fma(factor, load(row + c * LANES), sums[q][c]);
      }
    }
    for (int q = 0; q < kRows; ++q)
      for (int c = 0; c < kRegisters; ++c) store(out + q * out_stride + j + c * LANES, sums[q][c]);
  }
  for (; j < columns; j += LANES) {
    F sums[kRows] = {};
    for (int i = 0; i < inner; ++i) {
      const F row = load(b + static_cast<std::ptrdiff_t>(i) * columns + j);
      for (int q = 0; q < kRows; ++q) sums[q] = fma(all(a[q * a_stride + i]), row, sums[q]);
    }
    for (int q = 0; q < kRows; ++q) store(out + q * out_stride + j, sums[q]);
  }
}

/// Turns scores into weights in place; returns the reciprocal of their sum. Behind `n` they become zeros.
INLINE float soften(float* scores, int n, float scale) {
  const int end = padded(n);
  for (int i = n; i < end; ++i) scores[i] = -FLT_MAX;
  F top = load(scores);
  for (int i = LANES; i < end; i += LANES) top = max(top, load(scores + i));
  const F highest_score = all(highest(top));
  F total{};
  for (int i = 0; i < end; i += LANES) {
    const F e = exp((load(scores + i) - highest_score) * scale);
    store(scores + i, e);
    total = total + e;
  }
  // What stands behind n was e^-87 at most: nothing beside the 1 of the highest score.
  for (int i = n; i < end; ++i) scores[i] = 0;
  return 1.0f / sum(total);
}

template <int kRows>
void attend_rows(const float* q, std::ptrdiff_t stride, const float* keys, const float* values, int tokens, int width,
                 float scale, float* scores, float* out, std::ptrdiff_t out_stride) {
  const int columns = padded(tokens), wide = padded(width);
  multiply_rows<kRows>(q, stride, keys, width, columns, scores, columns);
  float factors[kRows];
  for (int i = 0; i < kRows; ++i) factors[i] = soften(scores + i * columns, tokens, scale);
  float result[kRows * 512];
  multiply_rows<kRows>(scores, columns, values, tokens, wide, result, wide);
  for (int i = 0; i < kRows; ++i)
    for (int d = 0; d < width; ++d) out[i * out_stride + d] = result[i * wide + d] * factors[i];
}

void attend(const float* q, const float* k, const float* v, std::ptrdiff_t stride, int tokens, int width, float scale,
            int begin, int end, float* out, std::ptrdiff_t out_stride, void* scratch) {
  const int columns = padded(tokens), wide = padded(width);
  auto* keys = static_cast<float*>(scratch);
  float* values = keys + static_cast<std::ptrdiff_t>(columns) * width;
  float* scores = values + static_cast<std::ptrdiff_t>(tokens) * wide;
  for (int t = 0; t < tokens; ++t)
    for (int d = 0; d < width; ++d) keys[static_cast<std::ptrdiff_t>(d) * columns + t] = k[t * stride + d];
  for (int t = tokens; t < columns; ++t)
    for (int d = 0; d < width; ++d) keys[static_cast<std::ptrdiff_t>(d) * columns + t] = 0;
  for (int t = 0; t < tokens; ++t) {
    for (int d = 0; d < width; ++d) values[static_cast<std::ptrdiff_t>(t) * wide + d] = v[t * stride + d];
    for (int d = width; d < wide; ++d) values[static_cast<std::ptrdiff_t>(t) * wide + d] = 0;
  }
  int i = begin;
  for (; i + kQueries <= end; i += kQueries)
    attend_rows<kQueries>(q + i * stride, stride, keys, values, tokens, width, scale, scores, out + i * out_stride,
                          out_stride);
  for (; i < end; ++i)
    attend_rows<1>(q + i * stride, stride, keys, values, tokens, width, scale, scores, out + i * out_stride,
                   out_stride);
}

}  // namespace
}  // namespace prunella
