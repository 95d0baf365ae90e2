#include <algorithm>
#include <numeric>
#include <type_traits>
#include <vector>

#include "avx512.h"

namespace prunella {
namespace {

constexpr int kGroup = 16, kWindow = kLookupWindow;

/// How many non-zeros of a row a step takes, and how many columns a chunk has.
template <class Weight, int kRegisters>
struct Sizes {
  static constexpr int kSlots = 4 / sizeof(Weight);
  static constexpr int kColumns = kRegisters * 64 / static_cast<int>(sizeof(Weight));
};

/// Steps that each row of a window takes in each chunk alone: [row][chunk].
class Steps {
 public:
  template <class S, class Weight>
  Steps(S, const Matrix<Weight>& matrix, int first, int chunks)
      : chunks_(chunks), steps_(static_cast<std::size_t>(kWindow) * chunks), totals_(kWindow) {
    for (int r = 0; r < kWindow && first + r < matrix.rows; ++r) {
      std::uint8_t* of_row = steps_.data() + static_cast<std::size_t>(r) * chunks;
      for (std::int32_t i = matrix.starts[first + r]; i < matrix.starts[first + r + 1]; ++i)
        ++of_row[matrix.indices[i] / S::kColumns];
      for (int c = 0; c < chunks; ++c) of_row[c] = static_cast<std::uint8_t>((of_row[c] + S::kSlots - 1) / S::kSlots);
      totals_[r] = std::accumulate(of_row, of_row + chunks, 0);
    }
  }
  const std::uint8_t* operator[](int row) const { return steps_.data() + static_cast<std::size_t>(row) * chunks_; }
  int total(int row) const { return totals_[row]; }

 private:
  int chunks_;
  std::vector<std::uint8_t> steps_;
  std::vector<int> totals_;
};

int cost_with(const std::vector<std::uint8_t>& most, const std::uint8_t* row) {
  int cost = 0;
  for (std::size_t c = 0; c < most.size(); ++c) cost += std::max(most[c], row[c]);
  return cost;
}

/// Rows of a window in an order whose groups of 16 waste little: each begins with the longest row that is left, and
/// takes those that lengthen it least, long ones first.
std::vector<int> order_rows(const Steps& steps, int chunks) {
  std::vector<int> left(kWindow), order;
  std::iota(left.begin(), left.end(), 0);
  std::stable_sort(left.begin(), left.end(), [&](int a, int b) { return steps.total(a) > steps.total(b); });
  std::vector<std::uint8_t> most(chunks);
  while (!left.empty()) {
    std::size_t best = 0;
    if (order.size() % kGroup == 0) {
      std::fill(most.begin(), most.end(), std::uint8_t{0});
    } else {
      int least = cost_with(most, steps[left[0]]);
      for (std::size_t i = 1; i < left.size(); ++i)
        if (const int cost = cost_with(most, steps[left[i]]); cost < least) least = cost, best = i;
    }
    for (int c = 0; c < chunks; ++c) most[c] = std::max(most[c], steps[left[best]][c]);
    order.push_back(left[best]);
    left.erase(left.begin() + static_cast<std::ptrdiff_t>(best));
  }
  return order;
}

void write_order(const std::vector<int>& order, LookupOrder* out) {
  for (int place = 0; place < kWindow; ++place) {
    LookupOrder& of = out[order[place] / 16];
    of.place[order[place] % 16] = place % 32;
    if (place >= 32) of.second |= static_cast<std::uint16_t>(1u << order[place] % 16);
  }
}

}  // namespace

template <class Weight, int kRegisters>
void prepare_lookup(const Matrix<Weight>& matrix, Layout& layout) {
  using S = Sizes<Weight, kRegisters>;
  using Index = std::conditional_t<sizeof(Weight) == 1, std::uint8_t,
                                   std::conditional_t<sizeof(Weight) == 2, std::uint16_t, std::uint32_t>>;
  constexpr int kStep = 64 / sizeof(Weight);  // elements; a step's indices, then its weights
  layout.rows = matrix.rows;
  layout.columns = matrix.columns;
  const int windows = (matrix.rows + kWindow - 1) / kWindow, groups = windows * (kWindow / kGroup);
  const int chunks = (matrix.columns + S::kColumns - 1) / S::kColumns;
  layout.parts[1] = Buffer(sizeof(std::uint16_t) * groups * chunks);
  layout.parts[2] = Buffer(sizeof(std::uint32_t) * (groups + 1));
  layout.parts[3] = Buffer(sizeof(LookupOrder) * groups);
  auto* counts = layout.parts[1].as<std::uint16_t>();
  auto* begins = layout.parts[2].as<std::uint32_t>();
  std::vector<int> rows;  // by place
  for (int w = 0; w < windows; ++w) {
    const Steps steps(S{}, matrix, w * kWindow, chunks);
    const std::vector<int> order = order_rows(steps, chunks);
    write_order(order, layout.parts[3].as<LookupOrder>() + static_cast<std::size_t>(w) * (kWindow / 16));
    for (int place = 0; place < kWindow; ++place) {
      rows.push_back(w * kWindow + order[place]);
      std::uint16_t* of_group = counts + static_cast<std::size_t>((w * kWindow + place) / kGroup) * chunks;
      for (int c = 0; c < chunks; ++c) of_group[c] = std::max<std::uint16_t>(of_group[c], steps[order[place]][c]);
    }
  }
  for (int g = 0; g < groups; ++g) {
    const std::uint16_t* of_group = counts + static_cast<std::size_t>(g) * chunks;
    begins[g + 1] = begins[g] + std::accumulate(of_group, of_group + chunks, 0u);
  }
  layout.parts[0] = Buffer(std::size_t{128} * begins[groups]);
  for (int place = 0; place < groups * kGroup; ++place) {
    const int r = rows[place], g = place / kGroup;
    if (r >= matrix.rows) continue;
    const std::size_t begin = std::size_t{2} * kStep * begins[g] + S::kSlots * (place % kGroup);
    Index* index = layout.parts[0].as<Index>() + begin;
    Weight* weight = layout.parts[0].as<Weight>() + begin + kStep;
    std::int32_t i = matrix.starts[r];
    for (int c = 0; c < chunks; ++c) {
      for (int n = 0; i < matrix.starts[r + 1] && matrix.indices[i] < (c + 1) * S::kColumns; ++i, ++n) {
        const int at = 2 * kStep * (n / S::kSlots) + n % S::kSlots;
        index[at] = static_cast<Index>(matrix.indices[i] % S::kColumns);
        weight[at] = matrix.values[i];
      }
      const std::size_t steps = counts[static_cast<std::size_t>(g) * chunks + c];
      index += 2 * kStep * steps;
      weight += 2 * kStep * steps;
    }
  }
}

template void prepare_lookup<std::int8_t, 1>(const Matrix<std::int8_t>&, Layout&);
template void prepare_lookup<std::int8_t, 2>(const Matrix<std::int8_t>&, Layout&);
template void prepare_lookup<std::uint16_t, 2>(const Matrix<std::uint16_t>&, Layout&);
template void prepare_lookup<float, 2>(const Matrix<float>&, Layout&);

}  // namespace prunella
