// A tokenizer small enough to read: one id per byte, three special tokens, a few longer tokens. For tests of the
// server.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "text/tokenizer.h"

namespace weir::sim {

inline constexpr TokenId kTurnStart = 256;  // <|im_start|>
inline constexpr TokenId kTurnEnd = 257;    // <|im_end|>
inline constexpr TokenId kTextEnd = 258;    // <|endoftext|>

// Every character outside ASCII is several tokens, so half code points are the rule; the longer tokens make stop
// strings begin and end inside tokens.
class ByteTokenizer final : public Tokenizer {
 public:
  ByteTokenizer();

  Result<std::vector<TokenId>> encode(std::string_view utf8, EncodeOptions options) const override;
  std::string_view bytes(TokenId id) const override;
  std::string decode(std::span<const TokenId> ids, bool skip_special) const override;
  int32_t size() const override { return static_cast<int32_t>(texts_.size()); }
  bool is_special(TokenId id) const override { return id >= kTurnStart && id <= kTextEnd; }
  std::vector<TokenId> added_ids() const override { return {kTurnStart, kTurnEnd, kTextEnd}; }
  bool contains(TokenId id) const override { return id >= 0 && id < size(); }
  std::optional<TokenId> find(std::string_view token_text) const override;

 private:
  std::vector<std::string> texts_;
};

}  // namespace weir::sim
