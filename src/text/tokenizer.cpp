#include "text/tokenizer.h"

#include "text/detokenizer.h"
#include "text/model_file.h"
#include "text/split.h"
#include "text/tokenizer_added.h"
#include "text/tokenizer_bpe.h"
#include "text/tokenizer_spec.h"
#include "text/unicode.h"

namespace weir {
namespace {

class ByteLevelTokenizer final : public Tokenizer {
 public:
  static Result<std::unique_ptr<Tokenizer>> make(TokenizerSpec spec);

  Result<std::vector<TokenId>> encode(std::string_view utf8, EncodeOptions options) const override;
  std::string_view bytes(TokenId id) const override;
  std::string decode(std::span<const TokenId> ids, bool skip_special) const override;
  int32_t size() const override { return static_cast<int32_t>(added_of_.size()); }
  bool is_special(TokenId id) const override;
  std::vector<TokenId> added_ids() const override;
  bool contains(TokenId id) const override { return !bytes(id).empty(); }
  std::optional<TokenId> find(std::string_view token_text) const override;

 private:
  // What one call of encode() carries along.
  struct Call {
    bool skip_special;
    SplitScratch split;
    BpeScratch bpe;
    std::vector<TokenId> ids;
    std::vector<std::vector<uint32_t>> ends;  // by split step
  };

  explicit ByteLevelTokenizer(TokenizerSpec spec) : spec_(std::move(spec)) {}
  Status prepare();
  Status encode_raw(std::string_view text, Call* call) const;
  Status encode_normalized(std::string_view text, Call* call) const;
  Status encode_split(std::string_view text, size_t step, Call* call) const;
  Status encode_byte_level(std::string_view text, Call* call) const;
  Status encode_pieces(std::string_view text, const std::vector<uint32_t>& ends, Call* call) const;
  const AddedToken* added(TokenId id) const;

