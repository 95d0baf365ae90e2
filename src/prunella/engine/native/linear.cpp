#include "linear.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <type_traits>

namespace prunella {
namespace {

constexpr int kSumsPerTask = 32768;  // 128 KB, which stay in the cache between a kernel and what finishes its work
constexpr std::size_t kEvict = 4 << 20;  // twice the L2 cache of a core
constexpr int kTokensOfThread = 48;
constexpr int kRounds = 6;           // of timing the kernels that are in question
constexpr double kHopeless = 1.5;    // times as slow as the best: not timed again
constexpr int round_up(int n, int multiple) { return (n + multiple - 1) / multiple * multiple; }

/// A dense copy of a sparse matrix.
template <class Weight>
Buffer densify(const Matrix<Weight>& matrix) {
  Buffer dense(static_cast<std::size_t>(matrix.rows) * matrix.columns * sizeof(Weight));
  for (int r = 0; r < matrix.rows; ++r)
    for (std::int32_t i = matrix.starts[r]; i < matrix.starts[r + 1]; ++i)
      dense.as<Weight>()[static_cast<std::size_t>(r) * matrix.columns + matrix.indices[i]] = matrix.values[i];
  return dense;
}

template <class Weight>
double density_of(const Matrix<Weight>& matrix) {
  const double elements = static_cast<double>(matrix.rows) * matrix.columns;
  if (!matrix.starts || elements == 0) return 1;
  return matrix.starts[matrix.rows] / elements;
}

// Below this share of non-zeros a dense kernel has no chance; above the other, a sparse one.
constexpr double kDenseFrom = 0.15, kSparseTo = 0.75;

template <class Input, class Weight, class Sum>
class LinearOf final : public Linear {
  using K = Kernel<Input, Weight, Sum>;

 public:
  LinearOf(const Matrix<Weight>& given, const float* scale, const float* bias, Tuner& tuner)
      : rows_(given.rows), columns_(given.columns), density_(density_of(given)), sparse_(given.starts) {
    Matrix<Weight> matrix = given;
    if (bias) bias_ = copied(bias, rows_);
    if (scale) {
      scale_ = copied(scale, rows_);
      row_sums_ = Buffer(sizeof(std::int32_t) * round_up(std::max(rows_, 1), 64));
      for (int r = 0; r < rows_; ++r) row_sums_.as<std::int32_t>()[r] = row_sum(matrix, r);
    }
    choose(matrix, tuner);
    const bool borrowed = std::any_of(prepared_.begin(), prepared_.end(), [](const Prepared& p) { return p.layout.borrowed; });
    borrows_ = borrowed && !given.starts;
    if (!borrowed) dense_ = Buffer();
  }

  void run(const Vector& vector, Pool& pool, Workspace& work, const float* x, std::ptrdiff_t stride, int tokens,
           Activation activation, float* out, std::ptrdiff_t out_stride) const override {
    if (tokens == 0 || rows_ == 0) return;
    const Prepared& prepared = prepared_[chosen_[bucket(tokens)]];
    const K& kernel = *prepared.kernel;
    const auto [blocks, step, chunk] = cut(kernel, tokens, pool.threads());
    const Inputs in = convert(vector, pool, work, kernel, x, stride, tokens, step, blocks);
    const int chunks = (rows_ + chunk - 1) / chunk;
    const std::ptrdiff_t sum_stride = round_up(chunk, 16) + 16;  // no power of two: rows would share cache sets
    for (auto& scratch : work.scratch) scratch.reserve(sizeof(Sum) * sum_stride * round_up(step, 16));
    // The blocks of a thread take turns with each piece of the weights, which is still in its cache for the second.
    const int together = blocks % pool.threads() == 0 ? blocks / pool.threads() : 1;
    pool.run(blocks * chunks, [&](int task, int thread) {
      const int block = task / (together * chunks) * together + task % together, row = task / together % chunks * chunk;
      const int first = block * step, count = std::min(step, tokens - first), end = std::min(rows_, row + chunk);
      if (count <= 0) return;
      Sum* sums = work.scratch[thread].template as<Sum>();
      kernel.multiply(prepared.layout, in.data + in.block * block, in.stride, count, row, end, sums, sum_stride);
      float* to = out + first * out_stride + row;
      finish(vector, work, sums, sum_stride, first, count, row, end, activation, to, out_stride);
    });
  }

