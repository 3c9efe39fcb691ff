#include "runner/gpu_caches.h"

#include <utility>

#include "ops/gdn/slot.h"

namespace weir {

Result<std::unique_ptr<GpuCaches>> GpuCaches::create(const CacheLayout& layout, const std::vector<int32_t>& pages,
                                                     int32_t slots, device::Device* device, device::Stream* stream) {
  std::unique_ptr<GpuCaches> caches(new GpuCaches());
  caches->stream_ = stream;
  caches->places_ = CachePlaces(layout, pages, slots);
  caches->slot_bytes_ = layout.state_slot_bytes;
  caches->gdn_bytes_ = layout.state_slot_bytes - layout.hidden_ring_bytes;
  WEIR_ASSIGN_OR_RETURN(caches->memory_,
                        device->allocate(caches->places_.bytes(), "pages and state slots",
                                         "lower --kv-cache-memory-bytes, --max-num-seqs or --max-model-len"));
  caches->bases_.resize(static_cast<size_t>(slots));
  return caches;
}

std::byte* GpuCaches::page(PageClassId page_class, PageId page) const {
  return memory_.data() + places_.page(page_class, page);
}

std::byte* GpuCaches::slot(StateSlotId slot) const {
  return gdn_bytes_ == 0 ? nullptr : memory(slot);
}

std::byte* GpuCaches::memory(StateSlotId slot) const {
  return memory_.data() + places_.slot(slot);
}

void GpuCaches::zero_slot(StateSlotId id) {
  if (slot_bytes_ == 0) return;
  stream_->zero(memory(id), slot_bytes_);
  bases_[id.index()] = 0;
}

void GpuCaches::copy_page(PageClassId page_class, PageId from, PageId to) {
  stream_->copy(page(page_class, to), page(page_class, from), places_.page_bytes(page_class));
}

void GpuCaches::copy_slot(StateSlotId from, StateSlotId to) {
  if (slot_bytes_ == 0) return;
  stream_->copy(memory(to), memory(from), slot_bytes_);
  bases_[to.index()] = bases_[from.index()];
}

void GpuCaches::advance(const std::byte* slot, int64_t position) {
  bases_[index(slot)] = gdn_base_before(position);
}

}  // namespace weir
