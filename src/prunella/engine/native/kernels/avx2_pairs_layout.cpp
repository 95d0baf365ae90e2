#include "avx2.h"
#include "row_order.h"

namespace prunella {
namespace {

constexpr int kFeatureBytes = 32;
constexpr int kMost = 256;    // of a group's magnitudes: times -128 they stay within 16 bits
constexpr int kSampled = 64;  // rows by which the size of groups is chosen

struct Entry {
  std::uint8_t magnitude;
  std::uint16_t offset;
};

/// Up to four non-zeros of one sign.
struct Group {
  Entry entries[4];
  int sign;
};

/// Groups from entries sorted by magnitude: the largest that is left and others that fit, large ones first as long as
/// the smallest could fill the rest.
int make_groups(const Entry* low, const Entry* high, int size, int sign, Group* out) {
  int count = 0;
  while (low < high) {
    Group& group = out[count++];
    group = {{*--high}, sign};
    int sum = high->magnitude;
    for (int n = 1; n < size && low < high; ++n) {
      const int rest = (size - 1 - n) * low->magnitude;
      if (sum + high[-1].magnitude + rest <= kMost)
        group.entries[n] = *--high;
      else if (sum + low->magnitude <= kMost)
        group.entries[n] = *low++;
      else
        break;
      sum += group.entries[n].magnitude;
    }
  }
  return count;
}

/// Groups of up to `size` from a row's non-zeros [begin, end), an even number of them. Returns half that number.
std::uint32_t group_row(const Matrix<std::int8_t>& matrix, std::int32_t begin, std::int32_t end, int first_column,
                        int size, std::vector<Group>& groups) {
  // Sorted by value, but the negative ones backwards: both parts ascend in magnitude.
  std::array<Entry, kAvx2PairsBlock> sorted;
  std::array<std::uint16_t, 257> places{};
  for (std::int32_t i = begin; i < end; ++i) ++places[matrix.values[i] + 129];
  for (int value = 1; value < 257; ++value) places[value] += places[value - 1];
  const int negative = places[128];
  for (std::int32_t i = begin; i < end; ++i) {
    const int value = matrix.values[i], place = places[value + 128]++;
    sorted[value < 0 ? negative - 1 - place : place] = {
        static_cast<std::uint8_t>(value < 0 ? -value : value),
        static_cast<std::uint16_t>((matrix.indices[i] - first_column) * kFeatureBytes)};
  }
  groups.resize(end - begin + 1);
  int count = make_groups(sorted.data(), sorted.data() + negative, size, -1, groups.data());
  count += make_groups(sorted.data() + negative, sorted.data() + (end - begin), size, 1, groups.data() + count);
  if (count % 2) groups[count++] = {{}, 1};
  groups.resize(count);
  return count / 2;
}

template <int kPairs>
Avx2Groups<kPairs> joined(const Group& first, const Group& second) {
  const Group* both[2] = {&first, &second};
  Avx2Groups<kPairs> out;
  std::uint32_t pairs[2 * kPairs];
  for (int g = 0; g < 2; ++g)
    for (int p = 0; p < kPairs; ++p) {
      const Entry* pair = both[g]->entries + 2 * p;
      const int at = kPairs * g + p;
      out.offsets[2 * at] = pair[0].offset;
      out.offsets[2 * at + 1] = pair[1].offset;
      pairs[at] = pair[0].magnitude | pair[1].magnitude << 8;
    }
  out.offsets[0] |= (first.sign < 0 ? 8 : 0) | (second.sign < 0 ? 16 : 0);
  if constexpr (kPairs == 1)
    out.weights[0] = pairs[0] | pairs[1] << 16;
  else
    for (int p = 0; p < 4; ++p) out.weights[p] = pairs[p] * 0x10001u;
  return out;
}

template <int kPairs>
Buffer make_entries(const Matrix<std::int8_t>& matrix, ColumnBlocks blocks, Layout& layout) {
  std::array<std::vector<Group>, kRowWindow> groups;
  std::vector<Avx2Groups<kPairs>> entries;
  entries.reserve(matrix.starts[matrix.rows] / (3 * kPairs));
  const auto count = [&](int slot, int block, std::int32_t begin, std::int32_t end) {
    return group_row(matrix, begin, end, block * blocks.width, 2 * kPairs, groups[slot]);
  };
  const auto append = [&](int slot, int, std::int32_t, std::int32_t) {
    for (std::size_t i = 0; i < groups[slot].size(); i += 2)
      entries.push_back(joined<kPairs>(groups[slot][i], groups[slot][i + 1]));
  };
  order_rows(matrix, blocks, layout, count, append);
  Buffer out(entries.size() * sizeof(entries[0]));
  std::copy(entries.begin(), entries.end(), out.as<Avx2Groups<kPairs>>());
  return out;
}

/// Whether groups of four save work: 32 instructions for two of them, against 20 for two of two. Large weights do not
/// fit together, so that many groups would stay half empty.
bool fours_pay(const Matrix<std::int8_t>& matrix) {
  std::vector<Group> groups;
  std::size_t fours = 0, twos = 0;
  const int step = matrix.rows / kSampled + 1;
  for (int r = 0; r < matrix.rows; r += step) {
    // Within one block's width; which columns they are does not matter.
    const std::int32_t begin = matrix.starts[r], end = std::min(matrix.starts[r + 1], begin + kAvx2PairsBlock);
    fours += group_row(matrix, begin, end, 0, 4, groups);
    twos += group_row(matrix, begin, end, 0, 2, groups);
  }
  return 32 * fours <= 20 * twos;
}

}  // namespace

void prepare_avx2_pairs(const Matrix<std::int8_t>& matrix, Layout& layout) {
  const ColumnBlocks blocks = avx2_blocks(matrix.columns, kAvx2PairsBlock);
  if (fours_pay(matrix))
    layout.parts[2] = make_entries<2>(matrix, blocks, layout);
  else
    layout.parts[4] = make_entries<1>(matrix, blocks, layout);
  layout.parts[3] = Buffer(matrix.rows * sizeof(std::int32_t));
  for (int r = 0; r < matrix.rows; ++r) {
    std::int32_t sum = 0;
    for (std::int32_t i = matrix.starts[r]; i < matrix.starts[r + 1]; ++i) sum += matrix.values[i];
    layout.parts[3].as<std::int32_t>()[r] = 128 * sum;
  }
}

}  // namespace prunella
