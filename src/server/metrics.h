// What /metrics serves: counters and histograms under the names that dashboards, routers and autoscalers of vLLM read.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/stats.h"

namespace weir {

// A histogram in Prometheus' sense. Written and read on the event loop's thread alone.
class Histogram {
 public:
  // `bounds` ascending; the bucket +Inf is implied.
  explicit Histogram(std::vector<double> bounds);
  void observe(double value, int64_t times = 1);
  std::span<const double> bounds() const { return bounds_; }
  // Observations at most bounds()[i]; the last element counts all.
  std::vector<int64_t> cumulative() const;
  int64_t count() const { return count_; }
  double sum() const { return sum_; }

 private:
  std::vector<double> bounds_;
  std::vector<int64_t> counts_;
  int64_t count_ = 0;
  double sum_ = 0;
};

// Writes the text exposition format, version 0.0.4.
class MetricsText {
 public:
  // Every sample carries `labels`, e.g. model_name="m",engine="0" (already escaped).
  // `with_vllm`: false leaves out families named vllm:*.
  explicit MetricsText(std::string labels, bool with_vllm = true) : labels_(std::move(labels)), with_vllm_(with_vllm) {}

  void gauge(std::string_view name, std::string_view help, double value, std::string_view extra = {});
  void counter(std::string_view name, std::string_view help, double value, std::string_view extra = {});
  // Opens a family whose samples follow by sample().
  void family(std::string_view name, std::string_view type, std::string_view help);
  void sample(std::string_view name, double value, std::string_view extra = {});
  void histogram(std::string_view name, std::string_view help, const Histogram& histogram);
  std::string take() { return std::move(out_); }

 private:
  bool skips(std::string_view name) const { return !with_vllm_ && name.starts_with("vllm:"); }

  std::string out_;
  std::string labels_;
  bool with_vllm_;
};

// A label value with backslash, quote and line feed escaped.
std::string escape_label(std::string_view value);

enum class Outcome : uint8_t { kStop, kLength, kAbort, kError };
inline constexpr size_t kOutcomeCount = 4;

// Times of one finished sequence, in seconds.
struct RequestTimes {
  double end_to_end = 0;
  double queue = 0;
  double prefill = 0;
  double decode = 0;
};

// Everything the server itself counts.
struct ServerMetrics {
  // `context_tokens` bounds the token histograms, as vLLM's do.
  explicit ServerMetrics(int64_t context_tokens);

  Histogram time_to_first_token;
  Histogram inter_token_latency;
  Histogram time_per_output_token;  // one value per request
  Histogram end_to_end;
  Histogram queue_time;
  Histogram prefill_time;
  Histogram decode_time;
  Histogram inference_time;
  Histogram prompt_tokens;
  Histogram generation_tokens;
  Histogram max_generation_tokens;
  Histogram params_max_tokens;
  Histogram params_n;
  std::array<int64_t, kOutcomeCount> finished{};
  int64_t prompt_tokens_total = 0;
  int64_t generation_tokens_total = 0;
  int64_t http_requests_total = 0;
  int64_t http_refused_total = 0;  // answered with 4xx or 5xx
  int64_t slow_readers_total = 0;  // streams cut off
  int64_t keep_alive_comments_total = 0;

  // A finished sequence.
  void finish(Outcome outcome, const RequestTimes& times, int64_t prompt, int64_t generated);
};

struct MetricsContext {
  std::string model_name;
  std::string version;
  int64_t block_size = 0;
  int64_t connections = 0;
  int64_t open_requests = 0;
  bool ready = false;
  bool with_vllm = true;
};

// The whole exposition.
std::string metrics_text(const ServerMetrics& metrics, const EngineStats& engine, const MetricsContext& context);

}  // namespace weir
