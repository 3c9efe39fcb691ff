// Reads a tokenizer.json into a TokenizerSpec. Whatever would change ids and is not executed exactly is refused by
// name.
#include <algorithm>
#include <boost/json.hpp>
#include <initializer_list>
#include <unordered_set>

#include "text/token_table.h"
#include "text/tokenizer.h"
#include "text/tokenizer_spec.h"
#include "text/unicode.h"

namespace weir {
namespace {

namespace json = boost::json;

std::string_view view(const json::string& text) {
  return {text.data(), text.size()};
}
std::string_view view(json::string_view text) {
  return {text.data(), text.size()};
}

Error unsupported(std::string message) {
  return Error{ErrorCode::kUnsupported, std::move(message), "it would give other ids than the model was trained with"};
}

Error corrupt(std::string message) {
  return Error{ErrorCode::kCorrupt, std::move(message), "fetch the file again"};
}

// A JSON object with its place in the file, for messages.
class Node {
 public:
  static Result<Node> of(const json::value& value, std::string place) {
    if (!value.is_object()) return corrupt(place + " is not an object");
    return Node(&value.get_object(), std::move(place));
  }

  const json::value* get(std::string_view name) const {
    return object_->if_contains(json::string_view(name.data(), name.size()));
  }
  const std::string& place() const { return place_; }
  std::string place_of(std::string_view name) const { return fmt::format("{}.{}", place_, name); }
  bool is_null(std::string_view name) const {
    const json::value* value = get(name);
    return value == nullptr || value->is_null();
  }

  Result<Node> child(std::string_view name) const {
    const json::value* value = get(name);
    if (value == nullptr) return corrupt(place_of(name) + " is missing");
    return of(*value, place_of(name));
  }

  Result<std::string_view> text(std::string_view name) const {
    const json::value* value = get(name);
    if (value == nullptr || !value->is_string()) return corrupt(place_of(name) + " is missing or not a string");
    return view(value->get_string());
  }

  // A missing or null flag is `fallback`.
  Result<bool> flag(std::string_view name, bool fallback) const {
    if (is_null(name)) return fallback;
    if (!get(name)->is_bool()) return corrupt(place_of(name) + " is not true or false");
    return get(name)->get_bool();
  }

  Result<const json::array*> list(std::string_view name) const {
    const json::value* value = get(name);
    if (value == nullptr || !value->is_array()) return corrupt(place_of(name) + " is missing or not a list");
    return &value->get_array();
  }

  Status allow(std::initializer_list<std::string_view> names) const {
    for (const auto& member : *object_) {
      const std::string_view key = view(member.key());
      if (std::find(names.begin(), names.end(), key) == names.end()) {
        return unsupported(fmt::format("unknown field {}", place_of(key)));
      }
    }
    return Ok{};
  }

