#include "models/config.h"

#include <algorithm>
#include <boost/json.hpp>
#include <cmath>
#include <optional>
#include <utility>

#include "weights/json_check.h"
#include "weights/safetensors.h"

namespace weir {
namespace {

using boost::json::object;
using boost::json::value;

// Ranges of the sizes: at least eight times anything published, and small enough that every product of the shapes that
// they make fits in int64_t bytes: 2^16 experts * 2 * 2^20 * 2^20 * 4 bytes = 2^59.
constexpr int64_t kWidthMax = 1 << 20;          // hidden and MLP widths; published: 20,480
constexpr int64_t kVocabularyMax = 1 << 24;     // published: 248,320
constexpr int64_t kLayersMax = 1024;            // published: 78
constexpr int64_t kHeadsMax = 4096;             // published: 128
constexpr int64_t kHeadDimMax = 4096;           // published: 256
constexpr int64_t kExpertsMax = 1 << 16;        // published: 512
constexpr int64_t kPositionsMax = 1 << 30;      // published: 1,048,576
constexpr int64_t kEosMax = 64;                 // published: 3
constexpr int64_t kExpertTensorsMax = 1 << 18;  // layers * experts, published: 30,720: bounds the binding table
constexpr int64_t kConvWidth = 4;  // taps: what the operations are written for, and every published model has

Error unsupported(std::string what) {
  return with_remedy(Error{ErrorCode::kUnsupported, "config.json: " + std::move(what), {}},
                     "served are qwen3_5_moe, qwen3_5 and qwen3_next text models");
}

Error invalid(std::string message) {
  return Error{ErrorCode::kInvalidArgument, std::move(message), "correct config.json, or fetch the model's own again"};
}

// Reads named fields, remembering the first thing that is wrong: call `failure()` before using what was read.
class Reader {
 public:
  Reader(const object& outer, const object& text) : outer_(outer), text_(text) {}

  const std::optional<Error>& failure() const { return failure_; }
  void fail(Error error) {
    if (!failure_) failure_ = std::move(error);
  }
  void fail_value(std::string_view key, std::string_view why) {
    fail(invalid(fmt::format("config.json: {}{} {}", where(), key, why)));
  }
  std::string_view where() const { return &outer_ == &text_ ? "" : "text_config."; }

  // nullptr when the key is absent or null. The text level goes first.
  const value* find(std::string_view key) const {
    const value* found = find_in(text_, key);
    return found != nullptr ? found : find_in(outer_, key);
  }

  int64_t integer(std::string_view key, int64_t low, int64_t high) {
    const value* found = find(key);
    if (found == nullptr) {
      fail_value(key, "is missing");
      return low;
    }
    return checked(*found, key, low, high);
  }
  int64_t integer_or(std::string_view key, int64_t low, int64_t high, int64_t otherwise) {
    const value* found = find(key);
    return found == nullptr ? otherwise : checked(*found, key, low, high);
  }
  double real(const value& found, std::string_view key, double low, double high) {
    boost::json::error_code error;
    const double number = found.is_number() ? found.to_number<double>(error) : std::nan("");
    if (error || !(number >= low && number <= high)) {
      fail_value(key, fmt::format("must be a number in [{}, {}]", low, high));
      return low;
    }
    return number;
  }
  bool flag_or(std::string_view key, bool otherwise) {
    const value* found = find(key);
    if (found == nullptr) return otherwise;
    if (!found->is_bool()) {
      fail_value(key, "must be true or false");
      return otherwise;
    }
    return found->get_bool();
  }
  std::string text_or(std::string_view key, std::string_view otherwise) {
    const value* found = find(key);
    if (found == nullptr) return std::string(otherwise);
    if (!found->is_string()) {
      fail_value(key, "must be a string");
      return std::string(otherwise);
    }
    return std::string(found->get_string());
  }
  int64_t checked(const value& found, std::string_view key, int64_t low, int64_t high) {
    const bool ok = found.is_int64() && found.get_int64() >= low && found.get_int64() <= high;
    if (!ok) {
      fail_value(key, fmt::format("must be an integer in [{}, {}], is {}", low, high,
                                  std::string(boost::json::serialize(found)).substr(0, 40)));
      return low;
    }
    return found.get_int64();
  }

  static const value* find_in(const object& from, std::string_view key) {
    const value* found = from.if_contains({key.data(), key.size()});
    return found == nullptr || found->is_null() ? nullptr : found;
  }