  bool borrows() const override { return borrows_; }

  bool reads_while_writing() const override { return std::is_same_v<Input, float>; }

  LinearInfo info() const override {
    std::size_t bytes = bias_.bytes() + scale_.bytes() + row_sums_.bytes() + dense_.bytes();
    if (borrows_) bytes += static_cast<std::size_t>(rows_) * columns_ * sizeof(Weight);
    for (const auto& prepared : prepared_)
      for (const auto& part : prepared.layout.parts) bytes += part.bytes();
    std::array<const char*, 3> names;
    for (int i = 0; i < 3; ++i) names[i] = prepared_[chosen_[i]].kernel->name;
    constexpr const char* arithmetic = std::is_same_v<Input, float> ? "fp32" : sizeof(Input) == 2 ? "bf16" : "int8";
    return {arithmetic, rows_, columns_, density_, names, bytes};
  }

 private:
  struct Prepared {
    const K* kernel;
    Layout layout;
  };
  struct Inputs {
    const Input* data;
    std::ptrdiff_t stride;
    std::ptrdiff_t block;  // elements from one block of tokens to the next
  };

  static Buffer copied(const float* from, int n) {
    Buffer buffer(sizeof(float) * round_up(std::max(n, 1), 64));
    std::memcpy(buffer.as<float>(), from, sizeof(float) * n);
    return buffer;
  }

  static std::int32_t row_sum(const Matrix<Weight>& matrix, int r) {
    std::int32_t sum = 0;
    const std::size_t begin = matrix.starts ? matrix.starts[r] : static_cast<std::size_t>(r) * matrix.columns;
    const std::size_t end = matrix.starts ? matrix.starts[r + 1] : begin + matrix.columns;
    for (std::size_t i = begin; i < end; ++i) sum += matrix.values[i];
    return sum;
  }

  static int bucket(int tokens) {
    return tokens <= (kTunedTokens[0] + kTunedTokens[1]) / 2 ? 0 : tokens <= (kTunedTokens[1] + kTunedTokens[2]) / 2 ? 1 : 2;
  }

  /// Tasks: blocks of `step` tokens by `chunk` rows.
  struct Cut {
    int blocks, step, chunk;
  };

  Cut cut(const K& kernel, int tokens, int threads) const {
    // Blocks of equal size, as a short last one would waste most of a kernel's lanes; and enough of them that every thread
    // keeps tokens of its own, unless they are so few that reading all weights would cost more than sharing tokens.
    int blocks = (tokens + kernel.token_step - 1) / kernel.token_step;
    if (tokens >= kTokensOfThread * threads) blocks = round_up(blocks, threads);
    const int step = round_up((tokens + blocks - 1) / blocks, 16);
    // About three tasks a thread when there are enough rows, so that no thread waits long for another.
    int chunk = kSumsPerTask / step;
    if (threads > 1) chunk = static_cast<int>(std::min<std::int64_t>(chunk, std::int64_t{rows_} * blocks / (3 * threads)));
    return {blocks, step, std::max(round_up(chunk, kernel.row_step), kernel.row_step)};
  }

