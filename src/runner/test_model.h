// Which device the tests of whole models run on: WEIR_TEST_DEVICE=cuda[:N], or the CPU.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "models/draft_head.h"
#include "models/weights.h"
#include "runner/cpu_model.h"
#include "runner/gpu_model.h"
#include "weights/checkpoint.h"

namespace weir {

inline constexpr int kTestThreads = 2;

// With `threads` of the host.
inline Result<std::unique_ptr<Model>> make_test_model(const ModelConfig& config, const ModelWeights& weights,
                                                      int64_t positions, int threads = kTestThreads) {
  CpuOptions options;
  options.threads = threads;
  const char* device = std::getenv("WEIR_TEST_DEVICE");
  const std::string name = device == nullptr ? "cpu" : device;
  if (name.starts_with("cuda")) {
    const int index = name.size() > 5 ? std::atoi(name.c_str() + 5) : 0;
    WEIR_ASSIGN_OR_RETURN(auto opened, device::Device::open(index, gpu_kernel_images()));
    WEIR_ASSIGN_OR_RETURN(auto model, GpuModel::create(std::move(opened), config, weights, options, positions));
    return std::unique_ptr<Model>(std::move(model));
  }
  return std::unique_ptr<Model>(CpuModel::create(config, weights, options, positions));
}

// The name of a test of the model that is its parameter.
struct ModelTestName {
  template <class Info>
  std::string operator()(const Info& info) const {
    std::string name = info.param;
    std::replace(name.begin(), name.end(), '-', '_');
    std::replace(name.begin(), name.end(), ' ', '_');
    std::replace(name.begin(), name.end(), '/', '_');
    return name;
  }
};

inline bool tests_use_gpu() {
  const char* device = std::getenv("WEIR_TEST_DEVICE");
  return device != nullptr && std::string_view(device) != "cpu";
}

// One of them with a draft head that the tests' device can run beside sequences.
inline const char* golden_with_drafts() {
  return tests_use_gpu() ? "moe-fit" : "moe-odd";
}

// "<name>"; "<name> fp8": with pages of FP8; "<name> w8a8": with rows of prompts as FP8 codes, on a GPU alone.
struct GoldenName {
  std::string name;
  bool fp8 = false;
  bool w8a8 = false;
};
inline GoldenName golden_name(const std::string& text) {
  const size_t space = text.find(' ');
  return {text.substr(0, space), text.ends_with(" fp8"), text.ends_with(" w8a8")};
}

// The checkpoint tests/data/goldens/<name>, or the folder <name> if that is a path, of a golden_name(); its drafts
// drawn among `draft_ids`, if there are any.
inline Result<std::unique_ptr<Model>> load_golden_model(const std::string& text_of_name, int64_t positions,
                                                        const std::vector<TokenId>& draft_ids = {},
                                                        int threads = kTestThreads) {
  const auto [name, fp8, w8a8] = golden_name(text_of_name);
  const std::string folder = name.find('/') == std::string::npos ? "tests/data/goldens/" + name : name;
  std::ifstream file(folder + "/config.json");
  std::stringstream text;
  text << file.rdbuf();
  WEIR_ASSIGN_OR_RETURN(auto config, parse_model_config(text.str()));
  if (fp8) config.kv_format = KvFormat::kFp8;
  if (w8a8) config.prefill_activations = PrefillActivations::kFp8;
  WEIR_ASSIGN_OR_RETURN(const auto checkpoint, Checkpoint::open(folder));
  WEIR_ASSIGN_OR_RETURN(auto weights, load_weights(config, *checkpoint));
  if (!draft_ids.empty()) {
    ThreadPool pool({.threads = threads});
    add_draft_head(&weights, draft_ids, &pool);
  }
  return make_test_model(config, weights, positions, threads);
}

}  // namespace weir
