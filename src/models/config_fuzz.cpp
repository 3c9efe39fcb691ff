// Any bytes as a config.json: an error, or a config whose sizes multiply without overflow.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "models/binding.h"
#include "models/config.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const weir::Result<weir::ModelConfig> config = weir::parse_model_config({reinterpret_cast<const char*>(data), size});
  if (!config.ok()) {
    if (config.error().message.empty()) std::abort();
    return 0;
  }
  // Per-expert tables of the largest accepted config are slow to build over and over; the fused table has every shape.
  for (const weir::Binding& binding : weir::make_bindings(*config, {true, true, true})) {
    int64_t bytes = 4;
    for (int axis = 0; axis < binding.shape.rank(); ++axis) {
      if (binding.shape[axis] <= 0 || __builtin_mul_overflow(bytes, binding.shape[axis], &bytes)) std::abort();
    }
  }
  return 0;
}
