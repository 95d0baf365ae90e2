// The whole forward pass: embeddings, layers, head.
#pragma once
#include <atomic>
#include <mutex>

#include "linear.h"

namespace prunella {

/// Rows of embeddings: floats, or 8-bit codes with a scale for each row. The caller's memory.
struct Table {
  const float* floats = nullptr;
  const std::uint16_t* halves = nullptr;  // bf16
  const std::int8_t* codes = nullptr;
  const float* scale = nullptr;
  int rows = 0;
};

struct Norm {
  const float* gain = nullptr;
  const float* bias = nullptr;
};

struct Layer {
  const Linear* qkv;
  const Linear* attention_output;
  Norm attention_norm;
  const Linear* ffn_in;
  const Linear* ffn_out;
  Norm output_norm;
};

/// One step of a head: a Linear and what follows it.
struct HeadStep {
  const Linear* linear;
  int width;
  Activation activation;
  Norm norm;  // or none
};

struct Shape {
  int hidden = 0;
  int embedding = 0;  // width of the tables; projected to `hidden` where it differs
  int heads = 0;
  int intermediate = 0;
  float epsilon = 1e-12f;
  Activation activation = Activation::gelu;
  int first_position = 0;
  bool half = false;  // bf16 in attention and a faster GELU will do, as the matrices are no more exact
};

/// A BERT-like encoder, post-layer-norm. Plain data that compiled.py fills in; run() is safe from many threads,
/// one at a time.
class Encoder {
 public:
  Encoder(const Shape& shape, int threads, Isa isa);

  Shape shape;
  Table words, positions, types;
  Norm embedding_norm;
  const Linear* projection = nullptr;
  std::vector<Layer> layers;
  std::vector<HeadStep> head;

  /// Token ids and types one sequence after another, none of them padding. out: [rows.size(), width of the head].
  /// Throws std::invalid_argument for what is out of range.
  void run(const std::int32_t* ids, const std::int32_t* types, std::size_t tokens, const std::int32_t* lengths,
           std::size_t sequences, const std::int32_t* rows, std::size_t row_count, bool with_head, float* out);

  int width() const { return head.empty() ? shape.hidden : head.back().width; }

 private:
  /// Sequences that pass through a layer together.
  struct Group {
    const std::int32_t* lengths;
    int sequences;
    int first;  // token
    int tokens;
  };

  void leave_parent();
  void divide_space(int most, std::size_t tokens);
  void check(const std::int32_t* ids, const std::int32_t* types, std::size_t tokens, const std::int32_t* lengths,
             std::size_t sequences, const std::int32_t* rows, std::size_t row_count) const;
  void embed(const std::int32_t* ids, const std::int32_t* types, const std::int32_t* lengths, std::size_t sequences,
             int tokens);
  std::vector<Group> groups(const std::int32_t* lengths, std::size_t sequences) const;
  void run_layer(const Layer& layer, const Group& group);
  void attend(const Group& group);
  void feed_forward(const Layer& layer, float* x, int tokens);
  void run_head(const std::int32_t* rows, int count, bool with_head, float* out);
  void normalise(const float* x, std::ptrdiff_t stride, const float* residual, int tokens, int width, Norm norm,
                 float* out);

  Pool pool_;
  Workspace work_;
  const Vector& vector_;
  const Attention& attention_;
  Buffer x_, space_;
  /// A part of the space: a row for each token of a group.
  struct Part {
    float* at = nullptr;
    std::ptrdiff_t stride = 0;
  };
  /// They overlap where one is dead before the next is written: the less memory is touched, the more of it stays in the L2
  /// cache. With several threads they are columns of one table: what a thread writes in one step and in the next lies in
  /// the same lines, which need not leave its core.
  Part qkv_, context_, y_, inner_;
  std::mutex mutex_;
  std::atomic<std::int64_t> process_;  // whose threads and memory those above are; negative: that makes them just now
};

}  // namespace prunella
