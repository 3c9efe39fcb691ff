#include "ops/attention/attention_fp8_pages.h"

#include <algorithm>
#include <bit>

#include "tensor/fp8_row.h"

namespace weir {
namespace {

constexpr float kLeftOut = 256.0F;  // by the decoder

template <class Byte>
void write_row(const float* row, int64_t count, std::byte* page, float* step, const Byte& byte) {
  uint32_t largest = 0;
  for (int64_t i = 0; i < count; ++i) largest = std::max(largest, std::bit_cast<uint32_t>(row[i]) & 0x7fffffffU);
  const uint8_t scale = fp8_row_scale(largest);
  for (int64_t i = 0; i < count; ++i) {
    page[byte(i)] = static_cast<std::byte>(scale == kFp8RowNan ? 0 : fp8_row_code(row[i], scale));
  }
  *step = fp8_row_step(scale) * kLeftOut;
}

}  // namespace

void write_fp8_token(const Fp8PageLayout& layout, const float* keys, const float* values, int64_t head_dim,
                     int64_t token, std::byte* page) {
  auto* steps = reinterpret_cast<float*>(page + layout.steps());
  write_row(keys, head_dim, page, steps + token, [&](int64_t i) { return layout.key_byte(i, token); });
  write_row(values, head_dim, page, steps + 64 + token, [&](int64_t i) { return layout.value_byte(token, i); });
  // What fills the last group up.
  for (int64_t i = head_dim; i < layout.key_rows; ++i) page[layout.key_byte(i, token)] = std::byte{0};
  for (int64_t i = head_dim; i < layout.value_stride; ++i) page[layout.value_byte(token, i)] = std::byte{0};
}

}  // namespace weir
