#define LANES 4
#define INLINE_LAMBDA __attribute__((always_inline))
#include "vector.inl"

namespace prunella {

extern const Vector vector_portable = {Isa::portable, quantize, to_bf16, dequantize, add_bias, activate, layer_norm};
extern const Attention attention_portable = {attend, attention_scratch};

}  // namespace prunella
