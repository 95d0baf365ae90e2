#include "vector.h"

#include <algorithm>
#include <chrono>

#include "buffer.h"

namespace prunella {

extern const Vector vector_portable;
extern const Attention attention_portable;
#if defined(__x86_64__)
extern const Vector vector_avx2, vector_avx512;
extern const Attention attention_avx2, attention_avx512, attention_half_avx512, attention_amx;
#endif

namespace {

#if defined(__x86_64__)
/// Seconds for a head of ordinary size.
double measure(const Attention& attention) {
  constexpr int kTokens = 128, kWidth = 64;
  Buffer x(sizeof(float) * kTokens * kWidth), out(x.bytes()), scratch(attention.scratch(kTokens, kWidth));
  std::fill_n(x.as<float>(), kTokens * kWidth, 0.5f);
  double least = 1e9;
  for (int i = 0; i < 5; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    attention.attend(x.as<float>(), x.as<float>(), x.as<float>(), kWidth, kTokens, kWidth, 0.1f, 0, kTokens,
                     out.as<float>(), kWidth, scratch.as<void>());
    least = std::min(least, std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  }
  return least;
}

/// bf16 or floats with AVX-512: twice as fast on some processors, half as fast on others.
const Attention& faster_half() {
  static const bool half = measure(attention_half_avx512) < measure(attention_avx512);
  return half ? attention_half_avx512 : attention_avx512;
}
#endif

}  // namespace

const Vector& vector_for(Isa isa) {
#if defined(__x86_64__)
  if (isa >= Isa::avx512) return vector_avx512;
  if (isa == Isa::avx2) return vector_avx2;
#endif
  return vector_portable;
}

const Attention& attention_for(Isa isa, bool half) {
#if defined(__x86_64__)
  if (half && isa == Isa::amx) return attention_amx;
  if (half && isa == Isa::avx512) return faster_half();
  if (isa >= Isa::avx512) return attention_avx512;
  if (isa == Isa::avx2) return attention_avx2;
#endif
  return attention_portable;
}

}  // namespace prunella
