#include "server/sim/byte_tokenizer.h"

#include "text/detokenizer.h"

namespace weir::sim {

namespace {

bool valid_utf8(std::string_view text) {
  std::string out;
  Utf8Stream stream;
  stream.push(text, &out);
  stream.finish(&out);
  return out == text;
}

}  // namespace

ByteTokenizer::ByteTokenizer() {
  for (int byte = 0; byte < 256; ++byte) {
    texts_.emplace_back(1, static_cast<char>(byte));
  }
  for (const char* text : {"<|im_start|>", "<|im_end|>", "<|endoftext|>", " the", "the", "ing", "\n\n", "!!!"}) {
    texts_.emplace_back(text);
  }
}

Result<std::vector<TokenId>> ByteTokenizer::encode(std::string_view utf8, EncodeOptions options) const {
  if (!valid_utf8(utf8)) {
    return make_error(ErrorCode::kInvalidArgument, "the text is not valid UTF-8");
  }
  std::vector<TokenId> ids;
  while (!utf8.empty()) {
    auto id = static_cast<TokenId>(static_cast<unsigned char>(utf8.front()));
    for (TokenId longer = kTurnStart; longer < size(); ++longer) {
      if ((options.parse_special || !is_special(longer)) && utf8.starts_with(bytes(longer))) {
        id = longer;
        break;
      }
    }
    ids.push_back(id);
    utf8.remove_prefix(bytes(id).size());
  }
  return ids;
}

std::string_view ByteTokenizer::bytes(TokenId id) const {
  return contains(id) ? std::string_view(texts_[static_cast<size_t>(id)]) : std::string_view();
}

std::string ByteTokenizer::decode(std::span<const TokenId> ids, bool skip_special) const {
  std::string out;
  Utf8Stream stream;
  for (TokenId id : ids) {
    if (!skip_special || !is_special(id)) {
      stream.push(bytes(id), &out);
    }
  }
  stream.finish(&out);
  return out;
}

std::optional<TokenId> ByteTokenizer::find(std::string_view token_text) const {
  for (TokenId id = size() - 1; id >= 0; --id) {
    if (bytes(id) == token_text) {
      return id;
    }
  }
  return std::nullopt;
}

}  // namespace weir::sim
