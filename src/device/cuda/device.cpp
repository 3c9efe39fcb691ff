// device.h on NVIDIA's driver API.
#include "device/device.h"

#include <array>
#include <cstring>
#include <map>
#include <utility>

#include "base/check.h"
#include "device/cuda/driver.h"

namespace weir::device {

struct Device::Impl {
  const Driver* driver = nullptr;
  DeviceInfo info;
  CUdevice handle = 0;
  CUcontext context = nullptr;
  std::vector<CUmodule> modules;
  std::map<std::string, CUfunction, std::less<>> functions;
};

namespace {

CUdeviceptr address(const std::byte* data) {
  return reinterpret_cast<CUdeviceptr>(data);
}

// A handle that moves with its device.
template <class Handle>
void take(Device*& device, Handle& handle, Device*& from_device, Handle& from) {
  std::swap(device, from_device);
  std::swap(handle, from);
}

DeviceInfo describe(const Driver& driver, int index) {
  DeviceInfo info;
  info.index = index;
  CUdevice handle = 0;
  driver.cuDeviceGet(&handle, index);
  std::array<char, 128> name{};
  driver.cuDeviceGetName(name.data(), static_cast<int>(name.size()) - 1, handle);
  info.name = name.data();
  const auto attribute = [&](CUdevice_attribute which) {
    int value = 0;
    driver.cuDeviceGetAttribute(&value, which, handle);
    return value;
  };
  info.major = attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR);
  info.minor = attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR);
  info.multiprocessors = attribute(CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT);
  info.l2_bytes = attribute(CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE);
  info.shared_bytes_max = attribute(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN);
  size_t bytes = 0;
  driver.cuDeviceTotalMem(&bytes, handle);
  info.memory_bytes = static_cast<int64_t>(bytes);
  return info;
}

// The driver with the device's context current on the calling thread, whichever that is.
const Driver& enter(const Device::Impl& impl) {
  impl.driver->cuCtxSetCurrent(impl.context);
  return *impl.driver;
}

// What a failed call asks of the reader: a fault of a kernel ends the device, other failures are of the call alone.
std::string remedy_of(CUresult result) {
  switch (result) {
    case CUDA_ERROR_OUT_OF_MEMORY:
      return "free the GPU's memory, or lower --max-num-seqs, --max-num-batched-tokens or --kv-cache-memory-bytes";
    case CUDA_ERROR_DEVICE_UNAVAILABLE:
    case CUDA_ERROR_DEVICE_NOT_LICENSED:
      return "another program holds the GPU for itself: end it, or choose another with --device cuda:N";
    case CUDA_ERROR_INVALID_VALUE:
    case CUDA_ERROR_INVALID_IMAGE:
    case CUDA_ERROR_NO_BINARY_FOR_GPU:
    case CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES:
      return "please report the command and the model: the kernels do not fit them";
    default:
      return "the device is unusable until the process ends; please report what was running";
  }
}

Error device_error(const Driver& driver, CUresult result, std::string_view what) {
  return with_remedy(make_error(ErrorCode::kInternal, "{}: {}", what, driver.text(result)), remedy_of(result));
}

// Enters a module's kernels by name, each with all the dynamic shared memory that the device allows.
void list_functions(Device::Impl& impl, CUmodule module) {
  unsigned count = 0;
  impl.driver->cuModuleGetFunctionCount(&count, module);
  std::vector<CUfunction> functions(count);
  impl.driver->cuModuleEnumerateFunctions(functions.data(), count, module);
  for (CUfunction function : functions) {
    const char* name = nullptr;
    int fixed = 0;
    impl.driver->cuFuncGetName(&name, function);
    impl.driver->cuFuncGetAttribute(&fixed, CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES, function);
    impl.driver->cuFuncSetAttribute(function, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                                    static_cast<int>(impl.info.shared_bytes_max) - fixed);
    impl.functions.emplace(name, function);
  }
}

}  // namespace

