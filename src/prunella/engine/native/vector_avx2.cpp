#define LANES 8
#include <immintrin.h>
#define INLINE_LAMBDA __attribute__((always_inline))
#include "vector.inl"

namespace prunella {

extern const Vector vector_avx2 = {Isa::avx2, quantize, to_bf16, dequantize, add_bias, activate, layer_norm};
extern const Attention attention_avx2 = {attend, attention_scratch};

}  // namespace prunella
