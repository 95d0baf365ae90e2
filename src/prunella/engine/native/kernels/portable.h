#pragma once
#include "../kernel.h"

namespace prunella {

extern const Int8Kernel int8_portable, int8_portable_dense;
extern const Bf16Kernel bf16_portable, bf16_portable_dense;
extern const Fp32Kernel fp32_portable, fp32_portable_dense;

}  // namespace prunella
