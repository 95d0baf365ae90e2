// Which instruction sets the processor has and the operating system supports.
#pragma once
#include <string>
#include <vector>

namespace prunella {

/// Instruction sets that kernels are written for; each includes those before it.
enum class Isa { portable, avx2, avx512, amx };

const char* name_of(Isa isa);

/// What runs here, worst first; `portable` is always there.
const std::vector<Isa>& usable_isas();

/// The instruction set of this name. Throws std::invalid_argument if it is unknown or unusable here.
Isa isa_by_name(const std::string& name);

/// The best usable one.
Isa best_isa();


}  // namespace prunella
