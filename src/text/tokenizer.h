// Byte-level BPE tokenizer executed from a model's own tokenizer.json: text to ids, ids to bytes.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace weir {

// The same type as plan/ids.h declares; text/ sees only base/.
using TokenId = int32_t;

// Limits on what a tokenizer.json and a text may be; over one is an error that names it.
struct TokenizerLimits {
  // The largest known file (GLM-5: 155k tokens, 322k merges as pairs) has 20 MB; three times that is room to grow.
  static constexpr int64_t kFileBytesMax = int64_t{64} << 20;
  // The largest known vocabularies have 262,144 ids; ids index tables, so a stray large one must not allocate
  // gigabytes.
  static constexpr int64_t kVocabularyMax = int64_t{1} << 20;
  // A merge makes one token, but several merges may make the same one (GLM: 2.1 for each token).
  static constexpr int64_t kMergesMax = int64_t{1} << 22;
  static constexpr int64_t kAddedTokensMax = 65'536;
  // Bounds the work of matching added tokens at one position of a text.
  static constexpr int64_t kAddedTokenBytesMax = 1'024;
  // A tokenizer.json nests 6 deep.
  static constexpr int64_t kJsonDepthMax = 32;
  // One piece without a split costs about 40 bytes of scratch for each byte of text: at most 640 MB.
  static constexpr int64_t kTextBytesMax = int64_t{16} << 20;
};

struct EncodeOptions {
  // false: the text of a special token is encoded like ordinary text (added tokens that are not special still match).
  bool parse_special = true;
};

// Immutable after loading; every const method may be called from many threads at once.
class Tokenizer {
 public:
  // Reads and parses `tokenizer_json`. kNotFound, kIo, or as parse().
  static Result<std::unique_ptr<Tokenizer>> load(const std::filesystem::path& tokenizer_json);

  // Builds from the text of a tokenizer.json. kCorrupt: not a well-formed tokenizer; kUnsupported: names the model
  // type, normalizer, pre-tokenizer or option that would change ids and is not implemented; kTooLarge: over a limit.
  static Result<std::unique_ptr<Tokenizer>> parse(std::string_view json);

  virtual ~Tokenizer() = default;
  Tokenizer(const Tokenizer&) = delete;
  Tokenizer& operator=(const Tokenizer&) = delete;

  // The ids of `utf8`; nothing is added before or after. kInvalidArgument: not valid UTF-8 (names the byte offset) or a
  // byte that the vocabulary lacks; kTooLarge: over kTextBytesMax, or the split pattern ran over its step limit.
  // Time O(n log n) in the worst case.
  virtual Result<std::vector<TokenId>> encode(std::string_view utf8, EncodeOptions options = {}) const = 0;

  // The raw bytes that `id` stands for, not always whole UTF-8; an added token's own text. Empty for an id that no
  // token has (a padding row of the model, a negative id). Valid as long as the tokenizer.
  virtual std::string_view bytes(TokenId id) const = 0;

  // The text of `ids`: the bytes concatenated, each maximal invalid part replaced by U+FFFD. `skip_special` leaves out
  // special tokens. Equal to what a Detokenizer writes in total.
  virtual std::string decode(std::span<const TokenId> ids, bool skip_special) const = 0;

  // The largest id + 1. The model's logits may have more rows: those are padding.
  virtual int32_t size() const = 0;

  virtual bool is_special(TokenId id) const = 0;

  // Every added token, special or not, in ascending order.
  virtual std::vector<TokenId> added_ids() const = 0;

  // Whether `id` is a token (of the vocabulary or added).
  virtual bool contains(TokenId id) const = 0;

  // The id of an added token by its text, or else of the vocabulary token with exactly these raw bytes.
  virtual std::optional<TokenId> find(std::string_view token_text) const = 0;

 protected:
  Tokenizer() = default;
};

}  // namespace weir
