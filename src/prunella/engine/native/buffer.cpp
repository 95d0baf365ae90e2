#include "buffer.h"

#include <cstdlib>
#include <cstring>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace prunella {
namespace {

// Weights and activations are read from end to end again and again: with small pages, address translation costs as
// much as the reading on virtual machines.
constexpr std::size_t kHugePage = 2 << 20;

}  // namespace

Buffer::Buffer(std::size_t bytes) : bytes_(bytes) {
  const std::size_t alignment = bytes >= kHugePage / 2 ? kHugePage : 64;
  const std::size_t padded = (bytes + 64 + alignment - 1) / alignment * alignment;
  data_ = std::aligned_alloc(alignment, padded);
  if (!data_) throw std::bad_alloc();
#if defined(__linux__)
  if (alignment == kHugePage) madvise(data_, padded, MADV_HUGEPAGE);
#endif
  std::memset(data_, 0, padded);
}

Buffer::~Buffer() { std::free(data_); }

}  // namespace prunella
