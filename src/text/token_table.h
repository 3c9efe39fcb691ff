// Hash tables of the byte-pair model: raw bytes to token, pair of tokens to merge. Private to text/.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

namespace weir {

struct Vocabulary;
struct MergeRule;

inline uint64_t mix_bits(uint64_t value) {
  // Multiply and fold: two rounds spread every input bit over the index bits.
  value ^= value >> 32;
  value *= 0x9E3779B97F4A7C15u;  // 2^64 / golden ratio
  value ^= value >> 29;
  value *= 0xBF58476D1CE4E5B9u;
  return value ^ (value >> 32);
}

// Finds the mergeable token with given bytes. Borrows the vocabulary, which must stay where it is.
class TokenTable {
 public:
  explicit TokenTable(const Vocabulary* vocabulary);

  // The token's id, or -1.
  int32_t find(std::string_view bytes) const;

 private:
  const Vocabulary* vocabulary_;
  std::vector<int32_t> slots_;  // open addressing, at most half full; -1 is free
  uint64_t mask_ = 0;
};

// Finds the merge of two neighbouring tokens.
class MergeTable {
 public:
  struct Entry {
    int32_t rank;  // lower merges first; -1: the pair does not merge
    int32_t merged;
  };

  // A pair that occurs twice keeps its last rank, as in the reference.
  explicit MergeTable(const std::vector<MergeRule>& merges);

  Entry find(int32_t left, int32_t right) const {
    const uint64_t key = key_of(left, right);
    for (uint64_t slot = mix_bits(key) & mask_;; slot = (slot + 1) & mask_) {
      if (slots_[slot].key == key) return slots_[slot].entry;
      if (slots_[slot].key == kFree) return {-1, -1};
    }
  }

 private:
  static constexpr uint64_t kFree = ~uint64_t{0};  // ids are below 2^20
  struct Slot {
    uint64_t key;
    Entry entry;
  };

  static uint64_t key_of(int32_t left, int32_t right) {
    return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
  }

  std::vector<Slot> slots_;
  uint64_t mask_ = 0;
};

}  // namespace weir