  TokenizerSpec spec_;
  std::vector<int32_t> added_of_;  // by id: index into spec_.added, or -1
  std::unique_ptr<AddedMatcher> raw_matcher_;
  std::unique_ptr<AddedMatcher> normalized_matcher_;
  std::vector<std::unique_ptr<SplitPattern>> splits_;
  std::unique_ptr<SplitPattern> gpt2_split_;
  std::unique_ptr<BpeModel> bpe_;
};

Result<std::unique_ptr<Tokenizer>> ByteLevelTokenizer::make(TokenizerSpec spec) {
  std::unique_ptr<ByteLevelTokenizer> tokenizer(new ByteLevelTokenizer(std::move(spec)));
  WEIR_RETURN_IF_ERROR(tokenizer->prepare());
  return std::unique_ptr<Tokenizer>(std::move(tokenizer));
}

Status ByteLevelTokenizer::prepare() {
  int32_t size = spec_.vocabulary.size();
  if (!spec_.added.empty()) size = std::max(size, spec_.added.back().id + 1);
  added_of_.assign(static_cast<size_t>(size), -1);
  std::vector<AddedMatcher::Pattern> raw;
  std::vector<AddedMatcher::Pattern> normalized;
  for (size_t i = 0; i < spec_.added.size(); ++i) {
    const AddedToken& token = spec_.added[i];
    added_of_[static_cast<size_t>(token.id)] = static_cast<int32_t>(i);
    if (!token.normalized) {
      raw.push_back({token.text, &token});
      continue;
    }
    std::optional<std::string> text;
    if (spec_.nfc) text = normalize_nfc(token.text);
    normalized.push_back({text.value_or(token.text), &token});
  }
  raw_matcher_ = std::make_unique<AddedMatcher>(std::move(raw));
  normalized_matcher_ = std::make_unique<AddedMatcher>(std::move(normalized));
  for (const std::string& pattern : spec_.split_patterns) {
    WEIR_ASSIGN_OR_RETURN(auto split, SplitPattern::compile(pattern));
    splits_.push_back(std::move(split));
  }
  if (spec_.gpt2_split) {
    WEIR_ASSIGN_OR_RETURN(gpt2_split_, SplitPattern::compile(kGpt2SplitPattern));
  }
  WEIR_ASSIGN_OR_RETURN(bpe_, BpeModel::make(&spec_.vocabulary, spec_));
  // Held by the model's table from here on.
  spec_.merges = {};
  return Ok{};
}

Result<std::vector<TokenId>> ByteLevelTokenizer::encode(std::string_view utf8, EncodeOptions options) const {
  if (static_cast<int64_t>(utf8.size()) > TokenizerLimits::kTextBytesMax) {
    return with_remedy(make_error(ErrorCode::kTooLarge, "a text of {} bytes is over the limit of {}", utf8.size(),
                                  TokenizerLimits::kTextBytesMax),
                       "tokenize it in parts");
  }
  if (const auto offset = find_invalid_utf8(utf8)) {
    return make_error(ErrorCode::kInvalidArgument, "the text is not valid UTF-8 at byte {}", *offset);
  }
  Call call;
  call.skip_special = !options.parse_special;
  call.ends.resize(splits_.size() + 1);
  WEIR_RETURN_IF_ERROR(encode_raw(utf8, &call));
  return std::move(call.ids);
}

// Added tokens that are matched before normalisation cut the text; each part between is normalised alone.
Status ByteLevelTokenizer::encode_raw(std::string_view text, Call* call) const {
  std::vector<TextPart> parts;
  raw_matcher_->split(text, call->skip_special, &parts);
  for (const TextPart& part : parts) {
    if (part.id >= 0) {
      call->ids.push_back(part.id);
      continue;
    }
    const std::string_view between = text.substr(part.begin, part.end - part.begin);
    std::optional<std::string> normalized;
    if (spec_.nfc) normalized = normalize_nfc(between);
    WEIR_RETURN_IF_ERROR(encode_normalized(normalized ? std::string_view(*normalized) : between, call));
  }
  return Ok{};
}

Status ByteLevelTokenizer::encode_normalized(std::string_view text, Call* call) const {
  if (normalized_matcher_->empty()) return encode_split(text, 0, call);
  std::vector<TextPart> parts;
  normalized_matcher_->split(text, call->skip_special, &parts);
  for (const TextPart& part : parts) {
    if (part.id >= 0) {
      call->ids.push_back(part.id);
    } else {
      WEIR_RETURN_IF_ERROR(encode_split(text.substr(part.begin, part.end - part.begin), 0, call));
    }
  }
  return Ok{};
}

Status ByteLevelTokenizer::encode_split(std::string_view text, size_t step, Call* call) const {
  if (step == splits_.size()) return encode_byte_level(text, call);
  std::vector<uint32_t>& ends = call->ends[step];
  ends.clear();
  WEIR_RETURN_IF_ERROR(splits_[step]->split(text, &call->split, &ends));
  const bool last = step + 1 == splits_.size() && !spec_.add_prefix_space && gpt2_split_ == nullptr;
  if (last) return encode_pieces(text, ends, call);
  uint32_t begin = 0;
  for (const uint32_t end : ends) {
    WEIR_RETURN_IF_ERROR(encode_split(text.substr(begin, end - begin), step + 1, call));
    begin = end;
  }
  return Ok{};
}

Status ByteLevelTokenizer::encode_byte_level(std::string_view text, Call* call) const {
  std::string prefixed;
  if (spec_.add_prefix_space && !text.empty() && text.front() != ' ') {
    prefixed.reserve(text.size() + 1);
    prefixed.append(" ").append(text);
    text = prefixed;
  }
  std::vector<uint32_t>& ends = call->ends.back();
  ends.clear();
  if (gpt2_split_ != nullptr) {
    WEIR_RETURN_IF_ERROR(gpt2_split_->split(text, &call->split, &ends));
  } else if (!text.empty()) {
    ends.push_back(static_cast<uint32_t>(text.size()));
  }
  return encode_pieces(text, ends, call);
}

Status ByteLevelTokenizer::encode_pieces(std::string_view text, const std::vector<uint32_t>& ends, Call* call) const {
  uint32_t begin = 0;
  for (const uint32_t end : ends) {
    WEIR_RETURN_IF_ERROR(bpe_->encode(text.substr(begin, end - begin), &call->bpe, &call->ids));
    begin = end;
  }
  return Ok{};
}

const AddedToken* ByteLevelTokenizer::added(TokenId id) const {
  if (id < 0 || id >= size()) return nullptr;
  const int32_t index = added_of_[static_cast<size_t>(id)];
  return index < 0 ? nullptr : &spec_.added[static_cast<size_t>(index)];
}

std::string_view ByteLevelTokenizer::bytes(TokenId id) const {
  if (const AddedToken* token = added(id)) return token->text;
  if (id < 0 || id >= spec_.vocabulary.size()) return {};
  return spec_.vocabulary.bytes(id);
}

bool ByteLevelTokenizer::is_special(TokenId id) const {
  const AddedToken* token = added(id);
  return token != nullptr && token->special;
}

std::vector<TokenId> ByteLevelTokenizer::added_ids() const {
  std::vector<TokenId> ids;
  for (TokenId id = 0; id < size(); ++id) {
    if (added(id) != nullptr) ids.push_back(id);
  }
  return ids;
}

std::string ByteLevelTokenizer::decode(std::span<const TokenId> ids, bool skip_special) const {
  std::string text;
  Detokenizer detokenizer(this, skip_special);
  for (const TokenId id : ids) detokenizer.push(id, &text);
  detokenizer.finish(&text);
  return text;
}

std::optional<TokenId> ByteLevelTokenizer::find(std::string_view token_text) const {
  for (const AddedToken& token : spec_.added) {
    if (token.text == token_text) return token.id;
  }
  if (token_text.empty()) return std::nullopt;
  const int32_t id = bpe_->find(token_text);
  return id < 0 ? std::nullopt : std::optional<TokenId>(id);
}

}  // namespace

Result<std::unique_ptr<Tokenizer>> Tokenizer::load(const std::filesystem::path& tokenizer_json) {
  WEIR_ASSIGN_OR_RETURN(const auto text, read_model_file(tokenizer_json, TokenizerLimits::kFileBytesMax));
  if (!text) {
    return with_remedy(make_error(ErrorCode::kNotFound, "{} does not exist", tokenizer_json.string()),
                       "the model's folder needs its tokenizer.json");
  }
  auto tokenizer = parse(*text);
  if (!tokenizer.ok()) return in_context(std::move(tokenizer).error(), tokenizer_json.string());
  return tokenizer;
}

Result<std::unique_ptr<Tokenizer>> Tokenizer::parse(std::string_view json) {
  WEIR_ASSIGN_OR_RETURN(TokenizerSpec spec, parse_tokenizer_json(json));
  return ByteLevelTokenizer::make(std::move(spec));
}

}  // namespace weir
