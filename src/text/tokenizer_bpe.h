// Byte-pair merging of one piece. Private to text/.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "text/token_table.h"
#include "text/tokenizer_spec.h"

namespace weir {

// Scratch for one thread's merging, reused from piece to piece.
struct BpeScratch {
  struct Symbol {
    int32_t id;
    int32_t previous;
    int32_t next;
  };
  std::vector<Symbol> symbols;
  std::vector<uint64_t> queue;
};

// Immutable but for remembering which tokens merge to themselves, which is a pure function of the token.
class BpeModel {
 public:
  // Borrows `vocabulary`. kUnsupported: unknown text is reachable although the file names an unknown token.
  static Result<std::unique_ptr<BpeModel>> make(const Vocabulary* vocabulary, const TokenizerSpec& spec);

  // Appends the ids of `piece` (not empty): lowest rank first, ties leftmost. kInvalidArgument: a byte that the
  // vocabulary lacks. O(n log n).
  Status encode(std::string_view piece, BpeScratch* scratch, std::vector<int32_t>* ids) const;

  int32_t find(std::string_view bytes) const { return tokens_.find(bytes); }

 private:
  enum class Whole : uint8_t { kUnknown, kYes, kNo };

  BpeModel(const Vocabulary* vocabulary, const TokenizerSpec& spec);
  Status merge(std::string_view piece, BpeScratch* scratch, std::vector<int32_t>* ids) const;
  void merge_short(size_t first, std::vector<int32_t>* ids) const;
  void merge_long(std::string_view piece, BpeScratch* scratch, std::vector<int32_t>* ids) const;

  TokenTable tokens_;
  MergeTable merges_;
  bool ignore_merges_;
  int32_t byte_ids_[256];  // -1: the vocabulary lacks it
  // By id: whether merging a token's bytes gives the token back. Most pieces of a text are such tokens, so this is the
  // piece cache: one byte for each id, filled as texts come, racing writers store the same value.
  std::unique_ptr<std::atomic<Whole>[]> whole_;
};

}  // namespace weir