  /// Activations in the kernel's type and order.
  Inputs convert(const Vector& vector, Pool& pool, Workspace& work, const K& kernel, const float* x,
                 std::ptrdiff_t stride, int tokens, int step, int blocks) const {
    const int width = round_up(columns_, 64);
    if constexpr (std::is_same_v<Input, float>) {
      if (!kernel.arrange && stride % 64 == 0 && width == columns_) return {x, stride, step * stride};
    }
    work.scales.reserve(sizeof(float) * tokens);
    work.zero_points.reserve(sizeof(std::int32_t) * tokens);
    const auto one = [&](int t, Input* to) {
      const float* from = x + t * stride;
      if constexpr (sizeof(Input) == 1)
        vector.quantize(from, columns_, to, work.scales.as<float>() + t, work.zero_points.as<std::int32_t>() + t);
      else if constexpr (sizeof(Input) == 2)
        vector.to_bf16(from, columns_, to);
      else
        std::memcpy(to, from, sizeof(float) * columns_);
      std::memset(static_cast<void*>(to + columns_), 0, sizeof(Input) * (width - columns_));
    };
    if (!kernel.arrange) {
      work.inputs.reserve(sizeof(Input) * width * (static_cast<std::size_t>(tokens) + 16));
      Input* rows = work.inputs.as<Input>();
      constexpr int kTogether = 16;
      pool.run((tokens + kTogether - 1) / kTogether, [&](int task, int) {
        const int end = std::min(tokens, (task + 1) * kTogether);
        for (int t = task * kTogether; t < end; ++t) one(t, rows + static_cast<std::ptrdiff_t>(t) * width);
      });
      return {rows, width, static_cast<std::ptrdiff_t>(step) * width};
    }
    // Piece by piece through a thread's own memory, which stays in the cache.
    const int piece = kernel.piece ? kernel.piece : step, pieces = (step + piece - 1) / piece;
    const std::ptrdiff_t size = kernel.arranged_size(piece, columns_), block_size = (size * pieces + 63) / 64 * 64;
    work.inputs.reserve(sizeof(Input) * block_size * blocks);
    for (auto& scratch : work.scratch) scratch.reserve(sizeof(Input) * width * (piece + 16));
    pool.run(blocks * pieces, [&](int task, int thread) {
      const int block = task / pieces, first = block * step + task % pieces * piece;
      const int end = std::min({tokens, (block + 1) * step, first + piece});
      if (first >= end) return;
      Input* rows = work.scratch[thread].template as<Input>();
      for (int t = first; t < end; ++t) one(t, rows + static_cast<std::ptrdiff_t>(t - first) * width);
      kernel.arrange(rows, width, end - first, columns_,
                     work.inputs.as<Input>() + block_size * block + size * (task % pieces));
    });
    return {work.inputs.as<Input>(), width, block_size};
  }

  void finish(const Vector& vector, const Workspace& work, const Sum* sums, std::ptrdiff_t sum_stride, int first,
              int count, int row, int end, Activation activation, float* out, std::ptrdiff_t out_stride) const {
    const float* bias = bias_.bytes() ? bias_.as<float>() + row : nullptr;
    if constexpr (sizeof(Input) == 1)
      vector.dequantize(sums, sum_stride, count, end - row, row_sums_.as<std::int32_t>() + row, scale_.as<float>() + row,
                        work.scales.as<float>() + first, work.zero_points.as<std::int32_t>() + first, bias,
                        activation, out, out_stride);
    else
      vector.add_bias(sums, sum_stride, count, end - row, bias, activation, out, out_stride);
  }

  // ---- the choice of kernels ----

  void choose(const Matrix<Weight>& matrix, Tuner& tuner) {
    std::vector<const K*> candidates;
    Isa worst = Isa::portable;  // plain loops only where nothing better is
    for (const K* const* k = kernel_table<K>(); *k; ++k)
      if ((*k)->isa <= tuner.isa && fits(**k, matrix)) worst = std::max(worst, std::min((*k)->isa, Isa::avx2));
    for (const K* const* k = kernel_table<K>(); *k; ++k)
      if ((*k)->isa <= tuner.isa && (*k)->isa >= worst && fits(**k, matrix)) candidates.push_back(*k);
    const int density = static_cast<int>(density_ * 50);
    for (const auto& entry : tuner.entries)
      if (entry.table == kernel_table<K>() && entry.rows == rows_ && entry.columns == columns_ &&
          entry.density == density && entry.candidates == candidates.size()) {
        for (int i = 0; i < 3; ++i) chosen_[i] = use(static_cast<const K*>(entry.kernels[i]), matrix);
        return;
      }
    if (candidates.size() == 1 || static_cast<std::size_t>(rows_) * columns_ == 0) {
      use(candidates.front(), matrix);
      return;
    }
    std::vector<Prepared> tried;
    for (const K* kernel : candidates) {
      tried.push_back({kernel, {}});
      prepare(tried.back(), matrix);
    }
    std::array<const K*, 3> best;
    int many = 0;
    for (int i = 2; i >= 0; --i) {
      // They take turns, so that a moment in which the processor has other work falls on all of them.
      std::vector<double> least(tried.size(), 1e9);
      for (int round = 0; round < kRounds; ++round) {
        const double hopeless = kHopeless * *std::min_element(least.begin(), least.end());
        for (std::size_t k = 0; k < tried.size(); ++k)
          if (round < 2 || least[k] <= hopeless) least[k] = std::min(least[k], measure(tried[k], kTunedTokens[i]));
      }
      int first = static_cast<int>(std::min_element(least.begin(), least.end()) - least.begin());
      if (i == 2) many = first;
      if (least[many] < 1.3 * least[first]) first = many;  // a second layout must earn its memory
      best[i] = tried[first].kernel;
    }
    tried.clear();
    for (int i = 0; i < 3; ++i) chosen_[i] = use(best[i], matrix);
    tuner.entries.push_back({kernel_table<K>(), rows_, columns_, density, candidates.size(), {best[0], best[1], best[2]}});
  }

