// Any bytes as a safetensors file: an error, or a header whose every range may be read.
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "weights/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto* bytes = reinterpret_cast<const std::byte*>(data);
  const weir::Result<weir::SafetensorsHeader> header =
      weir::parse_safetensors_header({bytes, size}, static_cast<int64_t>(size));
  if (!header.ok()) return 0;
  int64_t total = 0;
  for (const weir::TensorHeader& tensor : header->tensors) {
    const int64_t begin = header->data_begin + tensor.begin;
    const int64_t end = header->data_begin + tensor.end;
    if (begin < 0 || end < begin || end > static_cast<int64_t>(size)) std::abort();
    if (tensor.shape.elements() * weir::dtype_bytes(tensor.dtype) != end - begin) std::abort();
    total += end - begin;
  }
  if (header->data_begin + total != static_cast<int64_t>(size)) std::abort();
  return 0;
}
