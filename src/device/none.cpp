// device.h in a build without kernels for any accelerator: it says so, and nothing can be opened.
#include "base/check.h"
#include "device/device.h"

namespace weir::device {
namespace {

Error no_kernels() {
  return with_remedy(make_error(ErrorCode::kUnsupported, "this program was built without GPU kernels"),
                     "install the CUDA toolkit (nvcc 13) and build again, or run on the CPU with --device cpu");
}

[[noreturn]] void unreachable() {
  check_failed(__FILE__, __LINE__, "false", "a device object in a build without devices");
}

}  // namespace

struct Device::Impl {};

Bytes::Bytes(Bytes&&) noexcept = default;
Bytes& Bytes::operator=(Bytes&&) noexcept = default;
Bytes::~Bytes() = default;
PinnedBytes::PinnedBytes(PinnedBytes&&) noexcept = default;
PinnedBytes& PinnedBytes::operator=(PinnedBytes&&) noexcept = default;
PinnedBytes::~PinnedBytes() = default;
Event::Event(Event&&) noexcept = default;
Event& Event::operator=(Event&&) noexcept = default;
Event::~Event() = default;
Status Event::wait() const {
  unreachable();
}
bool Event::passed() const {
  unreachable();
}
double Event::micros_since(const Event&) const {
  unreachable();
}
Graph::Graph(Graph&&) noexcept = default;
Graph& Graph::operator=(Graph&&) noexcept = default;
Graph::~Graph() = default;
Stream::Stream(Stream&&) noexcept = default;
Stream& Stream::operator=(Stream&&) noexcept = default;
Stream::~Stream() = default;
void Stream::copy_in(std::byte*, const void*, int64_t) {
  unreachable();
}
void Stream::copy_out(void*, const std::byte*, int64_t) {
  unreachable();
}
void Stream::copy(std::byte*, const std::byte*, int64_t) {
  unreachable();
}
void Stream::zero(std::byte*, int64_t) {
  unreachable();
}
void Stream::record(Event*) {
  unreachable();
}
void Stream::wait_for(const Event&) {
  unreachable();
}
void Stream::begin_graph() {
  unreachable();
}
Result<Graph> Stream::end_graph() {
  unreachable();
}
void Stream::replay(const Graph&) {
  unreachable();
}
Status Stream::wait() {
  unreachable();
}
void Stream::note_moment() {
  unreachable();
}
void Stream::launch_raw(const Kernel&, const Grid&, const void*) {
  unreachable();
}

Result<std::vector<DeviceInfo>> Device::list() {
  return no_kernels();
}
Result<std::unique_ptr<Device>> Device::open(int, std::span<const KernelImage>) {
  return no_kernels();
}
Device::~Device() = default;
const DeviceInfo& Device::info() const {
  unreachable();
}
int64_t Device::free_bytes() const {
  unreachable();
}
Result<Bytes> Device::allocate(int64_t, std::string_view, std::string_view) {
  unreachable();
}
Result<PinnedBytes> Device::allocate_pinned(int64_t, std::string_view) {
  unreachable();
}
Stream Device::stream() {
  unreachable();
}
Event Device::event() {
  unreachable();
}
Kernel Device::kernel(std::string_view) {
  unreachable();
}

}  // namespace weir::device
