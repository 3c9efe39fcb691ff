#include "text/token_table.h"

#include <bit>
#include <cstring>

#include "text/tokenizer_spec.h"

namespace weir {
namespace {

uint64_t hash_bytes(std::string_view bytes) {
  uint64_t hash = bytes.size();
  const char* data = bytes.data();
  size_t left = bytes.size();
  for (; left >= 8; left -= 8, data += 8) {
    uint64_t word = 0;
    std::memcpy(&word, data, 8);
    hash = mix_bits(hash ^ word);
  }
  uint64_t word = 0;
  std::memcpy(&word, data, left);
  return mix_bits(hash ^ word);
}

// A power of two that is at most half full with `count` entries.
size_t slot_count(size_t count) {
  return std::bit_ceil(2 * count + 2);
}

}  // namespace

TokenTable::TokenTable(const Vocabulary* vocabulary)
    : vocabulary_(vocabulary),
      slots_(slot_count(static_cast<size_t>(vocabulary->size())), -1),
      mask_(slots_.size() - 1) {
  for (int32_t id = 0; id < vocabulary->size(); ++id) {
    if (!vocabulary->mergeable[static_cast<size_t>(id)]) continue;
    uint64_t slot = hash_bytes(vocabulary->bytes(id)) & mask_;
    while (slots_[slot] >= 0) slot = (slot + 1) & mask_;
    slots_[slot] = id;
  }
}

int32_t TokenTable::find(std::string_view bytes) const {
  for (uint64_t slot = hash_bytes(bytes) & mask_;; slot = (slot + 1) & mask_) {
    const int32_t id = slots_[slot];
    if (id < 0 || vocabulary_->bytes(id) == bytes) return id;
  }
}

MergeTable::MergeTable(const std::vector<MergeRule>& merges)
    : slots_(slot_count(merges.size()), Slot{kFree, {-1, -1}}), mask_(slots_.size() - 1) {
  for (const MergeRule& rule : merges) {
    const uint64_t key = key_of(rule.left, rule.right);
    uint64_t slot = mix_bits(key) & mask_;
    while (slots_[slot].key != kFree && slots_[slot].key != key) slot = (slot + 1) & mask_;
    slots_[slot] = {key, {rule.rank, rule.merged}};
  }
}

}  // namespace weir