Bytes::Bytes(Bytes&& other) noexcept {
  *this = std::move(other);
}
Bytes& Bytes::operator=(Bytes&& other) noexcept {
  take(device_, data_, other.device_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}
Bytes::~Bytes() {
  if (data_ != nullptr) enter(*device_->impl()).cuMemFree(address(data_));
}

PinnedBytes::PinnedBytes(PinnedBytes&& other) noexcept {
  *this = std::move(other);
}
PinnedBytes& PinnedBytes::operator=(PinnedBytes&& other) noexcept {
  take(device_, data_, other.device_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}
PinnedBytes::~PinnedBytes() {
  if (data_ != nullptr) enter(*device_->impl()).cuMemFreeHost(data_);
}

Event::Event(Event&& other) noexcept {
  *this = std::move(other);
}
Event& Event::operator=(Event&& other) noexcept {
  take(device_, event_, other.device_, other.event_);
  return *this;
}
Event::~Event() {
  if (event_ != nullptr) enter(*device_->impl()).cuEventDestroy(static_cast<CUevent>(event_));
}

Status Event::wait() const {
  const Driver& driver = enter(*device_->impl());
  const CUresult result = driver.cuEventSynchronize(static_cast<CUevent>(event_));
  if (result != CUDA_SUCCESS) return device_error(driver, result, "waiting for the device");
  return Ok{};
}

bool Event::passed() const {
  return enter(*device_->impl()).cuEventQuery(static_cast<CUevent>(event_)) != CUDA_ERROR_NOT_READY;
}

double Event::micros_since(const Event& earlier) const {
  float millis = 0;
  enter(*device_->impl())
      .cuEventElapsedTime(&millis, static_cast<CUevent>(earlier.event_), static_cast<CUevent>(event_));
  return static_cast<double>(millis) * 1e3;
}

Graph::Graph(Graph&& other) noexcept {
  *this = std::move(other);
}
Graph& Graph::operator=(Graph&& other) noexcept {
  take(device_, graph_, other.device_, other.graph_);
  return *this;
}
Graph::~Graph() {
  if (graph_ != nullptr) enter(*device_->impl()).cuGraphExecDestroy(static_cast<CUgraphExec>(graph_));
}

Stream::Stream(Stream&& other) noexcept {
  *this = std::move(other);
}
Stream& Stream::operator=(Stream&& other) noexcept {
  take(device_, stream_, other.device_, other.stream_);
  std::swap(failure_, other.failure_);
  return *this;
}
Stream::~Stream() {
  if (stream_ != nullptr) enter(*device_->impl()).cuStreamDestroy(static_cast<CUstream>(stream_));
}

void Stream::note(int result, const char* what) {
  if (result == CUDA_SUCCESS || !failure_.ok()) return;
  failure_ = device_error(*device_->impl()->driver, static_cast<CUresult>(result), what);
}

void Stream::copy_in(std::byte* to, const void* from, int64_t bytes) {
  if (bytes == 0) return;
  note(enter(*device_->impl())
           .cuMemcpyHtoDAsync(address(to), from, static_cast<size_t>(bytes), static_cast<CUstream>(stream_)),
       "copying to the device");
}

void Stream::copy_out(void* to, const std::byte* from, int64_t bytes) {
  if (bytes == 0) return;
  note(enter(*device_->impl())
           .cuMemcpyDtoHAsync(to, address(from), static_cast<size_t>(bytes), static_cast<CUstream>(stream_)),
       "copying from the device");
}

void Stream::copy(std::byte* to, const std::byte* from, int64_t bytes) {
  if (bytes == 0) return;
  note(enter(*device_->impl())
           .cuMemcpyDtoDAsync(address(to), address(from), static_cast<size_t>(bytes), static_cast<CUstream>(stream_)),
       "copying on the device");
}

void Stream::zero(std::byte* to, int64_t bytes) {
  if (bytes == 0) return;
  note(enter(*device_->impl())
           .cuMemsetD8Async(address(to), 0, static_cast<size_t>(bytes), static_cast<CUstream>(stream_)),
       "clearing device memory");
}

void Stream::launch_raw(const Kernel& kernel, const Grid& grid, const void* args) {
  constexpr int64_t kGridXMax = 2147483647;
  constexpr int64_t kGridYzMax = 65535;
  WEIR_CHECK(kernel, "launch of no kernel");
  WEIR_CHECK(grid.x > 0 && grid.x <= kGridXMax && grid.y > 0 && grid.y <= kGridYzMax && grid.z > 0 &&
                 grid.z <= kGridYzMax && grid.threads > 0 && grid.threads <= 1024,
             "{}: a grid of {} x {} x {} blocks of {} threads", kernel.name_, grid.x, grid.y, grid.z, grid.threads);
  void* parameters[] = {const_cast<void*>(args)};
  std::array<CUlaunchAttribute, 3> attributes{};
  CUlaunchConfig config{};
  config.gridDimX = static_cast<unsigned>(grid.x);
  config.gridDimY = static_cast<unsigned>(grid.y);
  config.gridDimZ = static_cast<unsigned>(grid.z);
  config.blockDimX = static_cast<unsigned>(grid.threads);
  config.blockDimY = 1;
  config.blockDimZ = 1;
  config.sharedMemBytes = static_cast<unsigned>(grid.shared_bytes);
  config.hStream = static_cast<CUstream>(stream_);
  config.attrs = attributes.data();
  if (grid.cluster > 1) {
    CUlaunchAttribute& attribute = attributes.at(config.numAttrs++);
    attribute.id = CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
    attribute.value.clusterDim = {static_cast<unsigned>(grid.cluster), 1, 1};
  }
  if (grid.overlap) {
    CUlaunchAttribute& attribute = attributes.at(config.numAttrs++);
    attribute.id = CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
    attribute.value.programmaticStreamSerializationAllowed = 1;
  }
  if (grid.shared_split > 0) {
    // In percent, rounded down: the next larger split that the hardware has is taken.
    CUlaunchAttribute& attribute = attributes.at(config.numAttrs++);
    attribute.id = CU_LAUNCH_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT;
    attribute.value.sharedMemCarveout = static_cast<unsigned>(grid.shared_split * 100 / 228);
  }
  note(
      enter(*device_->impl()).cuLaunchKernelEx(&config, static_cast<CUfunction>(kernel.function_), parameters, nullptr),
      kernel.name_.data());
}

void Stream::note_moment() {
  moments_->push_back(device_->event());
  record(&moments_->back());
}

void Stream::record(Event* event) {
  note(enter(*device_->impl()).cuEventRecord(static_cast<CUevent>(event->event_), static_cast<CUstream>(stream_)),
       "recording an event");
}

void Stream::wait_for(const Event& event) {
  note(enter(*device_->impl()).cuStreamWaitEvent(static_cast<CUstream>(stream_), static_cast<CUevent>(event.event_), 0),
       "waiting for an event");
}

void Stream::begin_graph() {
  note(
      enter(*device_->impl()).cuStreamBeginCapture(static_cast<CUstream>(stream_), CU_STREAM_CAPTURE_MODE_THREAD_LOCAL),
      "beginning a graph");
}

Result<Graph> Stream::end_graph() {
  const Driver& driver = enter(*device_->impl());
  CUgraph recorded = nullptr;
  CUresult result = driver.cuStreamEndCapture(static_cast<CUstream>(stream_), &recorded);
  if (!failure_.ok() || result != CUDA_SUCCESS) {
    if (recorded != nullptr) driver.cuGraphDestroy(recorded);
    if (!failure_.ok()) return std::exchange(failure_, Status(Ok{})).error();
    return device_error(driver, result, "recording a graph");
  }
  CUgraphExec graph = nullptr;
  result = driver.cuGraphInstantiate(&graph, recorded, 0);
  driver.cuGraphDestroy(recorded);
  if (result != CUDA_SUCCESS) return device_error(driver, result, "making a graph");
  Graph out;
  out.device_ = device_;
  out.graph_ = graph;
  return out;
}

void Stream::replay(const Graph& graph) {
  WEIR_CHECK(graph, "replay of no graph");
  note(enter(*device_->impl()).cuGraphLaunch(static_cast<CUgraphExec>(graph.graph_), static_cast<CUstream>(stream_)),
       "replaying a graph");
}

Status Stream::wait() {
  const Driver& driver = enter(*device_->impl());
  const CUresult result = driver.cuStreamSynchronize(static_cast<CUstream>(stream_));
  if (!failure_.ok()) return std::exchange(failure_, Status(Ok{}));
  if (result != CUDA_SUCCESS) return device_error(driver, result, "running on the device");
  return Ok{};
}

Result<std::vector<DeviceInfo>> Device::list() {
  WEIR_ASSIGN_OR_RETURN(const Driver* driver, Driver::get());
  int count = 0;
  if (driver->cuDeviceGetCount(&count) != CUDA_SUCCESS) count = 0;
  std::vector<DeviceInfo> devices;
  for (int i = 0; i < count; ++i) devices.push_back(describe(*driver, i));
  return devices;
}

Result<std::unique_ptr<Device>> Device::open(int index, std::span<const KernelImage> images) {
  WEIR_ASSIGN_OR_RETURN(const std::vector<DeviceInfo> devices, list());
  if (devices.empty()) {
    return with_remedy(make_error(ErrorCode::kUnsupported, "this machine shows no GPU"),
                       "check nvidia-smi and CUDA_VISIBLE_DEVICES, or run on the CPU with --device cpu");
  }
  if (index < 0 || index >= static_cast<int>(devices.size())) {
    return with_remedy(make_error(ErrorCode::kInvalidArgument, "GPU {} of {}", index, devices.size()),
                       fmt::format("give --device cuda:N with N from 0 to {}", devices.size() - 1));
  }
  auto impl = std::make_unique<Impl>();
  impl->driver = *Driver::get();
  impl->info = devices[static_cast<size_t>(index)];
  const Driver& driver = *impl->driver;
  driver.cuDeviceGet(&impl->handle, index);
  CUresult result = driver.cuDevicePrimaryCtxRetain(&impl->context, impl->handle);
  if (result != CUDA_SUCCESS) return device_error(driver, result, "opening the device");
  std::unique_ptr<Device> device(new Device(std::move(impl)));
  Impl& self = *device->impl_;
  driver.cuCtxSetCurrent(self.context);
  const int architecture = 10 * self.info.major + self.info.minor;
  for (const KernelImage& image : images) {
    if (image.architecture != architecture) continue;
    CUmodule module = nullptr;
    result = driver.cuModuleLoadData(&module, image.data);
    if (result != CUDA_SUCCESS)
      return device_error(driver, result, fmt::format("loading the kernels of {}", image.name));
    self.modules.push_back(module);
    list_functions(self, module);
  }
  if (self.modules.empty()) {
    return with_remedy(make_error(ErrorCode::kUnsupported, "no kernels for {} (architecture {}.{}) in this build",
                                  self.info.name, self.info.major, self.info.minor),
                       "use a GPU of architecture 9.0 (H100, H200), or run on the CPU with --device cpu");
  }
  return device;
}

Device::Device(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

Device::~Device() {
  for (CUmodule module : impl_->modules) enter(*impl_).cuModuleUnload(module);
  enter(*impl_).cuDevicePrimaryCtxRelease(impl_->handle);
}

const DeviceInfo& Device::info() const {
  return impl_->info;
}

int64_t Device::free_bytes() const {
  size_t free = 0;
  size_t total = 0;
  enter(*impl_).cuMemGetInfo(&free, &total);
  return static_cast<int64_t>(free);
}

Result<Bytes> Device::allocate(int64_t bytes, std::string_view what, std::string_view remedy) {
  Bytes out;
  if (bytes == 0) return out;
  CUdeviceptr data = 0;
  const CUresult result = enter(*impl_).cuMemAlloc(&data, static_cast<size_t>(bytes));
  if (result == CUDA_ERROR_OUT_OF_MEMORY) {
    return with_remedy(make_error(ErrorCode::kTooLarge, "{} need {} MiB, and {} has {} MiB free", what, bytes >> 20,
                                  impl_->info.name, free_bytes() >> 20),
                       std::string(remedy) + ", or free the GPU's memory");
  }
  if (result != CUDA_SUCCESS) return device_error(*impl_->driver, result, fmt::format("allocating {}", what));
  out.device_ = this;
  out.data_ = reinterpret_cast<std::byte*>(data);
  out.size_ = bytes;
  return out;
}

Result<PinnedBytes> Device::allocate_pinned(int64_t bytes, std::string_view what) {
  PinnedBytes out;
  if (bytes == 0) return out;
  void* data = nullptr;
  const CUresult result = enter(*impl_).cuMemHostAlloc(&data, static_cast<size_t>(bytes), CU_MEMHOSTALLOC_PORTABLE);
  if (result != CUDA_SUCCESS) {
    return with_remedy(make_error(ErrorCode::kTooLarge, "cannot lock {} MiB of host memory for {}: {}", bytes >> 20,
                                  what, impl_->driver->text(result)),
                       "free host memory or raise its limit of locked memory");
  }
  out.device_ = this;
  out.data_ = static_cast<std::byte*>(data);
  out.size_ = bytes;
  return out;
}

Stream Device::stream() {
  CUstream handle = nullptr;
  Stream out;
  out.device_ = this;
  out.note(enter(*impl_).cuStreamCreate(&handle, CU_STREAM_NON_BLOCKING), "creating a stream");
  out.stream_ = handle;
  return out;
}

Event Device::event() {
  CUevent handle = nullptr;
  WEIR_CHECK(enter(*impl_).cuEventCreate(&handle, CU_EVENT_DEFAULT) == CUDA_SUCCESS, "cannot create an event");
  Event out;
  out.device_ = this;
  out.event_ = handle;
  return out;
}

Kernel Device::kernel(std::string_view symbol) {
  const auto found = impl_->functions.find(symbol);
  WEIR_CHECK(found != impl_->functions.end(), "no kernel {} in the images", symbol);
  Kernel out;
  out.function_ = found->second;
  out.name_ = found->first;
  return out;
}

}  // namespace weir::device
