#include "cpu.h"

#include <stdexcept>

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace prunella {
namespace {

#if defined(__x86_64__)

// Extended states that the operating system saves (XCR0): SSE and AVX; opmask and ZMM; tiles.
constexpr unsigned long long kAvxState = 0x6, kZmmState = 0xe0, kTileState = 0x60000;

unsigned long long saved_states() {
  unsigned a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & (1u << 27))) return 0;  // OSXSAVE
  unsigned low, high;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (static_cast<unsigned long long>(high) << 32) | low;
}

bool saves(unsigned long long states) { return (saved_states() & states) == states; }

bool has_avx2() {
  return saves(kAvxState) && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
         __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("popcnt") && __builtin_cpu_supports("f16c");
}

// One level for all that the AVX-512 kernels use: Zen 4, Ice Lake with BF16 (Cooper Lake lacks VBMI) and newer.
bool has_avx512() {
  return has_avx2() && saves(kZmmState) && __builtin_cpu_supports("avx512f") &&
         __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni") &&
         __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vbmi2") &&
         __builtin_cpu_supports("avx512bf16");
}

// Linux hands out the tile registers on request, once for the process (arch_prctl(2)).
bool tiles_granted() {
#if defined(__linux__)
  constexpr int kRequest = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequest, kTileData) == 0;
#else
  return false;
#endif
}

bool has_amx() {
  unsigned a, b, c, d;
  if (!has_avx512() || !saves(kTileState) || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  constexpr unsigned kBf16 = 1u << 22, kTile = 1u << 24, kInt8 = 1u << 25;
  return (d & kBf16) && (d & kTile) && (d & kInt8) && tiles_granted();
}

#endif

std::vector<Isa> detect() {
  std::vector<Isa> found{Isa::portable};
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (has_avx2()) found.push_back(Isa::avx2);
  if (has_avx512()) found.push_back(Isa::avx512);
  if (has_amx()) found.push_back(Isa::amx);
#endif
  return found;
}

}  // namespace

const char* name_of(Isa isa) {
  constexpr const char* kNames[] = {"portable", "avx2", "avx512", "amx"};
  return kNames[static_cast<int>(isa)];
}

const std::vector<Isa>& usable_isas() {
  static const std::vector<Isa> found = detect();
  return found;
}

Isa isa_by_name(const std::string& name) {
  std::string usable;
  for (Isa isa : usable_isas()) {
    if (name == name_of(isa)) return isa;
    usable += std::string(usable.empty() ? "" : ", ") + name_of(isa);
  }
  throw std::invalid_argument("instruction set '" + name + "' is unknown or not usable on this machine; usable: " +
                              usable);
}

Isa best_isa() { return usable_isas().back(); }

}  // namespace prunella
