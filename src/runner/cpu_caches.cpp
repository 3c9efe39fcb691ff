#include "runner/cpu_caches.h"

#include <sys/mman.h>

#include <cstring>
#include <utility>

#include "base/check.h"
#include "base/planted.h"
#include "ops/gdn/gdn.h"
#include "runner/cpu_weights.h"

namespace weir {

Result<ReservedBytes> ReservedBytes::reserve(int64_t bytes) {
  ReservedBytes out;
  if (bytes == 0) return out;
  void* data = mmap(nullptr, static_cast<size_t>(bytes), PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (data == MAP_FAILED) {
    return with_remedy(make_error(ErrorCode::kExhausted, "cannot reserve {} MiB for caches", bytes >> 20),
                       "lower --kv-cache-memory-bytes, --max-num-seqs or --max-model-len");
  }
  out.data_ = static_cast<std::byte*>(data);
  out.size_ = bytes;
  return out;
}

ReservedBytes::ReservedBytes(ReservedBytes&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

ReservedBytes& ReservedBytes::operator=(ReservedBytes&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

ReservedBytes::~ReservedBytes() {
  if (data_ != nullptr) munmap(data_, static_cast<size_t>(size_));
}

CacheLayout cache_layout(const ModelConfig& config, const CacheSizes& sizes, bool draft_kv) {
  CacheLayout layout;
  layout.classes.push_back({"kv", config.count_layers(LayerKind::kFull) * sizes.kv_page_bytes, kGridTokens});
  if (draft_kv) layout.classes.push_back({"draft kv", sizes.kv_page_bytes, kGridTokens});
  layout.state_slot_bytes = config.count_layers(LayerKind::kLinear) * sizes.gdn_slot_bytes;
  if (draft_kv) {
    layout.hidden_ring_bytes = round_up(kHiddenRing * config.hidden * static_cast<int64_t>(sizeof(float)), kCacheLine);
    layout.state_slot_bytes += layout.hidden_ring_bytes;
  }
  return layout;
}

Result<CpuCaches> CpuCaches::create(const ModelConfig& config, const CacheLayout& layout,
                                    const std::vector<int32_t>& pages, int32_t slots) {
  CpuCaches caches;
  caches.config_ = &config;
  caches.places_ = CachePlaces(layout, pages, slots);
  caches.slot_bytes_ = layout.state_slot_bytes;
  caches.gdn_bytes_ = layout.state_slot_bytes - layout.hidden_ring_bytes;
  WEIR_ASSIGN_OR_RETURN(caches.memory_, ReservedBytes::reserve(caches.places_.bytes()));
  return caches;
}

std::byte* CpuCaches::page(PageClassId page_class, PageId page) const {
  return memory_.data() + places_.page(page_class, page);
}

std::byte* CpuCaches::slot(StateSlotId slot) const {
  return gdn_bytes_ == 0 ? nullptr : memory(slot);
}

float* CpuCaches::hidden_row(StateSlotId slot, int64_t position) const {
  if (slot_bytes_ == gdn_bytes_) return nullptr;
  return reinterpret_cast<float*>(memory(slot) + gdn_bytes_) + position % kHiddenRing * config_->hidden;
}

std::byte* CpuCaches::memory(StateSlotId slot) const {
  return memory_.data() + places_.slot(slot);
}

void CpuCaches::zero_slot(StateSlotId id) {
  if (slot_bytes_ == 0) return;
  const GdnShape shape = gdn_shape(*config_);
  for (int64_t offset = 0; offset < gdn_bytes_; offset += gdn_slot_bytes(shape)) {
    if (planted(PlantedBug::kStateNotZeroed)) {
      std::memset(memory(id) + offset, 0, kCacheLine);  // the slot's position alone
    } else {
      gdn_zero_slot(shape, memory(id) + offset);
    }
  }
  std::memset(memory(id) + gdn_bytes_, 0, static_cast<size_t>(slot_bytes_ - gdn_bytes_));
}

void CpuCaches::copy_page(PageClassId page_class, PageId from, PageId to) {
  std::memcpy(page(page_class, to), page(page_class, from), static_cast<size_t>(places_.page_bytes(page_class)));
}

void CpuCaches::copy_slot(StateSlotId from, StateSlotId to) {
  if (slot_bytes_ == 0) return;
  std::memcpy(memory(to), memory(from), static_cast<size_t>(slot_bytes_));
}

}  // namespace weir
