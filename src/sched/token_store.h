// The token ids of all sequences, in blocks of one reservation: what a preempted sequence is recomputed from.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "plan/ids.h"

namespace weir {

// One sequence's tokens: a chain of blocks, with a cursor for reading forward.
struct TokenList {
  int32_t head = -1;
  int32_t tail = -1;
  int64_t count = 0;
  int32_t cursor = -1;          // block that holds cursor_position
  int64_t cursor_position = 0;  // multiple of TokenStore::kBlockTokens
};

// Memory is reserved for the named maxima and touched when first used; a freed block is the next one used, so resident
// memory follows the largest number of tokens that were ever live at once.
class TokenStore {
 public:
  // 256 ids are 1 KiB: a short prompt wastes little, a long one chains a thousandth of its length.
  static constexpr int64_t kBlockTokens = 256;

  // Room for `lists` lists of together `tokens` tokens, however they are spread.
  TokenStore(int64_t tokens, int64_t lists);

  void append(TokenList* list, std::span<const TokenId> tokens);
  // Copies tokens [position, position + count) to the end of `out`. Cheap when positions go forward.
  void read(TokenList* list, int64_t position, int64_t count, std::vector<TokenId>* out) const;
  void clear(TokenList* list);
  int64_t blocks_used() const { return blocks_used_; }

 private:
  int32_t take_block();

  int32_t block_count_;
  std::unique_ptr<TokenId[]> tokens_;
  std::unique_ptr<int32_t[]> next_;
  int32_t fresh_ = 0;       // blocks from here on were never used
  int32_t free_head_ = -1;  // chain of freed blocks
  int64_t blocks_used_ = 0;
};

}  // namespace weir
