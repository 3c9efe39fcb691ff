// Which instruction set the kernels use. Every variant gives the same bits.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

namespace weir {

enum class Isa : uint8_t {
  kScalar,  // portable C++
  kAvx2,    // AVX2, FMA, F16C
  kAvx512,  // AVX-512 F, BW, DQ, VL and VBMI (Ice Lake, Zen 4 and later)
};

std::string_view isa_name(Isa isa);
// "scalar", "avx2", "avx512"; anything else is none.
std::optional<Isa> isa_from_name(std::string_view name);
bool isa_supported(Isa isa);
// The widest that this machine runs.
Isa best_isa();
// All that this machine runs, narrowest first.
std::vector<Isa> supported_isas();

}  // namespace weir
