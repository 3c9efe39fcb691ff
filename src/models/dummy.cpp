// Random weights of any real shape. Codes are made from random bits directly: a sign, a fixed exponent and a random
// mantissa, so that a value is uniform in +-[1, 2) times a power of two and a gigabyte takes a fraction of a second.
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstring>
#include <thread>
#include <utility>
#include <vector>

#include "models/weights.h"
#include "tensor/bf16.h"

namespace weir {
namespace {

// Values uniform in +-[1, 2) have a root mean square of sqrt(7/3); FP8 mantissas stop at 1.875: sqrt(2.25 + 0.0547).
constexpr float kBf16Rms = 1.5275f;
constexpr float kFp8Rms = 1.466f;
// Root mean square of the 16 E2M1 values.
constexpr float kE2M1Rms = 2.9047f;
// What writes into the residual stream is scaled down, so that the embedding, which is independent from token to token,
// stays the larger part of it: otherwise all rows grow alike and choose the same experts.
constexpr float kWriterGain = 0.3f;
// Logits with a standard deviation of two: neither flat nor a single winner.
constexpr float kHeadGain = 2.0f;
// The unit of work of one thread: large enough to hide its start, small enough to share one big tensor.
constexpr int64_t kChunkBytes = 4 << 20;

constexpr int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

// splitmix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014): used to seed.
constexpr uint64_t mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

// Sixteen xorshift32 generators (Marsaglia, "Xorshift RNGs", 2003) in step: the compiler turns the loops into vectors.
class Lanes {
 public:
  explicit Lanes(uint64_t seed) {
    for (uint32_t& state : states_) {
      seed = mix(seed);
      state = static_cast<uint32_t>(seed) | 1u;  // zero is the one state that never leaves itself
    }
  }
  const std::array<uint32_t, 16>& next() {
    for (uint32_t& state : states_) {
      state ^= state << 13;
      state ^= state >> 17;
      state ^= state << 5;
    }
    return states_;
  }

 private:
  std::array<uint32_t, 16> states_;
};

// Random words, masked, plus fixed ones; bytes of scales do not carry.
struct FillJob {
  std::byte* data = nullptr;
  int64_t bytes = 0;
  uint64_t seed = 0;
  uint32_t keep = 0;
  uint32_t fixed = 0;
};

void run_job(const FillJob& job) {
  Lanes lanes(job.seed);
  std::array<uint32_t, 16> block = {};
  for (int64_t done = 0; done < job.bytes; done += static_cast<int64_t>(sizeof(block))) {
    const std::array<uint32_t, 16>& random = lanes.next();
    for (size_t i = 0; i < block.size(); ++i) block[i] = (random[i] & job.keep) + job.fixed;
    const int64_t left = std::min(job.bytes - done, static_cast<int64_t>(sizeof(block)));
    std::memcpy(job.data + done, block.data(), static_cast<size_t>(left));
  }
}

// BF16 codes of +-[1, 2) * 2^exponent, two to a word.
uint32_t bf16_fixed(int exponent) {
  const auto field = static_cast<uint32_t>(exponent + 127) << 7;
  return field | field << 16;
}

class DummyMaker {
 public:
  DummyMaker(const ModelConfig& config, WeightFormat format, uint64_t seed)
      : config_(config), format_(format), seed_(seed) {
    // Loaded qwen3_next weights look like the others': only the checkpoint interleaves them.
    if (config_.family == ModelFamily::kQwen3Next) config_.family = ModelFamily::kQwen35Moe;
  }

  ModelWeights shapes(bool mtp) {
    weights_ = empty_weights(config_, mtp);
    BindingVariant variant;
    variant.mtp = mtp;
    for (const Binding& binding : make_bindings(config_, variant)) {
      if (binding.rule == DTypeRule::kVector) {
        const int64_t count = binding.shape.elements();
        *find_vector(&weights_, binding.slot, binding.layer) = {nullptr, count};
        weights_.total_bytes += count * dtype_bytes(DType::kF32);
      } else {
        const WeightMatrix matrix = matrix_shape(binding);
        *find_matrix(&weights_, binding.slot, binding.layer, binding.expert) = matrix;
        weights_.total_bytes += matrix.bytes();
      }
    }
    if (config_.tied) weights_.lm_head = weights_.embed;
    return std::move(weights_);
  }