 private:
  Node(const json::object* object, std::string place) : object_(object), place_(std::move(place)) {}
  const json::object* object_;
  std::string place_;
};

Result<int32_t> token_id(const json::value& value, std::string_view what) {
  const int64_t id = value.is_int64() ? value.get_int64() : -1;
  if (id < 0) return corrupt(fmt::format("the id of {} is not a whole number from 0", what));
  if (id >= TokenizerLimits::kVocabularyMax) {
    return make_error(ErrorCode::kTooLarge, "the id {} of {} is over the limit of {} ids", id, what,
                      TokenizerLimits::kVocabularyMax);
  }
  return static_cast<int32_t>(id);
}

Status read_normalizer(const Node& node, TokenizerSpec* spec) {
  WEIR_ASSIGN_OR_RETURN(const std::string_view type, node.text("type"));
  if (type == "NFC") {
    spec->nfc = true;
    return Ok{};
  }
  if (type != "Sequence") return unsupported(fmt::format("{}: normalizer '{}'", node.place(), type));
  WEIR_ASSIGN_OR_RETURN(const json::array* parts, node.list("normalizers"));
  for (const json::value& part : *parts) {
    WEIR_ASSIGN_OR_RETURN(const Node child, Node::of(part, node.place_of("normalizers[]")));
    WEIR_RETURN_IF_ERROR(read_normalizer(child, spec));
  }
  return Ok{};
}

Status read_byte_level(const Node& node, TokenizerSpec* spec) {
  WEIR_RETURN_IF_ERROR(node.allow({"type", "add_prefix_space", "trim_offsets", "use_regex"}));
  WEIR_ASSIGN_OR_RETURN(spec->add_prefix_space, node.flag("add_prefix_space", true));
  WEIR_ASSIGN_OR_RETURN(spec->gpt2_split, node.flag("use_regex", true));
  return Ok{};
}

Status read_split(const Node& node, TokenizerSpec* spec) {
  WEIR_RETURN_IF_ERROR(node.allow({"type", "pattern", "behavior", "invert"}));
  WEIR_ASSIGN_OR_RETURN(const std::string_view behavior, node.text("behavior"));
  if (behavior != "Isolated") return unsupported(fmt::format("{}.behavior '{}'", node.place(), behavior));
  WEIR_ASSIGN_OR_RETURN(const bool invert, node.flag("invert", false));
  if (invert) return unsupported(node.place_of("invert"));
  WEIR_ASSIGN_OR_RETURN(const Node pattern, node.child("pattern"));
  WEIR_RETURN_IF_ERROR(pattern.allow({"Regex"}));
  WEIR_ASSIGN_OR_RETURN(const std::string_view regex, pattern.text("Regex"));
  spec->split_patterns.emplace_back(regex);
  return Ok{};
}

// Split steps, then ByteLevel as the last.
Status read_pre_tokenizer(const Node& node, TokenizerSpec* spec) {
  WEIR_ASSIGN_OR_RETURN(const std::string_view type, node.text("type"));
  if (type == "ByteLevel") return read_byte_level(node, spec);
  if (type != "Sequence") return unsupported(fmt::format("{}: '{}' without ByteLevel", node.place(), type));
  WEIR_ASSIGN_OR_RETURN(const json::array* steps, node.list("pretokenizers"));
  for (size_t i = 0; i < steps->size(); ++i) {
    WEIR_ASSIGN_OR_RETURN(const Node step, Node::of((*steps)[i], fmt::format("{}.pretokenizers[{}]", node.place(), i)));
    WEIR_ASSIGN_OR_RETURN(const std::string_view kind, step.text("type"));
    if (kind == "ByteLevel" && i + 1 == steps->size()) return read_byte_level(step, spec);
    if (kind != "Split") return unsupported(fmt::format("{}: '{}' at this place", step.place(), kind));
    WEIR_RETURN_IF_ERROR(read_split(step, spec));
  }
  return unsupported(fmt::format("{}: no ByteLevel at the end", node.place()));
}

// Accepts a post-processor that adds nothing.
Status check_post_processor(const Node& node) {
  WEIR_ASSIGN_OR_RETURN(const std::string_view type, node.text("type"));
  if (type == "ByteLevel") return Ok{};
  if (type == "Sequence") {
    WEIR_ASSIGN_OR_RETURN(const json::array* parts, node.list("processors"));
    for (const json::value& part : *parts) {
      WEIR_ASSIGN_OR_RETURN(const Node child, Node::of(part, node.place_of("processors[]")));
      WEIR_RETURN_IF_ERROR(check_post_processor(child));
    }
    return Ok{};
  }
  if (type != "TemplateProcessing") return unsupported(fmt::format("{}: '{}'", node.place(), type));
  WEIR_ASSIGN_OR_RETURN(const json::array* single, node.list("single"));
  for (const json::value& part : *single) {
    if (!part.is_object() || !part.get_object().contains("Sequence")) {
      return unsupported(fmt::format("{}: a template that adds tokens to a text", node.place()));
    }
  }
  if (single->size() != 1) return unsupported(fmt::format("{}.single is not the text alone", node.place()));
  return Ok{};
}

Status check_decoder(const Node& node) {
  WEIR_ASSIGN_OR_RETURN(const std::string_view type, node.text("type"));
  if (type == "ByteLevel") return Ok{};
  if (type != "Sequence") return unsupported(fmt::format("{}: '{}'", node.place(), type));
  WEIR_ASSIGN_OR_RETURN(const json::array* parts, node.list("decoders"));
  if (parts->size() != 1) return unsupported(fmt::format("{}: a sequence of {} decoders", node.place(), parts->size()));
  WEIR_ASSIGN_OR_RETURN(const Node child, Node::of((*parts)[0], node.place_of("decoders[0]")));
  return check_decoder(child);
}

Status check_model_options(const Node& model, TokenizerSpec* spec) {
  WEIR_RETURN_IF_ERROR(model.allow({"type", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix",
                                    "fuse_unk", "byte_fallback", "ignore_merges", "vocab", "merges"}));
  if (!model.is_null("type")) {
    WEIR_ASSIGN_OR_RETURN(const std::string_view type, model.text("type"));
    if (type != "BPE") return unsupported(fmt::format("model type '{}' (only BPE)", type));
  }
  if (!model.is_null("dropout")) return unsupported("model.dropout");
  for (const std::string_view name : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    if (model.is_null(name)) continue;
    WEIR_ASSIGN_OR_RETURN(const std::string_view affix, model.text(name));
    if (!affix.empty()) return unsupported(model.place_of(name));
  }
  WEIR_ASSIGN_OR_RETURN(const bool byte_fallback, model.flag("byte_fallback", false));
  if (byte_fallback) return unsupported("model.byte_fallback");
  WEIR_ASSIGN_OR_RETURN(spec->ignore_merges, model.flag("ignore_merges", false));
  spec->needs_all_bytes = !model.is_null("unk_token");
  return Ok{};
}

Status read_vocabulary(const json::object& vocab, Vocabulary* vocabulary) {
  if (static_cast<int64_t>(vocab.size()) > TokenizerLimits::kVocabularyMax) {
    return make_error(ErrorCode::kTooLarge, "model.vocab has {} tokens, more than {}", vocab.size(),
                      TokenizerLimits::kVocabularyMax);
  }
  std::vector<std::string_view> texts;
  texts.reserve(vocab.size());
  for (const auto& member : vocab) {
    const std::string_view text = view(member.key());
    WEIR_ASSIGN_OR_RETURN(const int32_t id, token_id(member.value(), fmt::format("token '{}'", text)));
    if (text.empty()) return corrupt("model.vocab has an empty token");
    const auto index = static_cast<size_t>(id);
    if (index >= texts.size()) texts.resize(index + 1);
    if (!texts[index].empty())
      return corrupt(fmt::format("tokens '{}' and '{}' have the same id {}", texts[index], text, id));
    texts[index] = text;
  }
  vocabulary->offsets.reserve(texts.size() + 1);
  vocabulary->offsets.push_back(0);
  vocabulary->mergeable.reserve(texts.size());
  for (const std::string_view text : texts) {
    const bool mergeable = !text.empty() && append_alphabet_bytes(text, &vocabulary->blob);
    if (!mergeable) vocabulary->blob.append(text);
    vocabulary->mergeable.push_back(mergeable);
    vocabulary->offsets.push_back(static_cast<uint32_t>(vocabulary->blob.size()));
  }
  return Ok{};
}

// The two sides of a merge, written ["a", "b"] or "a b".
Result<std::pair<std::string_view, std::string_view>> merge_sides(const json::value& value, size_t index) {
  if (value.is_array() && value.get_array().size() == 2 && value.get_array()[0].is_string() &&
      value.get_array()[1].is_string()) {
    return std::pair{view(value.get_array()[0].get_string()), view(value.get_array()[1].get_string())};
  }
  if (value.is_string()) {
    const std::string_view text = view(value.get_string());
    const size_t space = text.find(' ');
    if (space != std::string_view::npos && text.find(' ', space + 1) == std::string_view::npos) {
      return std::pair{text.substr(0, space), text.substr(space + 1)};
    }
  }
  return corrupt(fmt::format("model.merges[{}] is neither [left, right] nor \"left right\"", index));
}

Status read_merges(const json::array& list, const json::object& vocab, TokenizerSpec* spec) {
  if (static_cast<int64_t>(list.size()) > TokenizerLimits::kMergesMax) {
    return make_error(ErrorCode::kTooLarge, "model.merges has {} entries, more than {}", list.size(),
                      TokenizerLimits::kMergesMax);
  }
  const TokenTable table(&spec->vocabulary);
  spec->merges.reserve(list.size());
  std::string bytes;
  int32_t rank = 0;
  for (size_t i = 0; i < list.size(); ++i) {
    if (list[i].is_string() && view(list[i].get_string()).starts_with("#version")) continue;
    WEIR_ASSIGN_OR_RETURN(const auto sides, merge_sides(list[i], i));
    bytes.clear();
    const bool in_alphabet = append_alphabet_bytes(sides.first, &bytes);
    const size_t middle = bytes.size();
    if (in_alphabet && append_alphabet_bytes(sides.second, &bytes)) {
      const std::string_view both = bytes;
      const MergeRule rule{table.find(both.substr(0, middle)), table.find(both.substr(middle)), rank, table.find(both)};
      if (rule.left < 0 || rule.right < 0 || rule.merged < 0) {
        return corrupt(fmt::format("model.merges[{}] ('{}' with '{}') names a token that the vocabulary lacks", i,
                                   sides.first, sides.second));
      }
      spec->merges.push_back(rule);
    } else {
      // No text reaches a token outside the alphabet, so such a merge never happens; it must still be well-formed.
      for (const std::string& text : {std::string(sides.first), std::string(sides.second),
                                      std::string(sides.first) + std::string(sides.second)}) {
        if (!vocab.contains(text))
          return corrupt(fmt::format("model.merges[{}] names '{}', which the vocabulary lacks", i, text));
      }
    }
    ++rank;
  }
  return Ok{};
}

Status read_model(const Node& model, TokenizerSpec* spec) {
  WEIR_RETURN_IF_ERROR(check_model_options(model, spec));
  const json::value* vocab = model.get("vocab");
  if (vocab == nullptr || !vocab->is_object()) return corrupt("model.vocab is missing or not an object");
  WEIR_RETURN_IF_ERROR(read_vocabulary(vocab->get_object(), &spec->vocabulary));
  WEIR_ASSIGN_OR_RETURN(const json::array* merges, model.list("merges"));
  return read_merges(*merges, vocab->get_object(), spec);
}

Result<AddedToken> read_added_token(const Node& node, const json::object& vocab) {
  WEIR_RETURN_IF_ERROR(node.allow({"id", "content", "single_word", "lstrip", "rstrip", "normalized", "special"}));
  AddedToken token;
  WEIR_ASSIGN_OR_RETURN(const std::string_view text, node.text("content"));
  token.text = text;
  const json::value* id = node.get("id");
  if (id == nullptr) return corrupt(node.place_of("id") + " is missing");
  WEIR_ASSIGN_OR_RETURN(token.id, token_id(*id, node.place()));
  WEIR_ASSIGN_OR_RETURN(token.special, node.flag("special", false));
  WEIR_ASSIGN_OR_RETURN(token.normalized, node.flag("normalized", !token.special));
  WEIR_ASSIGN_OR_RETURN(token.single_word, node.flag("single_word", false));
  WEIR_ASSIGN_OR_RETURN(token.lstrip, node.flag("lstrip", false));
  WEIR_ASSIGN_OR_RETURN(token.rstrip, node.flag("rstrip", false));
  if (token.text.empty()) return corrupt(node.place_of("content") + " is empty");
  if (static_cast<int64_t>(token.text.size()) > TokenizerLimits::kAddedTokenBytesMax) {
    return make_error(ErrorCode::kTooLarge, "{}.content has {} bytes, more than {}", node.place(), token.text.size(),
                      TokenizerLimits::kAddedTokenBytesMax);
  }
  const json::value* in_vocabulary = vocab.if_contains(token.text);
  if (in_vocabulary != nullptr && in_vocabulary->get_int64() != token.id) {
    return corrupt(fmt::format("'{}' has id {} in added_tokens and {} in model.vocab", token.text, token.id,
                               in_vocabulary->get_int64()));
  }
  return token;
}

Status read_added_tokens(const json::array& list, const json::object& vocab, TokenizerSpec* spec) {
  if (static_cast<int64_t>(list.size()) > TokenizerLimits::kAddedTokensMax) {
    return make_error(ErrorCode::kTooLarge, "added_tokens has {} entries, more than {}", list.size(),
                      TokenizerLimits::kAddedTokensMax);
  }
  std::unordered_set<std::string> texts;
  std::unordered_set<int32_t> ids;
  for (size_t i = 0; i < list.size(); ++i) {
    WEIR_ASSIGN_OR_RETURN(const Node node, Node::of(list[i], fmt::format("added_tokens[{}]", i)));
    WEIR_ASSIGN_OR_RETURN(AddedToken token, read_added_token(node, vocab));
    if (!texts.insert(token.text).second) return corrupt(fmt::format("'{}' occurs twice in added_tokens", token.text));
    const bool taken =
        token.id < spec->vocabulary.size() && !spec->vocabulary.bytes(token.id).empty() && !vocab.contains(token.text);
    if (!ids.insert(token.id).second || taken) {
      return corrupt(fmt::format("the id {} of added token '{}' belongs to another token", token.id, token.text));
    }
    spec->added.push_back(std::move(token));
  }
  std::sort(spec->added.begin(), spec->added.end(),
            [](const AddedToken& a, const AddedToken& b) { return a.id < b.id; });
  return Ok{};
}

Result<TokenizerSpec> read_root(const json::value& value) {
  WEIR_ASSIGN_OR_RETURN(const Node root, Node::of(value, "tokenizer.json"));
  // Truncation and padding are settings of whoever calls the reference, which resets them; they are no part of the ids.
  WEIR_RETURN_IF_ERROR(root.allow({"version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer",
                                   "post_processor", "decoder", "model"}));
  TokenizerSpec spec;
  if (!root.is_null("normalizer")) {
    WEIR_ASSIGN_OR_RETURN(const Node normalizer, root.child("normalizer"));
    WEIR_RETURN_IF_ERROR(read_normalizer(normalizer, &spec));
  }
  if (root.is_null("pre_tokenizer")) return unsupported("no pre_tokenizer (ByteLevel is needed)");
  WEIR_ASSIGN_OR_RETURN(const Node pre_tokenizer, root.child("pre_tokenizer"));
  WEIR_RETURN_IF_ERROR(read_pre_tokenizer(pre_tokenizer, &spec));
  if (!root.is_null("post_processor")) {
    WEIR_ASSIGN_OR_RETURN(const Node post_processor, root.child("post_processor"));
    WEIR_RETURN_IF_ERROR(check_post_processor(post_processor));
  }
  if (root.is_null("decoder")) return unsupported("no decoder (ByteLevel is needed)");
  WEIR_ASSIGN_OR_RETURN(const Node decoder, root.child("decoder"));
  WEIR_RETURN_IF_ERROR(check_decoder(decoder));
  WEIR_ASSIGN_OR_RETURN(const Node model, root.child("model"));
  WEIR_RETURN_IF_ERROR(read_model(model, &spec));
  if (!root.is_null("added_tokens")) {
    WEIR_ASSIGN_OR_RETURN(const json::array* added, root.list("added_tokens"));
    WEIR_RETURN_IF_ERROR(read_added_tokens(*added, model.get("vocab")->get_object(), &spec));
  }
  return spec;
}

}  // namespace

Result<TokenizerSpec> parse_tokenizer_json(std::string_view text) {
  if (static_cast<int64_t>(text.size()) > TokenizerLimits::kFileBytesMax) {
    return make_error(ErrorCode::kTooLarge, "tokenizer.json has {} bytes, more than {}", text.size(),
                      TokenizerLimits::kFileBytesMax);
  }
  // Freed in one go; the document is three to five times its text.
  json::monotonic_resource arena(std::max<size_t>(text.size(), 4096));
  json::parse_options options;
  options.max_depth = static_cast<size_t>(TokenizerLimits::kJsonDepthMax);
  boost::system::error_code error;
  const json::value value = json::parse(json::string_view(text.data(), text.size()), error, &arena, options);
  if (error) return corrupt(fmt::format("tokenizer.json is not JSON: {}", error.message()));
  return read_root(value);
}

}  // namespace weir
