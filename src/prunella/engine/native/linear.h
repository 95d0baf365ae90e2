// One weight matrix with its bias: converts activations, multiplies with the fastest kernel, and finishes.
#pragma once
#include <array>
#include <cstddef>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "buffer.h"
#include "kernel.h"
#include "pool.h"
#include "vector.h"

namespace prunella {

/// Per-thread scratch memory, and the inputs of the matrix under way. One for an encoder.
struct Workspace {
  explicit Workspace(int threads) : scratch(threads) {}
  Buffer inputs, scales, zero_points;
  std::vector<Buffer> scratch;
};

/// What a Linear was given, kept for reports.
struct LinearInfo {
  std::string arithmetic;
  int rows, columns;
  double density;
  std::array<const char*, 3> kernels;  // for few, some and many tokens
  std::size_t bytes;
};

class Tuner;

/// y = activation(x W^T + bias), in 8-bit integers, bf16 or floats.
class Linear {
 public:
  virtual ~Linear() = default;

  /// x: [tokens, columns], rows `stride` apart; out: [tokens, rows], rows `out_stride` apart.
  virtual void run(const Vector& vector, Pool& pool, Workspace& work, const float* x, std::ptrdiff_t stride, int tokens,
                   Activation activation, float* out, std::ptrdiff_t out_stride) const = 0;
  /// Whether it reads the matrix that it was given, which must then outlive it.
  virtual bool borrows() const = 0;
  virtual LinearInfo info() const = 0;
  /// Whether run() may read x while it writes out; the others have made a copy of it by then.
  virtual bool reads_while_writing() const = 0;
};

/// What int8 needs besides the codes: a scale for each row.
std::unique_ptr<Linear> make_int8(const Matrix<std::int8_t>& matrix, const float* scale, const float* bias,
                                  Tuner& tuner);
std::unique_ptr<Linear> make_bf16(const Matrix<std::uint16_t>& matrix, const float* bias, Tuner& tuner);
std::unique_ptr<Linear> make_fp32(const Matrix<float>& matrix, const float* bias, Tuner& tuner);

/// Which kernel for which shape: measured at the first matrix of a kind, then remembered.
class Tuner {
 public:
  explicit Tuner(Isa isa) : isa(isa) {}
  const Isa isa;

  struct Entry {
    const void* table;
    int rows, columns, density;
    std::size_t candidates;  // how many kernels suited: matrices of one shape differ in their patterns
    std::array<const void*, 3> kernels;
  };
  std::vector<Entry> entries;
};

/// Numbers of tokens at which kernels are compared.
constexpr std::array<int, 3> kTunedTokens = {16, 48, 128};

}  // namespace prunella
