#include "encoder.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <new>
#include <stdexcept>
#include <thread>

#include <unistd.h>

namespace prunella {
namespace {

// Tokens for each thread that pass through a layer together: what lies between its matrices stays in the L2 cache.
constexpr int kTokensOfThread = 128;
constexpr int kTokensPerTask = 16;

/// to (+)= row of the table
template <bool kAdd>
void embedding_row(const Table& table, int row, int width, float* to) {
  const auto each = [&](const auto& value) {
    for (int i = 0; i < width; ++i) to[i] = kAdd ? to[i] + value(i) : value(i);
  };
  const std::size_t at = static_cast<std::size_t>(row) * width;
  if (table.floats) {
    each([from = table.floats + at](int i) { return from[i]; });
  } else if (table.halves) {
    each([from = table.halves + at](int i) {
      return std::bit_cast<float>(static_cast<std::uint32_t>(from[i]) << 16);
    });
  } else {
    each([from = table.codes + at, scale = table.scale[row]](int i) { return from[i] * scale; });
  }
}

}  // namespace

Encoder::Encoder(const Shape& shape, int threads, Isa isa)
    : shape(shape),
      pool_(threads),
      work_(threads),
      vector_(vector_for(isa)),
      attention_(attention_for(isa, shape.half)),
      process_(getpid()) {}

void Encoder::run(const std::int32_t* ids, const std::int32_t* types, std::size_t tokens, const std::int32_t* lengths,
                  std::size_t sequences, const std::int32_t* rows, std::size_t row_count, bool with_head, float* out) {
  check(ids, types, tokens, lengths, sequences, rows, row_count);
  if (tokens == 0 || row_count == 0) return;
  leave_parent();
  std::lock_guard lock(mutex_);
  const int n = static_cast<int>(tokens), hidden = shape.hidden;
  const auto parts = groups(lengths, sequences);
  int most = 0;
  for (const Group& group : parts) most = std::max(most, group.tokens);
  x_.reserve(sizeof(float) * (tokens + 16) * hidden);
  divide_space(most, tokens);
  embed(ids, types, lengths, sequences, n);
  for (const Layer& layer : layers)
    for (const Group& group : parts) run_layer(layer, group);
  run_head(rows, static_cast<int>(row_count), with_head, out);
}

/// Makes room for groups of up to `most` tokens, and for the embeddings of all of them where they are projected.
void Encoder::divide_space(int most, std::size_t tokens) {
  const int hidden = shape.hidden, inner = shape.intermediate;
  const std::size_t rows = most + std::size_t{16}, embedded = projection ? (tokens + 16) * shape.embedding : 0;
  // Matrices of one model may differ in their arithmetic.
  const bool apart =
      std::any_of(layers.begin(), layers.end(), [](const Layer& l) { return l.ffn_out->reads_while_writing(); });
  const int together = std::max(4 * hidden, inner), all = together + apart * hidden;
  if (pool_.threads() == 1) {
    space_.reserve(sizeof(float) * std::max(rows * all, embedded));
    float* at = space_.as<float>();
    qkv_ = {at, 3 * hidden};
    context_ = {at + rows * 3 * hidden, hidden};
    y_ = {at + apart * rows * together, hidden};
    inner_ = {at, inner};
  } else {
    const int stride = ((all + 63) / 64 | 1) * 64;  // an odd multiple: else rows would share cache sets
    space_.reserve(sizeof(float) * std::max(rows * stride, embedded));
    float* at = space_.as<float>();
    qkv_ = inner_ = {at, stride};
    context_ = {at + 3 * hidden, stride};
    y_ = {at + apart * together, stride};
  }
}

/// A forked child has none of its parent's other threads. One of them may have been in run(): its lock would be held for
/// ever, and its buffers half made. The child leaves all that as it is, and begins anew.
void Encoder::leave_parent() {
  const std::int64_t own = getpid();
  for (std::int64_t seen; (seen = process_.load(std::memory_order_acquire)) != own;) {
    if (seen == -own || !process_.compare_exchange_weak(seen, -own)) {  // another thread of the child is at it
      std::this_thread::yield();
      continue;
    }
    new (&mutex_) std::mutex();
    new (&work_) Workspace(pool_.threads());
    for (Buffer* buffer : {&x_, &space_}) new (buffer) Buffer();
    process_.store(own, std::memory_order_release);
  }
}

std::vector<Encoder::Group> Encoder::groups(const std::int32_t* lengths, std::size_t sequences) const {
  const int wanted = kTokensOfThread * pool_.threads();
  std::vector<Group> found;
  int first = 0;
  for (std::size_t s = 0; s < sequences; first += lengths[s++]) {
    if (found.empty() || found.back().tokens + lengths[s] > wanted) found.push_back({lengths + s, 0, first, 0});
    found.back().sequences += 1;
    found.back().tokens += lengths[s];
  }
  return found;
}

void Encoder::run_layer(const Layer& layer, const Group& group) {
  const int hidden = shape.hidden, n = group.tokens;
  float* x = x_.as<float>() + static_cast<std::size_t>(group.first) * hidden;
  layer.qkv->run(vector_, pool_, work_, x, hidden, n, Activation::none, qkv_.at, qkv_.stride);
  attend(group);
  layer.attention_output->run(vector_, pool_, work_, context_.at, context_.stride, n, Activation::none, y_.at,
                              y_.stride);
  normalise(y_.at, y_.stride, x, n, hidden, layer.attention_norm, x);
  feed_forward(layer, x, n);
}

void Encoder::check(const std::int32_t* ids, const std::int32_t* type_ids, std::size_t tokens,
                    const std::int32_t* lengths, std::size_t sequences, const std::int32_t* rows,
                    std::size_t row_count) const {
  if (!embedding_norm.gain || (!projection && shape.embedding != shape.hidden))
    throw std::invalid_argument("an encoder that lacks a part");
  if (std::max(tokens, row_count) > (1u << 24)) throw std::invalid_argument("too many tokens in one call; cut it into batches");
  std::size_t total = 0;
  for (std::size_t i = 0; i < sequences; ++i) {
    if (lengths[i] < 1 || lengths[i] > positions.rows - shape.first_position)
      throw std::invalid_argument("a sequence of " + std::to_string(lengths[i]) + " tokens; this model takes 1 to " +
                                  std::to_string(positions.rows - shape.first_position));
    total += lengths[i];
  }
  if (total != tokens) throw std::invalid_argument("the lengths do not add up to the number of tokens");
  for (std::size_t i = 0; i < tokens; ++i) {
    if (ids[i] < 0 || ids[i] >= words.rows)
      throw std::invalid_argument("token id " + std::to_string(ids[i]) + " is outside the vocabulary of " +
                                  std::to_string(words.rows));
    if (types.rows && (type_ids[i] < 0 || type_ids[i] >= types.rows))
      throw std::invalid_argument("token type " + std::to_string(type_ids[i]) + "; this model has " +
                                  std::to_string(types.rows));
  }
  for (std::size_t i = 0; i < row_count; ++i)
    if (rows[i] < 0 || static_cast<std::size_t>(rows[i]) >= tokens)
      throw std::invalid_argument("row " + std::to_string(rows[i]) + " is no token of the batch");
}

void Encoder::embed(const std::int32_t* ids, const std::int32_t* type_ids, const std::int32_t* lengths,
                    std::size_t sequences, int tokens) {
  const int width = shape.embedding;
  float* to = projection ? space_.as<float>() : x_.as<float>();
  std::vector<std::int32_t> position(tokens);
  for (std::size_t s = 0, t = 0; s < sequences; ++s)
    for (std::int32_t i = 0; i < lengths[s]; ++i) position[t++] = i + shape.first_position;
  pool_.run((tokens + kTokensPerTask - 1) / kTokensPerTask, [&](int task, int) {
    for (int t = task * kTokensPerTask; t < std::min(tokens, (task + 1) * kTokensPerTask); ++t) {
      float* row = to + static_cast<std::size_t>(t) * width;
      embedding_row<false>(words, ids[t], width, row);
      if (types.rows) embedding_row<true>(types, type_ids[t], width, row);
      embedding_row<true>(positions, position[t], width, row);
      vector_.layer_norm(row, nullptr, width, embedding_norm.gain, embedding_norm.bias, shape.epsilon, row);
    }
  });
  if (projection)
    projection->run(vector_, pool_, work_, to, width, tokens, Activation::none, x_.as<float>(), shape.hidden);
}

void Encoder::attend(const Group& group) {
  const std::int32_t* lengths = group.lengths;
  const int sequences = group.sequences;
  const int hidden = shape.hidden, heads = shape.heads, width = hidden / heads;
  // Few sequences and heads, many threads: cut the queries as well.
  const int wanted = 4 * pool_.threads();
  const int parts = pool_.threads() == 1 ? 1 : std::max(1, wanted / (sequences * heads));
  std::vector<int> first(sequences);
  int longest = 0;
  for (int s = 0, t = 0; s < sequences; t += lengths[s++]) {
    first[s] = t;
    longest = std::max(longest, lengths[s]);
  }
  const std::size_t bytes = attention_.scratch(longest, width);
  for (auto& scratch : work_.scratch) scratch.reserve(bytes);
  const float scale = 1.0f / std::sqrt(static_cast<float>(width));
  pool_.run(sequences * heads * parts, [&](int task, int thread) {
    const int part = task % parts, head = task / parts % heads, s = task / parts / heads;
    const int n = lengths[s], step = ((n + parts - 1) / parts + 15) / 16 * 16;
    const int begin = std::min(n, part * step), end = std::min(n, begin + step);
    if (begin == end) return;
    const float* q = qkv_.at + first[s] * qkv_.stride + head * width;
    float* out = context_.at + first[s] * context_.stride + head * width;
    attention_.attend(q, q + hidden, q + 2 * hidden, qkv_.stride, n, width, scale, begin, end, out, context_.stride,
                      work_.scratch[thread].as<void>());
  });
}

void Encoder::feed_forward(const Layer& layer, float* x, int tokens) {
  const int hidden = shape.hidden, wanted = kTokensOfThread * pool_.threads();
  const bool fast = shape.half && vector_.isa >= Isa::avx2 && shape.activation == Activation::gelu;
  const Activation activation = fast ? Activation::gelu_fast : shape.activation;
  const int chunks = (tokens + wanted - 1) / wanted, step = (tokens + chunks - 1) / chunks;
  for (int begin = 0; begin < tokens; begin += step, x += static_cast<std::ptrdiff_t>(step) * hidden) {
    const int count = std::min(step, tokens - begin);
    layer.ffn_in->run(vector_, pool_, work_, x, hidden, count, activation, inner_.at, inner_.stride);
    layer.ffn_out->run(vector_, pool_, work_, inner_.at, inner_.stride, count, Activation::none, y_.at, y_.stride);
    normalise(y_.at, y_.stride, x, count, hidden, layer.output_norm, x);
  }
}

void Encoder::run_head(const std::int32_t* rows, int count, bool with_head, float* out) {
  const int hidden = shape.hidden;
  const auto gather = [&](float* to) {
    for (int i = 0; i < count; ++i)
      std::memcpy(to + static_cast<std::size_t>(i) * hidden, x_.as<float>() + static_cast<std::size_t>(rows[i]) * hidden,
                  sizeof(float) * hidden);
  };
  if (!with_head || head.empty()) return gather(out);
  Buffer now(sizeof(float) * hidden * (count + 16)), next;
  gather(now.as<float>());
  int width = hidden;
  for (const HeadStep& step : head) {
    next = Buffer(sizeof(float) * step.width * (count + std::size_t{16}));
    step.linear->run(vector_, pool_, work_, now.as<float>(), width, count, step.activation, next.as<float>(), step.width);
    width = step.width;
    if (step.norm.gain) normalise(next.as<float>(), width, nullptr, count, width, step.norm, next.as<float>());
    std::swap(now, next);
  }
  std::memcpy(out, now.as<float>(), sizeof(float) * width * static_cast<std::size_t>(count));
}

void Encoder::normalise(const float* x, std::ptrdiff_t stride, const float* residual, int tokens, int width, Norm norm,
                        float* out) {
  pool_.run((tokens + kTokensPerTask - 1) / kTokensPerTask, [&](int task, int) {
    for (int t = task * kTokensPerTask; t < std::min(tokens, (task + 1) * kTokensPerTask); ++t) {
      const std::size_t at = static_cast<std::size_t>(t) * width;
      vector_.layer_norm(x + t * stride, residual ? residual + at : nullptr, width, norm.gain, norm.bias, shape.epsilon,
                         out + at);
    }
  });
}

}  // namespace prunella
