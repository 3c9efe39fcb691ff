#include "ops/cpu/cpu.h"

#include <cstdlib>
#include <cstring>
#include <new>

#include "base/check.h"
#include "ops/cpu/kernel_table.h"

namespace weir {
namespace {

const KernelTable* table_of(Isa isa) {
  WEIR_CHECK(isa_supported(isa), "this machine does not run {} code", isa_name(isa));
#if defined(__x86_64__)
  if (isa == Isa::kAvx512) return &avx512::kKernels;
  if (isa == Isa::kAvx2) return &avx2::kKernels;
#endif
  return &scalar::kKernels;
}

ThreadPool::Options pool_options(const CpuOptions& options) {
  ThreadPool::Options pool;
  pool.threads = options.threads > 0 ? options.threads : ThreadPool::available_cpus();
  pool.pin = options.pin;
  return pool;
}

}  // namespace

AlignedBytes::AlignedBytes(int64_t size) : size_(size) {
  if (size == 0) return;
  WEIR_CHECK(size > 0, "{} bytes", size);
  const auto rounded = static_cast<size_t>(round_up(size, kCacheLine));
  // calloc leaves large ranges to the system's zero pages: buffers for steps that never come cost nothing. What it
  // returned stands in front of the aligned range.
  auto* raw = static_cast<std::byte*>(std::calloc(rounded + kCacheLine + sizeof(void*), 1));
  if (raw == nullptr) throw std::bad_alloc();
  const auto first = reinterpret_cast<uintptr_t>(raw) + sizeof(void*);
  auto* data = raw + (sizeof(void*) + (kCacheLine - first % kCacheLine) % kCacheLine);
  std::memcpy(data - sizeof(void*), static_cast<const void*>(&raw), sizeof(void*));
  data_.reset(data);
}

void AlignedBytes::Free::operator()(std::byte* data) const {
  void* raw = nullptr;
  std::memcpy(static_cast<void*>(&raw), data - sizeof(void*), sizeof(void*));
  std::free(raw);
}

Cpu::Cpu(const CpuOptions& options)
    : pool_(pool_options(options)), isa_(options.isa.value_or(best_isa())), kernels_(table_of(isa_)) {}

void Cpu::reserve_scratch(int64_t bytes) {
  WEIR_CHECK(scratch_used_ == 0, "scratch is in use");
  if (bytes > scratch_.size()) scratch_ = AlignedBytes(bytes);
}

std::byte* Cpu::Frame::take_bytes(int64_t bytes) {
  const int64_t begin = cpu_.scratch_used_;
  const int64_t end = begin + round_up(bytes, kCacheLine);
  WEIR_CHECK(end <= round_up(cpu_.scratch_.size(), kCacheLine), "scratch of {} bytes where {} are needed",
             cpu_.scratch_.size(), end);
  cpu_.scratch_used_ = end;
  return cpu_.scratch_.data() + begin;
}

}  // namespace weir
