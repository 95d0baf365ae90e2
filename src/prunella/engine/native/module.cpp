// The Python module prunella.engine._native. Arrays come in as numpy; the GIL is released wherever time passes.

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <optional>
#include <string>

#include "encoder.h"

#if defined(__GLIBC__)
#include <malloc.h>
#endif

namespace nb = nanobind;
using namespace nb::literals;

namespace prunella {
namespace {

template <class T>
using Vec = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <class T>
using Mat = nb::ndarray<const T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
template <class T>
using Result = nb::ndarray<nb::numpy, T, nb::ndim<2>>;

template <class T>
Result<T> make_result(std::size_t rows, std::size_t columns) {
  T* data = new T[std::max<std::size_t>(rows * columns, 1)];
  nb::capsule owner(data, [](void* p) noexcept { delete[] static_cast<T*>(p); });
  return Result<T>(data, {rows, columns}, owner);
}

// Rows or columns of a matrix: products with a few dozen bytes or tokens stay within an int.
constexpr std::size_t kLargest = 1 << 24;
// Columns of 8-bit codes: sums of 255 * -128 stay within 32 bits.
constexpr std::size_t kLargestInt8 = 1 << 16;

template <class Weight>
void check_size(std::size_t rows, std::size_t columns) {
  if (std::max(rows, columns) > kLargest || (sizeof(Weight) == 1 && columns > kLargestInt8))
    throw std::invalid_argument("a matrix of " + std::to_string(rows) + " x " + std::to_string(columns) +
                                " is too large for the engine");
}

/// A matrix as Python gives it: three arrays of compressed rows, or one dense one.
template <class Weight>
Matrix<Weight> sparse_matrix(const Vec<std::int32_t>& starts, const Vec<std::int32_t>& indices,
                             const Vec<Weight>& values, int columns) {
  if (starts.shape(0) < 1 || columns < 0) throw std::invalid_argument("not a matrix");
  check_size<Weight>(starts.shape(0) - 1, columns);
  const int rows = static_cast<int>(starts.shape(0)) - 1;
  const std::size_t count = values.shape(0);
  if (indices.shape(0) != count || starts.data()[0] != 0 || static_cast<std::size_t>(starts.data()[rows]) != count)
    throw std::invalid_argument("compressed rows: starts, indices and values do not fit each other");
  for (int r = 0; r < rows; ++r) {
    const std::int32_t begin = starts.data()[r], end = starts.data()[r + 1];
    if (end < begin) throw std::invalid_argument("compressed rows: starts must not decrease");
    for (std::int32_t i = begin; i < end; ++i)
      if (indices.data()[i] >= columns || indices.data()[i] <= (i > begin ? indices.data()[i - 1] : -1))
        throw std::invalid_argument("compressed rows: columns must ascend within the matrix");
  }
  return {rows, columns, starts.data(), indices.data(), values.data()};
}

template <class Weight>
Matrix<Weight> dense_matrix(const Mat<Weight>& values) {
  check_size<Weight>(values.shape(0), values.shape(1));
  return {static_cast<int>(values.shape(0)), static_cast<int>(values.shape(1)), nullptr, nullptr, values.data()};
}

const float* floats(const std::optional<Vec<float>>& values, int rows, const char* what) {
  if (!values) return nullptr;
  if (values->shape(0) != static_cast<std::size_t>(rows)) throw std::invalid_argument(std::string(what) + ": wrong length");
  return values->data();
}

template <class Weight>
std::unique_ptr<Linear> make(const Matrix<Weight>& matrix, const std::optional<Vec<float>>& scale,
                             const std::optional<Vec<float>>& bias, Tuner& tuner) {
  const float* b = floats(bias, matrix.rows, "bias");
  const float* s = floats(scale, matrix.rows, "scale");
  if ((sizeof(Weight) == 1) != (s != nullptr)) throw std::invalid_argument("int8 needs scales, and only int8 does");
  nb::gil_scoped_release release;
  if constexpr (sizeof(Weight) == 1)
    return make_int8(matrix, s, b, tuner);
  else if constexpr (sizeof(Weight) == 2)
    return make_bf16(matrix, b, tuner);
  else
    return make_fp32(matrix, b, tuner);
}

template <class Weight>
void bind_linear(nb::module_& m) {
  m.def(
      "linear",
      [](Vec<std::int32_t> starts, Vec<std::int32_t> indices, Vec<Weight> values, int columns,
         std::optional<Vec<float>> scale, std::optional<Vec<float>> bias, Tuner& tuner) {
        return make(sparse_matrix(starts, indices, values, columns), scale, bias, tuner);
      },
      "starts"_a, "indices"_a, "values"_a.noconvert(), "columns"_a, "scale"_a.none(), "bias"_a.none(), "tuner"_a);
  m.def(
      "linear",
      [](Mat<Weight> values, std::optional<Vec<float>> scale, std::optional<Vec<float>> bias, Tuner& tuner) {
        auto linear = make(dense_matrix(values), scale, bias, tuner);
        const bool borrows = linear->borrows();
        nb::object made = nb::cast(std::move(linear));
        if (borrows) nb::keep_alive_obj(made, nb::cast(values));
        return made;
      },
      "values"_a.noconvert(), "scale"_a.none(), "bias"_a.none(), "tuner"_a);
}

// ---- for tests and benchmarks: one kernel by its name ----

template <class K>
const K& find_kernel(const std::string& name) {
  for (const K* const* k = kernel_table<K>(); *k; ++k)
    if (name == (*k)->name) {
      const auto& usable = usable_isas();
      if (std::find(usable.begin(), usable.end(), (*k)->isa) == usable.end())
        throw std::invalid_argument(name + ": not usable on this machine");
      return **k;
    }
  throw std::invalid_argument(name + ": no such kernel");
}

/// (sums [tokens, rows], seconds over all rows, the fastest of `repeat` runs of each block of tokens, bytes of the layout)
template <class Input, class Weight, class Sum>
nb::tuple multiply(const std::string& name, const Matrix<Weight>& matrix, const Mat<Input>& inputs, int repeat) {
  const auto& kernel = find_kernel<Kernel<Input, Weight, Sum>>(name);
  const int tokens = static_cast<int>(inputs.shape(0)), columns = matrix.columns, rows = matrix.rows;
  if (inputs.shape(1) != static_cast<std::size_t>(columns) || inputs.shape(0) > kLargest)
    throw std::invalid_argument("inputs: wrong width");
  if (kernel.dense == (matrix.starts != nullptr)) throw std::invalid_argument(name + ": wants the other kind of matrix");
  Layout layout;
  kernel.prepare(matrix, layout);
  auto result = make_result<Sum>(tokens, rows);
  double seconds = 0;
  std::size_t bytes = 0;
  for (const auto& part : layout.parts) bytes += part.bytes();
  {
    nb::gil_scoped_release release;
    const std::ptrdiff_t width = (columns + 63) / 64 * 64, sum_stride = (rows + kernel.row_step + 15) / 16 * 16 + 16;
    Buffer sums(sizeof(Sum) * sum_stride * 16 * ((kernel.token_step + 15) / 16)), arranged;
    for (int first = 0; first < tokens; first += kernel.token_step) {
      const int count = std::min(kernel.token_step, tokens - first);
      Buffer block(sizeof(Input) * width * (count + 16));
      for (int t = 0; t < count; ++t)
        std::copy_n(inputs.data() + static_cast<std::size_t>(first + t) * columns, columns, block.as<Input>() + t * width);
      const Input* from = block.as<Input>();
      if (kernel.arrange) {
        arranged = Buffer(sizeof(Input) * kernel.arranged_size(count, columns));
        kernel.arrange(from, width, count, columns, arranged.as<Input>());
        from = arranged.as<Input>();
      }
      double least = 1e300;
      for (int i = 0; i < std::max(repeat, 1); ++i) {
        const auto begin = std::chrono::steady_clock::now();
        for (int row = 0; row < rows; row += kernel.row_step * 8)
          kernel.multiply(layout, from, width, count, row, std::min(rows, row + kernel.row_step * 8),
                          sums.as<Sum>() + row, sum_stride);
        least = std::min(least, std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
      }
      seconds += least;
      for (int t = 0; t < count; ++t)
        std::copy_n(sums.as<Sum>() + t * sum_stride, rows, result.data() + static_cast<std::size_t>(first + t) * rows);
    }
  }
  return nb::make_tuple(result, seconds, bytes);
}

template <class Input, class Weight, class Sum>
void bind_multiply(nb::module_& m) {
  m.def(
      "multiply",
      [](const std::string& kernel, Vec<std::int32_t> starts, Vec<std::int32_t> indices, Vec<Weight> values,
         Mat<Input> inputs, int repeat) {
        return multiply<Input, Weight, Sum>(
            kernel, sparse_matrix(starts, indices, values, static_cast<int>(std::min(inputs.shape(1), kLargest + 1))),
            inputs, repeat);
      },
      "kernel"_a, "starts"_a, "indices"_a, "values"_a.noconvert(), "inputs"_a.noconvert(), "repeat"_a = 1);
  m.def(
      "multiply",
      [](const std::string& kernel, Mat<Weight> values, Mat<Input> inputs, int repeat) {
        return multiply<Input, Weight, Sum>(kernel, dense_matrix(values), inputs, repeat);
      },
      "kernel"_a, "values"_a.noconvert(), "inputs"_a.noconvert(), "repeat"_a = 1);
}

template <class K>
void list_kernels(nb::list& out, const char* arithmetic) {
  const auto& usable = usable_isas();
  for (const K* const* k = kernel_table<K>(); *k; ++k) {
    nb::dict entry;
    entry["arithmetic"] = arithmetic;
    entry["name"] = (*k)->name;
    entry["isa"] = name_of((*k)->isa);
    entry["dense"] = (*k)->dense;
    entry["usable"] = std::find(usable.begin(), usable.end(), (*k)->isa) != usable.end();
    out.append(entry);
  }
}

Activation activation_by_name(const std::string& name) {
  if (name == "none") return Activation::none;
  if (name == "gelu") return Activation::gelu;
  if (name == "gelu_tanh") return Activation::gelu_tanh;
  if (name == "relu") return Activation::relu;
  if (name == "tanh") return Activation::tanh;
  if (name == "silu") return Activation::silu;
  throw std::invalid_argument("activation '" + name + "' is unknown");
}

void bind_vector(nb::module_& m) {
  m.def("quantize_tokens", [](const std::string& isa, Mat<float> x) {
    const Vector& vector = vector_for(isa_by_name(isa));
    const std::size_t tokens = x.shape(0), n = x.shape(1);
    auto codes = make_result<std::uint8_t>(tokens, n);
    auto scale = make_result<float>(tokens, 1);
    auto zero = make_result<std::int32_t>(tokens, 1);
    for (std::size_t t = 0; t < tokens; ++t)
      vector.quantize(x.data() + t * n, static_cast<int>(n), codes.data() + t * n, scale.data() + t, zero.data() + t);
    return nb::make_tuple(codes, scale, zero);
  });
  m.def("to_bf16", [](const std::string& isa, Mat<float> x) {
    auto out = make_result<std::uint16_t>(x.shape(0), x.shape(1));
    vector_for(isa_by_name(isa)).to_bf16(x.data(), static_cast<int>(x.size()), out.data());
    return out;
  });
  m.def("activate", [](const std::string& isa, const std::string& activation, Mat<float> x) {
    auto out = make_result<float>(x.shape(0), x.shape(1));
    std::copy_n(x.data(), x.size(), out.data());
    vector_for(isa_by_name(isa)).activate(activation_by_name(activation), out.data(), static_cast<int>(x.size()));
    return out;
  });
  m.def("layer_norm", [](const std::string& isa, Mat<float> x, Mat<float> residual, Vec<float> gain, Vec<float> bias,
                         float epsilon) {
    const std::size_t n = x.shape(1);
    if (residual.shape(0) != x.shape(0) || residual.shape(1) != n || gain.shape(0) != n || bias.shape(0) != n)
      throw std::invalid_argument("shapes do not fit");
    auto out = make_result<float>(x.shape(0), n);
    for (std::size_t t = 0; t < x.shape(0); ++t)
      vector_for(isa_by_name(isa)).layer_norm(x.data() + t * n, residual.data() + t * n, static_cast<int>(n),
                                              gain.data(), bias.data(), epsilon, out.data() + t * n);
    return out;
  });
  m.def("attend", [](const std::string& isa, bool half, Mat<float> q, Mat<float> k, Mat<float> v, int begin, int end) {
    const Attention& attention = attention_for(isa_by_name(isa), half);
    const int tokens = static_cast<int>(q.shape(0)), width = static_cast<int>(q.shape(1));
    if (k.shape(0) != q.shape(0) || v.shape(0) != q.shape(0) || k.shape(1) != q.shape(1) || v.shape(1) != q.shape(1) ||
        begin < 0 || begin > end || end > tokens || begin % 16 || width > 512)
      throw std::invalid_argument("shapes do not fit");
    auto out = make_result<float>(tokens, width);
    std::fill_n(out.data(), out.size(), 0.0f);
    Buffer scratch(attention.scratch(tokens, width));
    attention.attend(q.data(), k.data(), v.data(), width, tokens, width, 1.0f / std::sqrt(static_cast<float>(width)),
                     begin, end, out.data(), width, scratch.as<void>());
    return out;
  });
}

Norm norm_of(const std::optional<Vec<float>>& gain, const std::optional<Vec<float>>& bias, int width) {
  if (!gain) return {};
  return {floats(gain, width, "gain of a LayerNorm"), floats(bias, width, "bias of a LayerNorm")};
}

void expect_shape(const Linear& linear, int rows, int columns) {
  const auto info = linear.info();
  if (info.rows != rows || info.columns != columns) throw std::invalid_argument("a matrix of the wrong shape");
}

/// Owns nothing that it is given: keep_alive ties the arrays and matrices to the encoder, and noconvert() sees
/// to it that it reads them and not a converted copy.
void bind_encoder(nb::module_& m) {
  nb::class_<Encoder>(m, "Encoder")
      .def(
          "__init__",
          [](Encoder* self, int hidden, int embedding, int heads, int intermediate, float epsilon,
             const std::string& activation, int first_position, bool half, int threads,
             const std::string& isa) {
            // Three times the width, or tokens times heads, stay within an int.
            constexpr int kWidest = 1 << 20, kMostHeads = 1 << 12, kMostThreads = 1 << 10;
            if (hidden < 1 || embedding < 1 || heads < 1 || hidden % heads || intermediate < 1 || first_position < 0)
              throw std::invalid_argument("an encoder of this shape cannot be");
            if (std::max({hidden, embedding, intermediate}) > kWidest || heads > kMostHeads || hidden / heads > 512)
              throw std::invalid_argument("the engine takes widths up to " + std::to_string(kWidest) + ", " +
                                          std::to_string(kMostHeads) + " heads, and heads 512 wide");
            if (threads < 1 || threads > kMostThreads)
              throw std::invalid_argument("from 1 to " + std::to_string(kMostThreads) + " threads can share the work");
            Shape shape{hidden, embedding, heads, intermediate, epsilon, activation_by_name(activation),
                        first_position, half};
            new (self) Encoder(shape, threads, isa_by_name(isa));
          },
          nb::kw_only(), "hidden"_a, "embedding"_a, "heads"_a, "intermediate"_a, "epsilon"_a, "activation"_a,
          "first_position"_a, "half"_a, "threads"_a, "isa"_a)
      .def(
          "set_table",
          [](Encoder& self, const std::string& name,
             nb::ndarray<nb::ro, nb::ndim<2>, nb::c_contig, nb::device::cpu> array,
             std::optional<Vec<float>> scale) {
            if (array.shape(1) != static_cast<std::size_t>(self.shape.embedding) || array.shape(0) > kLargest)
              throw std::invalid_argument(name + ": wrong width, or too many rows");
            Table table;
            table.rows = static_cast<int>(array.shape(0));
            if (array.dtype() == nb::dtype<float>()) {
              table.floats = static_cast<const float*>(array.data());
            } else if (array.dtype() == nb::dtype<std::uint16_t>()) {
              table.halves = static_cast<const std::uint16_t*>(array.data());
            } else if (array.dtype() == nb::dtype<std::int8_t>() && scale) {
              table.codes = static_cast<const std::int8_t*>(array.data());
              table.scale = floats(scale, table.rows, "scale");
            } else {
              throw std::invalid_argument(name + ": embeddings of a type that cannot be read");
            }
            (name == "words" ? self.words : name == "positions" ? self.positions : self.types) = table;
          },
          "name"_a, "array"_a.noconvert(), "scale"_a.noconvert().none(), nb::keep_alive<1, 3>(), nb::keep_alive<1, 4>())
      .def(
          "set_embedding_norm",
          [](Encoder& self, Vec<float> gain, Vec<float> bias) {
            self.embedding_norm = norm_of(gain, bias, self.shape.embedding);
          },
          "gain"_a.noconvert(), "bias"_a.noconvert(), nb::keep_alive<1, 2>(), nb::keep_alive<1, 3>())
      .def(
          "set_projection",
          [](Encoder& self, const Linear& linear) {
            expect_shape(linear, self.shape.hidden, self.shape.embedding);
            self.projection = &linear;
          },
          "linear"_a, nb::keep_alive<1, 2>())
      .def(
          "add_layer",
          [](Encoder& self, const Linear& qkv, const Linear& output, Vec<float> gain, Vec<float> bias,
             const Linear& ffn_in, const Linear& ffn_out, Vec<float> gain2, Vec<float> bias2) {
            const int hidden = self.shape.hidden, inner = self.shape.intermediate;
            expect_shape(qkv, 3 * hidden, hidden);
            expect_shape(output, hidden, hidden);
            expect_shape(ffn_in, inner, hidden);
            expect_shape(ffn_out, hidden, inner);
            self.layers.push_back({&qkv, &output, norm_of(gain, bias, hidden), &ffn_in, &ffn_out,
                                   norm_of(gain2, bias2, hidden)});
          },
          "qkv"_a, "attention_output"_a, "attention_gain"_a.noconvert(), "attention_bias"_a.noconvert(), "ffn_in"_a,
          "ffn_out"_a, "output_gain"_a.noconvert(), "output_bias"_a.noconvert(), nb::keep_alive<1, 2>(),
          nb::keep_alive<1, 3>(), nb::keep_alive<1, 4>(), nb::keep_alive<1, 5>(), nb::keep_alive<1, 6>(), nb::keep_alive<1, 7>(), nb::keep_alive<1, 8>(), nb::keep_alive<1, 9>())
      .def(
          "add_head",
          [](Encoder& self, const Linear& linear, const std::string& activation, std::optional<Vec<float>> gain,
             std::optional<Vec<float>> bias) {
            const auto info = linear.info();
            if (info.columns != self.width()) throw std::invalid_argument("a matrix of the head has the wrong shape");
            self.head.push_back(
                {&linear, info.rows, activation_by_name(activation), norm_of(gain, bias, info.rows)});
          },
          "linear"_a, "activation"_a, "gain"_a.noconvert().none(), "bias"_a.noconvert().none(), nb::keep_alive<1, 2>(), nb::keep_alive<1, 4>(),
          nb::keep_alive<1, 5>())
      .def_prop_ro("width", &Encoder::width)
      .def_prop_ro("hidden", [](const Encoder& self) { return self.shape.hidden; })
      .def(
          "run",
          [](Encoder& self, Vec<std::int32_t> ids, Vec<std::int32_t> types, Vec<std::int32_t> lengths,
             Vec<std::int32_t> rows, bool with_head) {
            if (types.shape(0) != ids.shape(0)) throw std::invalid_argument("ids and types differ in length");
            auto out = make_result<float>(rows.shape(0), with_head ? self.width() : self.shape.hidden);
            nb::gil_scoped_release release;
            self.run(ids.data(), types.data(), ids.shape(0), lengths.data(), lengths.shape(0), rows.data(),
                     rows.shape(0), with_head, out.data());
            return out;
          },
          "ids"_a, "types"_a, "lengths"_a, "rows"_a, "with_head"_a = true);
}

}  // namespace

NB_MODULE(_native, m) {
  m.def("isas", [] {
    std::vector<std::string> names;
    for (Isa isa : usable_isas()) names.push_back(name_of(isa));
    return names;
  });
  m.def("kernels", [] {
    nb::list out;
    list_kernels<Int8Kernel>(out, "int8");
    list_kernels<Bf16Kernel>(out, "bf16");
    list_kernels<Fp32Kernel>(out, "fp32");
    return out;
  });
  m.def("trim", [] {
#if defined(__GLIBC__)
    malloc_trim(0);
#endif
  }, "Gives memory that was freed back to the operating system.");
  nb::class_<Tuner>(m, "Tuner").def("__init__", [](Tuner* self, const std::string& isa) {
    new (self) Tuner(isa_by_name(isa));
  });
  nb::class_<Linear>(m, "Linear").def("info", [](const Linear& self) {
    const LinearInfo info = self.info();
    nb::dict out;
    out["arithmetic"] = info.arithmetic;
    out["shape"] = nb::make_tuple(info.rows, info.columns);
    out["density"] = info.density;
    out["kernels"] = nb::make_tuple(info.kernels[0], info.kernels[1], info.kernels[2]);
    out["bytes"] = info.bytes;
    return out;
  });
  bind_linear<std::int8_t>(m);
  bind_linear<std::uint16_t>(m);
  bind_linear<float>(m);
  bind_multiply<std::uint8_t, std::int8_t, std::int32_t>(m);
  bind_multiply<std::uint16_t, std::uint16_t, float>(m);
  bind_multiply<float, float, float>(m);
  bind_vector(m);
  bind_encoder(m);
}

}  // namespace prunella