  ModelWeights make(bool mtp) {
    weights_ = empty_weights(config_, mtp);
    BindingVariant variant;
    variant.mtp = mtp;
    for (const Binding& binding : make_bindings(config_, variant)) {
      if (binding.rule == DTypeRule::kVector) {
        make_vector(binding);
      } else {
        make_matrix(binding);
      }
    }
    if (config_.tied) weights_.lm_head = weights_.embed;
    run_jobs();
    weights_.total_bytes = weights_.store.bytes();
    return std::move(weights_);
  }

 private:
  uint64_t next_seed() { return mix(seed_ ^ (++count_ * 0x9e3779b97f4a7c15u)); }

  // Reads as "float uniform in [low, high)".
  void fill_floats(std::span<float> values, float low, float high) {
    uint64_t state = next_seed();
    for (float& value : values) {
      state = mix(state);
      value = low + (high - low) * static_cast<float>(state >> 40) * 0x1p-24f;
    }
  }

  void make_vector(const Binding& binding) {
    const int64_t count = binding.shape.elements();
    auto* values = reinterpret_cast<float*>(weights_.store.allocate(count * dtype_bytes(DType::kF32)).data());
    const std::span<float> span(values, static_cast<size_t>(count));
    switch (binding.slot) {
      case Slot::kGdnALog:  // decay rates e^A of 1 to 16
        fill_floats(span, 0.0f, 2.77f);
        break;
      case Slot::kGdnDtBias:  // softplus of these: time steps of 0.0015 to 0.08
        fill_floats(span, -6.5f, -2.5f);
        break;
      case Slot::kGdnNorm:  // plain weight around one
        fill_floats(span, 0.875f, 1.125f);
        break;
      case Slot::kGdnConv:  // four taps that keep the size of their input
        fill_floats(span, -0.87f, 0.87f);
        break;
      default:  // zero-centred norms
        fill_floats(span, -0.125f, 0.125f);
    }
    *find_vector(&weights_, binding.slot, binding.layer) = {values, count};
  }

  // The standard deviation of a matrix's elements.
  float deviation(const Binding& binding) const {
    const auto k = static_cast<float>(binding.shape[1]);
    switch (binding.slot) {
      case Slot::kEmbed:
        return config_.tied ? kHeadGain / std::sqrt(k) : 1.0f;
      case Slot::kLmHead:
        return kHeadGain / std::sqrt(k);
      case Slot::kGdnOut:
      case Slot::kAttnO:
      case Slot::kSharedDownProj:
      case Slot::kExpertDown:
      case Slot::kDenseDown:
        return kWriterGain / std::sqrt(k);
      default:
        return 1.0f / std::sqrt(k);
    }
  }

  WeightFormat chosen_format(const Binding& binding) const {
    const StorageLayout layout = format_ == WeightFormat::kFp8Block ? StorageLayout::kFp8Block
                                 : format_ == WeightFormat::kMxfp4  ? StorageLayout::kMxfp4
                                                                    : StorageLayout::kBf16;
    const WeightFormat format = stored_format(layout, binding.slot, binding.layer);
    const bool fits = format != WeightFormat::kMxfp4 || binding.shape[1] % kMxfp4Group == 0;
    return fits ? format : WeightFormat::kBf16;
  }

  WeightMatrix matrix_shape(const Binding& binding) const {
    WeightMatrix matrix;
    matrix.n = binding.shape[0];
    matrix.k = binding.shape[1];
    matrix.format = chosen_format(binding);
    switch (matrix.format) {
      case WeightFormat::kFp8Block:
        matrix.row_bytes = matrix.k;
        matrix.scale_dtype = DType::kBf16;
        matrix.scale_stride = ceil_div(matrix.k, kFp8Block);
        break;
      case WeightFormat::kMxfp4:
        matrix.row_bytes = matrix.k / 2;
        matrix.scale_dtype = DType::kU8;
        matrix.scale_stride = matrix.k / kMxfp4Group;
        break;
      default:
        matrix.row_bytes = 2 * matrix.k;
    }
    return matrix;
  }