  bool fits(const K& kernel, const Matrix<Weight>& matrix) const {
    if (kernel.dense) return !sparse_ || density_ >= kDenseFrom;
    return sparse_ && density_ <= kSparseTo && (!kernel.suits || kernel.suits(matrix));
  }

  int use(const K* kernel, const Matrix<Weight>& matrix) {
    for (std::size_t i = 0; i < prepared_.size(); ++i)
      if (prepared_[i].kernel == kernel) return static_cast<int>(i);
    prepared_.push_back({kernel, {}});
    prepare(prepared_.back(), matrix);
    return static_cast<int>(prepared_.size()) - 1;
  }

  void prepare(Prepared& prepared, Matrix<Weight> matrix) {
    if (prepared.kernel->dense && matrix.starts) {
      if (!dense_.bytes()) dense_ = densify(matrix);
      matrix.starts = matrix.indices = nullptr;
      matrix.values = dense_.as<Weight>();
      prepared.kernel->prepare(matrix, prepared.layout);
    } else {
      prepared.kernel->prepare(matrix, prepared.layout);
    }
  }

  /// Seconds for one multiplication by one thread, cut as in `run`, with cold caches: in a model, the other matrices have
  /// pushed this one out of the inner caches by the time that it is needed again.
  double measure(const Prepared& prepared, int tokens) const {
    const K& kernel = *prepared.kernel;
    const auto [blocks, step, chunk] = cut(kernel, tokens, 1);
    const int width = round_up(columns_, 64);
    const std::ptrdiff_t sum_stride = round_up(chunk, 16) + 16;
    const std::ptrdiff_t elements = kernel.arrange ? kernel.arranged_size(step, columns_) : std::ptrdiff_t{width} * step;
    const std::ptrdiff_t size = (elements + 63) / 64 * 64;  // every block is aligned
    Buffer rows(sizeof(Input) * width * (step + 16)), inputs(sizeof(Input) * size * blocks);
    Buffer sums(sizeof(Sum) * sum_stride * round_up(step, 16));
    static thread_local Buffer other(kEvict);
    std::memset(other.as<char>(), 1, kEvict);
    const auto begin = std::chrono::steady_clock::now();
    for (int b = 0; kernel.arrange && b * step < tokens; ++b)
      kernel.arrange(rows.as<Input>(), width, step, columns_, inputs.as<Input>() + size * b);
    for (int row = 0; row < rows_; row += chunk)
      for (int b = 0; b * step < tokens; ++b)
        kernel.multiply(prepared.layout, inputs.as<Input>() + size * b, width, std::min(step, tokens - step * b), row,
                        std::min(rows_, row + chunk), sums.as<Sum>(), sum_stride);
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  }

  int rows_, columns_;
  double density_;
  bool sparse_, borrows_ = false;
  Buffer bias_, scale_, row_sums_, dense_;
  std::vector<Prepared> prepared_;
  std::array<int, 3> chosen_{};
};

}  // namespace

std::unique_ptr<Linear> make_int8(const Matrix<std::int8_t>& matrix, const float* scale, const float* bias,
                                  Tuner& tuner) {
  return std::make_unique<LinearOf<std::uint8_t, std::int8_t, std::int32_t>>(matrix, scale, bias, tuner);
}
std::unique_ptr<Linear> make_bf16(const Matrix<std::uint16_t>& matrix, const float* bias, Tuner& tuner) {
  return std::make_unique<LinearOf<std::uint16_t, std::uint16_t, float>>(matrix, nullptr, bias, tuner);
}
std::unique_ptr<Linear> make_fp32(const Matrix<float>& matrix, const float* bias, Tuner& tuner) {
  return std::make_unique<LinearOf<float, float, float>>(matrix, nullptr, bias, tuner);
}

}  // namespace prunella
