#include "sched/token_store.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"

namespace weir {

TokenStore::TokenStore(int64_t tokens, int64_t lists)
    : block_count_(static_cast<int32_t>(tokens / kBlockTokens + lists)),
      tokens_(new TokenId[static_cast<size_t>(block_count_) * kBlockTokens]),
      next_(new int32_t[static_cast<size_t>(block_count_)]) {}

int32_t TokenStore::take_block() {
  ++blocks_used_;
  if (free_head_ >= 0) {
    const int32_t block = free_head_;
    free_head_ = next_[static_cast<size_t>(block)];
    return block;
  }
  WEIR_CHECK(fresh_ < block_count_, "all {} token blocks are in use", block_count_);
  return fresh_++;
}

void TokenStore::append(TokenList* list, std::span<const TokenId> tokens) {
  while (!tokens.empty()) {
    const int64_t offset = list->count % kBlockTokens;
    if (offset == 0) {
      const int32_t block = take_block();
      next_[static_cast<size_t>(block)] = -1;
      if (list->tail >= 0) next_[static_cast<size_t>(list->tail)] = block;
      if (list->head < 0) list->head = block;
      list->tail = block;
    }
    const size_t count = std::min(tokens.size(), static_cast<size_t>(kBlockTokens - offset));
    std::memcpy(&tokens_[static_cast<size_t>(list->tail) * kBlockTokens + static_cast<size_t>(offset)], tokens.data(),
                count * sizeof(TokenId));
    list->count += static_cast<int64_t>(count);
    tokens = tokens.subspan(count);
  }
}

void TokenStore::read(TokenList* list, int64_t position, int64_t count, std::vector<TokenId>* out) const {
  WEIR_CHECK(position >= 0 && count >= 0 && position + count <= list->count, "tokens [{}, +{}) of {}", position, count,
             list->count);
  if (list->cursor < 0 || position < list->cursor_position) {
    list->cursor = list->head;
    list->cursor_position = 0;
  }
  while (count > 0) {
    while (list->cursor_position + kBlockTokens <= position) {
      list->cursor = next_[static_cast<size_t>(list->cursor)];
      list->cursor_position += kBlockTokens;
    }
    const int64_t offset = position - list->cursor_position;
    const int64_t part = std::min(count, kBlockTokens - offset);
    const TokenId* from = &tokens_[static_cast<size_t>(list->cursor) * kBlockTokens + static_cast<size_t>(offset)];
    out->insert(out->end(), from, from + part);
    position += part;
    count -= part;
  }
}

void TokenStore::clear(TokenList* list) {
  for (int32_t block = list->head; block >= 0;) {
    const int32_t next = next_[static_cast<size_t>(block)];
    next_[static_cast<size_t>(block)] = free_head_;
    free_head_ = block;
    --blocks_used_;
    block = next;
  }
  *list = TokenList();
}

}  // namespace weir