  void make_matrix(const Binding& binding) {
    WeightMatrix matrix = matrix_shape(binding);
    const float wanted = deviation(binding);
    switch (matrix.format) {
      case WeightFormat::kFp8Block:
        // Sign and mantissa random, exponent 7 (bias 7): +-[1, 1.875].
        matrix.data = add_data(matrix.n * matrix.row_bytes, 0x87878787u, 0x38383838u);
        add_block_scales(&matrix, wanted / kFp8Rms);
        break;
      case WeightFormat::kMxfp4:
        matrix.data = add_data(matrix.n * matrix.row_bytes, 0xffffffffu, 0);
        add_group_scales(&matrix, wanted / kE2M1Rms);
        break;
      default:
        matrix.data = add_data(matrix.n * matrix.row_bytes, 0x807f807fu,
                               bf16_fixed(static_cast<int>(std::lround(std::log2(wanted / kBf16Rms)))));
    }
    *find_matrix(&weights_, binding.slot, binding.layer, binding.expert) = matrix;
  }

  const std::byte* add_data(int64_t bytes, uint32_t keep, uint32_t fixed) {
    std::byte* data = weights_.store.allocate(bytes).data();
    const uint64_t seed = next_seed();
    for (int64_t done = 0; done < bytes; done += kChunkBytes) {
      const auto chunk = static_cast<uint64_t>(done / kChunkBytes);
      jobs_.push_back({data + done, std::min(kChunkBytes, bytes - done), mix(seed ^ chunk), keep, fixed});
    }
    return data;
  }

  // Scales differ from block to block, so that a misplaced one shows.
  void add_block_scales(WeightMatrix* matrix, float scale) {
    const int64_t count = ceil_div(matrix->n, kFp8Block) * matrix->scale_stride;
    auto* scales = reinterpret_cast<uint16_t*>(weights_.store.allocate(count * dtype_bytes(DType::kBf16)).data());
    std::vector<float> values(static_cast<size_t>(count));
    fill_floats(values, 0.75f * scale, 1.25f * scale);
    for (size_t i = 0; i < values.size(); ++i) scales[i] = float_to_bf16(values[i]);
    matrix->scales = reinterpret_cast<const std::byte*>(scales);
  }

  // Powers of two: 2^e or twice that, at random.
  void add_group_scales(WeightMatrix* matrix, float scale) {
    const int64_t bytes = matrix->n * matrix->scale_stride;
    // The mean square of a half and a half of {2^e, 2^(e-1)} is that of 2^(e - 0.34).
    const auto exponent = static_cast<uint32_t>(std::lround(std::log2(scale) + 0.34f) + 127 - 1);
    matrix->scales = add_data(bytes, 0x01010101u, exponent * 0x01010101u);
  }

  // Which thread runs a job does not matter: each has its own seed.
  void run_jobs() {
    std::atomic<size_t> next = 0;
    const auto work = [&] {
      for (size_t i = next++; i < jobs_.size(); i = next++) run_job(jobs_[i]);
    };
    const size_t helpers = std::min<size_t>(std::max(1u, std::thread::hardware_concurrency()), jobs_.size());
    std::vector<std::jthread> threads;
    for (size_t i = 1; i < helpers; ++i) threads.emplace_back(work);
    work();
  }

  ModelConfig config_;
  WeightFormat format_;
  uint64_t seed_;
  uint64_t count_ = 0;
  ModelWeights weights_;
  std::vector<FillJob> jobs_;
};

Status check_dummy_format(WeightFormat format) {
  if (format == WeightFormat::kBf16 || format == WeightFormat::kFp8Block || format == WeightFormat::kMxfp4) return Ok{};
  return make_error(ErrorCode::kUnsupported, "dummy weights come as BF16, FP8 128x128 or MXFP4, not as {}",
                    weight_format_name(format));
}

}  // namespace

Result<ModelWeights> dummy_shapes(const ModelConfig& config, WeightFormat format, bool mtp) {
  WEIR_RETURN_IF_ERROR(check_dummy_format(format));
  return DummyMaker(config, format, 0).shapes(mtp);
}

Result<ModelWeights> dummy_weights(const ModelConfig& config, WeightFormat format, uint64_t seed, bool mtp) {
  WEIR_ASSIGN_OR_RETURN(const ModelWeights shapes, dummy_shapes(config, format, mtp));
  const auto bytes = static_cast<double>(shapes.total_bytes);
  const double memory = static_cast<double>(::sysconf(_SC_PHYS_PAGES)) * static_cast<double>(::sysconf(_SC_PAGE_SIZE));
  if (bytes > memory) {
    return with_remedy(make_error(ErrorCode::kTooLarge, "dummy weights of about {:.1f} GB in {:.1f} GB of memory",
                                  bytes / 1e9, memory / 1e9),
                       "choose a smaller format or fewer layers");
  }
  return DummyMaker(config, format, seed).make(mtp);
}

}  // namespace weir