 private:
  const object& outer_;
  const object& text_;
  std::optional<Error> failure_;
};

std::optional<ModelFamily> family_of(std::string_view model_type) {
  if (model_type == "qwen3_5_moe" || model_type == "qwen3_5_moe_text") return ModelFamily::kQwen35Moe;
  if (model_type == "qwen3_5" || model_type == "qwen3_5_text") return ModelFamily::kQwen35;
  if (model_type == "qwen3_next") return ModelFamily::kQwen3Next;
  return std::nullopt;
}

// The rotary settings sit in rope_parameters (new), or beside the sizes with rope_scaling (old).
void read_rope(Reader* reader, ModelConfig* config) {
  const value* parameters = reader->find("rope_parameters");
  if (parameters == nullptr) parameters = reader->find("rope_scaling");
  const object* nested = parameters == nullptr ? nullptr : parameters->if_object();
  if (parameters != nullptr && nested == nullptr) return reader->fail_value("rope_parameters", "must be an object");
  const auto find = [&](std::string_view key) {
    const value* found = nested == nullptr ? nullptr : Reader::find_in(*nested, key);
    return found != nullptr ? found : reader->find(key);
  };
  for (const std::string_view key : {"rope_type", "type"}) {
    const value* type = nested == nullptr ? nullptr : Reader::find_in(*nested, key);
    if (type == nullptr) continue;
    if (!type->is_string() || type->get_string() != "default") {
      const std::string shown = std::string(boost::json::serialize(*type)).substr(0, 40);
      reader->fail(unsupported(fmt::format("rope_type {} (only \"default\", unscaled positions)", shown)));
    }
  }
  const value* theta = find("rope_theta");
  const value* partial = find("partial_rotary_factor");
  if (theta == nullptr) return reader->fail_value("rope_theta", "is missing");
  config->rope_theta = reader->real(*theta, "rope_theta", 1.0, 1e12);
  const double factor = partial == nullptr ? 1.0 : reader->real(*partial, "partial_rotary_factor", 0.0, 1.0);
  config->rope_dims = static_cast<int64_t>(static_cast<double>(config->head_dim) * factor);
  if (config->rope_dims < 2 || config->rope_dims % 2 != 0) {
    reader->fail_value("partial_rotary_factor",
                       fmt::format("makes {} rotary dimensions of {}: must be even and at least 2", config->rope_dims,
                                   config->head_dim));
  }
}

void read_layers(Reader* reader, ModelConfig* config) {
  const int64_t count = reader->integer("num_hidden_layers", 1, kLayersMax);
  const value* types = reader->find("layer_types");
  if (types == nullptr) types = reader->find("layers_block_type");
  if (types == nullptr) {
    // The families' own default where neither is said.
    const int64_t interval = reader->integer_or("full_attention_interval", 1, kLayersMax, 4);
    for (int64_t layer = 0; layer < count; ++layer) {
      config->layers.push_back((layer + 1) % interval == 0 ? LayerKind::kFull : LayerKind::kLinear);
    }
    return;
  }
  if (!types->is_array() || static_cast<int64_t>(types->get_array().size()) != count) {
    return reader->fail_value("layer_types", fmt::format("must be a list of {} strings (num_hidden_layers)", count));
  }
  for (const value& type : types->get_array()) {
    const std::string_view name = type.is_string() ? std::string_view(type.get_string()) : std::string_view();
    if (name == "full_attention" || name == "attention") {
      config->layers.push_back(LayerKind::kFull);
    } else if (name == "linear_attention") {
      config->layers.push_back(LayerKind::kLinear);
    } else {
      return reader->fail(unsupported(fmt::format("layer type {} (only linear_attention and full_attention)",
                                                  std::string(boost::json::serialize(type)).substr(0, 40))));
    }
  }
}

void read_mlp(Reader* reader, ModelConfig* config) {
  if (config->family == ModelFamily::kQwen35) {
    config->dense_width = reader->integer("intermediate_size", 1, kWidthMax);
    return;
  }
  config->experts = reader->integer("num_experts", 1, kExpertsMax);
  config->experts_per_token = reader->integer("num_experts_per_tok", 1, config->experts);
  config->expert_width = reader->integer("moe_intermediate_size", 1, kWidthMax);
  config->shared_width = reader->integer("shared_expert_intermediate_size", 1, kWidthMax);
  if (config->experts * config->layer_count() > kExpertTensorsMax) {
    reader->fail_value("num_experts", fmt::format("times layers is over {}", kExpertTensorsMax));
  }
  if (!reader->flag_or("norm_topk_prob", true)) {
    reader->fail(unsupported("norm_topk_prob false (expert weights are always normalised)"));
  }
  if (reader->integer_or("decoder_sparse_step", 1, kLayersMax, 1) != 1) {
    reader->fail(unsupported("decoder_sparse_step other than 1 (every layer has experts)"));
  }
  const value* dense_layers = reader->find("mlp_only_layers");
  if (dense_layers != nullptr && (!dense_layers->is_array() || !dense_layers->get_array().empty())) {
    reader->fail(unsupported("mlp_only_layers that is not empty (every layer has experts)"));
  }
}

// What other values of these keys would mean is known, and not built.
void refuse_unserved(Reader* reader) {
  if (reader->flag_or("attention_bias", false)) reader->fail(unsupported("attention_bias true"));
  if (!reader->flag_or("attn_output_gate", true)) reader->fail(unsupported("attn_output_gate false"));
  if (reader->flag_or("use_sliding_window", false)) reader->fail(unsupported("use_sliding_window true"));
  if (reader->flag_or("mtp_use_dedicated_embeddings", false)) {
    reader->fail(unsupported("mtp_use_dedicated_embeddings true"));
  }
  if (const std::string act = reader->text_or("hidden_act", "silu"); act != "silu") {
    reader->fail(unsupported(fmt::format("hidden_act \"{}\" (only silu)", act.substr(0, 40))));
  }
  const std::string gate = reader->text_or("output_gate_type", "silu");
  if (gate != "silu" && gate != "swish") {
    reader->fail(unsupported(fmt::format("output_gate_type \"{}\" (only silu, also spelt swish)", gate.substr(0, 40))));
  }
}

void read_eos(Reader* reader, ModelConfig* config) {
  const value* eos = reader->find("eos_token_id");
  if (eos == nullptr) return;
  if (!eos->is_array()) {
    config->eos_ids.push_back(reader->checked(*eos, "eos_token_id", 0, config->vocabulary - 1));
    return;
  }
  if (static_cast<int64_t>(eos->get_array().size()) > kEosMax) {
    return reader->fail_value("eos_token_id", fmt::format("has more than {} ids", kEosMax));
  }
  for (const value& id : eos->get_array()) {
    config->eos_ids.push_back(reader->checked(id, "eos_token_id", 0, config->vocabulary - 1));
  }
}

void read_quantization(Reader* reader, ModelConfig* config) {
  const value* found = reader->find("quantization_config");
  if (found == nullptr) return;
  const object* quant = found->if_object();
  const value* method = quant == nullptr ? nullptr : Reader::find_in(*quant, "quant_method");
  if (method == nullptr || !method->is_string()) {
    return reader->fail_value("quantization_config", "must be an object with a quant_method");
  }
  if (method->get_string() == "quark") {
    config->quant_method = QuantMethod::kQuark;
    return;
  }
  if (method->get_string() != "fp8") {
    return reader->fail(unsupported(
        fmt::format("quant_method \"{}\" (only fp8 and quark)", std::string(method->get_string()).substr(0, 40))));
  }
  config->quant_method = QuantMethod::kFp8;
  const value* block = Reader::find_in(*quant, "weight_block_size");
  if (block != nullptr && *block != value({128, 128})) {
    reader->fail(unsupported("weight_block_size other than [128, 128]"));
  }
  const value* format = Reader::find_in(*quant, "fmt");
  if (format != nullptr && *format != value("e4m3")) reader->fail(unsupported("FP8 fmt other than e4m3"));
}

void read_attention(Reader* reader, ModelConfig* config) {
  config->heads = reader->integer("num_attention_heads", 1, kHeadsMax);
  config->kv_heads = reader->integer_or("num_key_value_heads", 1, kHeadsMax, config->heads);
  config->head_dim = reader->integer("head_dim", 2, kHeadDimMax);
  config->gdn_key_heads = reader->integer("linear_num_key_heads", 1, kHeadsMax);
  config->gdn_value_heads = reader->integer("linear_num_value_heads", 1, kHeadsMax);
  config->gdn_key_dim = reader->integer("linear_key_head_dim", 1, kHeadDimMax);
  config->gdn_value_dim = reader->integer("linear_value_head_dim", 1, kHeadDimMax);
  config->conv_width = reader->integer_or("linear_conv_kernel_dim", 1, kHeadDimMax, kConvWidth);
  if (config->heads % config->kv_heads != 0) {
    reader->fail_value("num_attention_heads", fmt::format("({}) must be a multiple of num_key_value_heads ({})",
                                                          config->heads, config->kv_heads));
  }
  if (config->gdn_value_heads % config->gdn_key_heads != 0) {
    reader->fail_value("linear_num_value_heads", fmt::format("({}) must be a multiple of linear_num_key_heads ({})",
                                                             config->gdn_value_heads, config->gdn_key_heads));
  }
  if (config->conv_width != kConvWidth) {
    reader->fail(unsupported(fmt::format("linear_conv_kernel_dim {} (only {})", config->conv_width, kConvWidth)));
  }
}

void read_mtp(Reader* reader, ModelConfig* config) {
  const int64_t next = reader->integer_or("num_nextn_predict_layers", 0, kLayersMax, 0);
  config->mtp_layers = reader->integer_or("mtp_num_hidden_layers", 0, kLayersMax, next);
  if (config->mtp_layers > 1) {
    reader->fail(unsupported(fmt::format("mtp_num_hidden_layers {} (at most 1)", config->mtp_layers)));
  }
}

// Tied if either level says so: the outer class writes its own default beside the text model's value.
bool read_tied(Reader* reader, const object& outer, const object& text) {
  bool tied = false;
  for (const object* level : {&outer, &text}) {
    const value* found = Reader::find_in(*level, "tie_word_embeddings");
    if (found == nullptr) continue;
    if (!found->is_bool()) reader->fail_value("tie_word_embeddings", "must be true or false");
    tied = tied || (found->is_bool() && found->get_bool());
  }
  return tied;
}

Result<ModelConfig> read_config(const object& outer) {
  const value* nested = Reader::find_in(outer, "text_config");
  if (nested != nullptr && !nested->is_object()) {
    return invalid("config.json: text_config must be an object");
  }
  const object& text = nested == nullptr ? outer : nested->get_object();
  const value* type = Reader::find_in(outer, "model_type");
  if (type == nullptr || !type->is_string()) {
    return invalid("config.json: model_type is missing");
  }
  ModelConfig config;
  config.model_type = std::string(type->get_string());
  const value* text_type = Reader::find_in(text, "model_type");
  for (const value* each : {type, text_type}) {
    if (each == nullptr) continue;
    const std::string_view name = each->is_string() ? std::string_view(each->get_string()) : std::string_view();
    const std::optional<ModelFamily> family = family_of(name);
    if (!family || (each != type && *family != config.family)) {
      return unsupported(fmt::format("model_type \"{}\"", name.substr(0, 40)));
    }
    config.family = *family;
  }
  config.prefix = nested == nullptr ? "model." : "model.language_model.";
  const value* architectures = Reader::find_in(outer, "architectures");
  if (architectures != nullptr && architectures->is_array() && !architectures->get_array().empty() &&
      architectures->get_array()[0].is_string()) {
    config.architecture = std::string(architectures->get_array()[0].get_string()).substr(0, 80);
  }

  Reader reader(outer, text);
  config.hidden = reader.integer("hidden_size", 1, kWidthMax);
  config.vocabulary = reader.integer("vocab_size", 1, kVocabularyMax);
  config.max_positions = reader.integer("max_position_embeddings", 1, kPositionsMax);
  const value* eps = reader.find("rms_norm_eps");
  config.rms_eps = eps == nullptr ? 1e-6f : static_cast<float>(reader.real(*eps, "rms_norm_eps", 1e-12, 1e-1));
  config.tied = read_tied(&reader, outer, text);
  read_layers(&reader, &config);
  read_attention(&reader, &config);
  read_rope(&reader, &config);
  read_mlp(&reader, &config);
  refuse_unserved(&reader);
  read_eos(&reader, &config);
  read_mtp(&reader, &config);
  read_quantization(&reader, &config);
  if (reader.failure()) return *reader.failure();
  return config;
}

}  // namespace

int64_t ModelConfig::count_layers(LayerKind kind) const {
  return std::count(layers.begin(), layers.end(), kind);
}

std::string_view model_family_name(ModelFamily family) {
  switch (family) {
    case ModelFamily::kQwen35Moe:
      return "qwen3_5_moe";
    case ModelFamily::kQwen35:
      return "qwen3_5";
    case ModelFamily::kQwen3Next:
      return "qwen3_next";
  }
  return "";
}

Result<ModelConfig> parse_model_config(std::string_view json) {
  // A real file has a few kilobytes; an excluded-modules list of the largest quantised model about three megabytes.
  constexpr size_t kBytesMax = 32u << 20;
  if (json.size() > kBytesMax) return make_error(ErrorCode::kTooLarge, "config.json has {} bytes", json.size());
  if (Status status = check_json(json); !status.ok()) return in_context(std::move(status).error(), "config.json");
  boost::json::error_code error;
  const value document = boost::json::parse({json.data(), json.size()}, error);
  if (error || !document.is_object()) {
    return invalid("config.json must hold an object");
  }
  return read_config(document.get_object());
}

Result<ModelConfig> read_model_config(const std::string& directory) {
  const std::string path = directory + "/config.json";
  Result<std::unique_ptr<MappedFile>> file = MappedFile::open(path);
  if (!file.ok()) {
    return with_remedy(std::move(file).error(), "a checkpoint is a folder with config.json and .safetensors files");
  }
  const std::span<const std::byte> bytes = (*file)->bytes();
  Result<ModelConfig> config = parse_model_config({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
  if (!config.ok()) return in_context(std::move(config).error(), path);
  return config;
}

}  // namespace weir
