// Pages of FP8 on the CPU. Per key head: the keys' codes in groups of 4 values of 16 tokens, the values' in groups of 4
// tokens of 16 values, each group the 64 bytes that the decoder of block FP8 weights takes (ops/cpu/vec.h); then the
// steps of the keys of 64 tokens and of their values, in float32 and with the factor 2^8 that this decoder leaves out.
#pragma once

#include <cstddef>
#include <cstdint>

namespace weir {

// Byte of a group at which number `lane` (of 16) of row `row` (of 4) stands.
constexpr int64_t fp8_group_byte(int64_t row, int64_t lane) {
  return lane / 4 * 16 + row * 4 + lane % 4;
}

struct Fp8PageLayout {
  int64_t key_rows = 0;      // E rounded up to 4
  int64_t value_stride = 0;  // E rounded up to 16

  constexpr int64_t values() const { return key_rows * 64; }
  constexpr int64_t steps() const { return (key_rows + value_stride) * 64; }
  constexpr int64_t bytes() const { return steps() + 2 * 64 * static_cast<int64_t>(sizeof(float)); }
  constexpr int64_t key_byte(int64_t value, int64_t token) const {
    return (value / 4 * 4 + token / 16) * 64 + fp8_group_byte(value % 4, token % 16);
  }
  constexpr int64_t value_byte(int64_t token, int64_t value) const {
    return values() + (token / 4 * (value_stride / 16) + value / 16) * 64 + fp8_group_byte(token % 4, value % 16);
  }
};

// Rounds one token's keys and values of a key head, E of each, into column `token` of that head's part of a page.
void write_fp8_token(const Fp8PageLayout& layout, const float* keys, const float* values, int64_t head_dim,
                     int64_t token, std::byte* page);

}  // namespace weir
