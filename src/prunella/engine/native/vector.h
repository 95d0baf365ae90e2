// All that happens to activations between the matrices: one source (vector.inl), compiled for each instruction set.
#pragma once
#include <cstddef>
#include <cstdint>

#include "cpu.h"

namespace prunella {

/// `gelu_fast` is gelu with an absolute error below 1e-4, for what is rounded to 8 or 16 bits next.
enum class Activation { none, gelu, gelu_fast, gelu_tanh, relu, tanh, silu };

/// Row-wise operations on floats. Strides count elements.
struct Vector {
  Isa isa;

  /// 8-bit codes of one token (formulas in prunella/grid.py), bit for bit those of numpy.
  void (*quantize)(const float* x, int n, std::uint8_t* codes, float* scale, std::int32_t* zero_point);

  /// The nearest bf16, ties to even.
  void (*to_bf16)(const float* x, int n, std::uint16_t* out);

  /// out[t][r] = activation(float(sums[t][r] - zero_point[t] * row_sums[r]) * token_scale[t] * row_scale[r] + bias[r])
  void (*dequantize)(const std::int32_t* sums, std::ptrdiff_t sum_stride, int tokens, int rows,
                     const std::int32_t* row_sums, const float* row_scale, const float* token_scale,
                     const std::int32_t* zero_point, const float* bias, Activation activation, float* out,
                     std::ptrdiff_t stride);

  /// out[t][r] = activation(sums[t][r] + bias[r])
  void (*add_bias)(const float* sums, std::ptrdiff_t sum_stride, int tokens, int rows, const float* bias,
                   Activation activation, float* out, std::ptrdiff_t stride);

  void (*activate)(Activation activation, float* x, int n);

  /// out = LayerNorm(x + residual) * gain + bias; residual may be null, out may be x or residual.
  void (*layer_norm)(const float* x, const float* residual, int n, const float* gain, const float* bias, float epsilon,
                     float* out);
};

/// Attention of one head over one sequence.
struct Attention {
  /// out = softmax(q k^T * scale) v for the queries [begin, end), a multiple of 16 apart from the last.
  /// q, k, v: [tokens, width], rows `stride` apart; out: rows `out_stride` apart.
  void (*attend)(const float* q, const float* k, const float* v, std::ptrdiff_t stride, int tokens, int width,
                 float scale, int begin, int end, float* out, std::ptrdiff_t out_stride, void* scratch);
  /// Bytes of scratch memory that it needs.
  std::size_t (*scratch)(int tokens, int width);
};

const Vector& vector_for(Isa isa);

/// In floats, or with `half` in bf16 where the processor multiplies those faster.
const Attention& attention_for(Isa isa, bool half);

}  // namespace prunella
