#define LANES 16
#include <immintrin.h>
#define INLINE_LAMBDA __attribute__((always_inline))
#include "vector.inl"

namespace prunella {

extern const Vector vector_avx512 = {Isa::avx512, quantize, to_bf16, dequantize, add_bias, activate, layer_norm};
extern const Attention attention_avx512 = {attend, attention_scratch};

}  // namespace prunella
