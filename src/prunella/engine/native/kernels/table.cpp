// All kernels. A new one is a file, and a line here.
#include "portable.h"
#if defined(__x86_64__)
#include "amx.h"
#include "avx2.h"
#include "avx512.h"
#endif

namespace prunella {

template <>
const Int8Kernel* const* kernel_table<Int8Kernel>() {
  static const Int8Kernel* const kTable[] = {
      &int8_portable,
      &int8_portable_dense,
#if defined(__x86_64__)
      &int8_avx2,
      &int8_avx2_dense,
      &int8_avx512_quad,
      &int8_avx512_blocks,
      &int8_avx512_columns,
      &int8_avx512_lookup,
      &int8_avx512_lookup_64,
      &int8_avx512_dense,
      &int8_amx,
      &int8_amx_dense,
#endif
      nullptr};
  return kTable;
}

template <>
const Bf16Kernel* const* kernel_table<Bf16Kernel>() {
  static const Bf16Kernel* const kTable[] = {
      &bf16_portable,
      &bf16_portable_dense,
#if defined(__x86_64__)
      &bf16_avx2,
      &bf16_avx2_dense,
      &bf16_avx512,
      &bf16_avx512_lookup,
      &bf16_avx512_dense,
      &bf16_amx,
      &bf16_amx_dense,
#endif
      nullptr};
  return kTable;
}

template <>
const Fp32Kernel* const* kernel_table<Fp32Kernel>() {
  static const Fp32Kernel* const kTable[] = {
      &fp32_portable,
      &fp32_portable_dense,
#if defined(__x86_64__)
      &fp32_avx2,
      &fp32_avx2_dense,
      &fp32_avx512,
      &fp32_avx512_lookup,
      &fp32_avx512_dense,
#endif
      nullptr};
  return kTable;
}

}  // namespace prunella
