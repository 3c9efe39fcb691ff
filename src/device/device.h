// The only door to accelerators: devices, memory, streams, events, graphs, and kernels launched by symbol. Nothing
// above this room knows the vendor; the vendor's driver is found at run time, so one binary starts with or without it.
//
// Errors: what depends on the machine (no driver, too little memory, a fault of a kernel) is a Status. Wrong use (an
// unknown symbol, a launch without blocks) is a programmer error.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "base/result.h"

namespace weir::device {

struct DeviceInfo {
  int index = 0;
  std::string name;
  int major = 0;  // architecture, e.g. 9.0
  int minor = 0;
  int multiprocessors = 0;
  int64_t memory_bytes = 0;
  int64_t free_bytes = 0;
  int64_t l2_bytes = 0;
  int64_t shared_bytes_max = 0;  // shared memory a block can ask for
};

// One compiled kernel file: machine code for one architecture.
struct KernelImage {
  std::string_view name;
  int architecture = 0;  // 10 * major + minor
  const std::byte* data = nullptr;
  int64_t size = 0;
};

// An entry point; valid while its Device lives. Empty by default.
class Kernel {
 public:
  Kernel() = default;
  explicit operator bool() const { return function_ != nullptr; }

 private:
  friend class Stream;
  friend class Device;
  void* function_ = nullptr;
  std::string_view name_;
};

struct Grid {
  int64_t x = 1;  // blocks
  int64_t y = 1;
  int64_t z = 1;
  int threads = 1;           // of a block
  int64_t shared_bytes = 0;  // dynamic shared memory of a block
  int cluster = 1;           // blocks along x that run together
  int shared_split = 0;      // KiB of the memory beside a multiprocessor that are shared memory; 0: the driver chooses
  bool overlap = false;      // may start before the kernel before it has ended; it waits itself
};

class Device;
class Stream;

// Device memory; freed with the object. Moves, does not copy.
class Bytes {
 public:
  Bytes() = default;
  Bytes(Bytes&& other) noexcept;
  Bytes& operator=(Bytes&& other) noexcept;
  ~Bytes();
  std::byte* data() const { return data_; }  // a device address: never dereferenced on the host
  int64_t size() const { return size_; }

 private:
  friend class Device;
  Device* device_ = nullptr;
  std::byte* data_ = nullptr;
  int64_t size_ = 0;
};

// Page-locked host memory that copies run from and to without staging. Kernels read and write it at the same address:
// what the host wrote before a launch is there for it, what it wrote is there once an event behind it has passed.
class PinnedBytes {
 public:
  PinnedBytes() = default;
  PinnedBytes(PinnedBytes&& other) noexcept;
  PinnedBytes& operator=(PinnedBytes&& other) noexcept;
  ~PinnedBytes();
  std::byte* data() const { return data_; }
  int64_t size() const { return size_; }

 private:
  friend class Device;
  Device* device_ = nullptr;
  std::byte* data_ = nullptr;
  int64_t size_ = 0;
};

// A moment in a stream.
class Event {
 public:
  Event() = default;
  Event(Event&& other) noexcept;
  Event& operator=(Event&& other) noexcept;
  ~Event();
  // Blocks the host until the moment has passed. kInternal: a kernel faulted.
  Status wait() const;
  // Whether wait() would return at once.
  bool passed() const;
  // Microseconds from `earlier` to this; both must have passed.
  double micros_since(const Event& earlier) const;

 private:
  friend class Device;
  friend class Stream;
  Device* device_ = nullptr;
  void* event_ = nullptr;
};

// A recorded sequence of launches and copies, replayed in one call.
class Graph {
 public:
  Graph() = default;
  Graph(Graph&& other) noexcept;
  Graph& operator=(Graph&& other) noexcept;
  ~Graph();
  explicit operator bool() const { return graph_ != nullptr; }

 private:
  friend class Stream;
  Device* device_ = nullptr;
  void* graph_ = nullptr;
};

// Work in order. Calls only enqueue; a fault shows at the next wait.
class Stream {
 public:
  Stream() = default;
  Stream(Stream&& other) noexcept;
  Stream& operator=(Stream&& other) noexcept;
  ~Stream();

  // Host memory must stay as it is until the copy has run.
  void copy_in(std::byte* to, const void* from, int64_t bytes);
  void copy_out(void* to, const std::byte* from, int64_t bytes);
  void copy(std::byte* to, const std::byte* from, int64_t bytes);
  void zero(std::byte* to, int64_t bytes);

  template <class Args>
  void launch(const Kernel& kernel, const Grid& grid, const Args& args) {
    static_assert(std::is_trivially_copyable_v<Args> && sizeof(Args) <= 4096, "one plain struct of at most 4 KiB");
    if (launched_ != nullptr) launched_->push_back(kernel.name_);
    launch_raw(kernel, grid, &args);
    if (moments_ != nullptr) note_moment();
  }

  // From now on the symbols of launched kernels are added to *names, until this is called with null.
  void note_launches(std::vector<std::string_view>* names) { launched_ = names; }
  // The same for the moments at which they have ended; until then no kernel starts before the one before it has ended.
  void note_moments(std::vector<Event>* moments) { moments_ = moments; }

  void record(Event* event);
  // Later work waits for `event`.
  void wait_for(const Event& event);
  // Between these, calls are recorded instead of run. Nothing may wait on the stream meanwhile; other threads may work
  // with other streams, and reserve and free.
  void begin_graph();
  Result<Graph> end_graph();
  void replay(const Graph& graph);

  // Blocks the host until all work has run. kInternal: a kernel faulted; the device is unusable from then on.
  Status wait();

 private:
  friend class Device;
  void launch_raw(const Kernel& kernel, const Grid& grid, const void* args);
  void note_moment();
  // Remembers the first failure of an enqueueing call for the next wait.
  void note(int result, const char* what);

  Device* device_ = nullptr;
  void* stream_ = nullptr;
  Status failure_ = Ok{};
  std::vector<std::string_view>* launched_ = nullptr;
  std::vector<Event>* moments_ = nullptr;
};

// One opened device with its kernels. All members may be called from any one thread at a time. The same device may be
// opened several times in a process: each has its kernels, and what they run on streams of their own runs side by side.
class Device {
 public:
  // Devices that the driver shows; empty when there is a driver and no device. kUnsupported: no driver, one that is too
  // old, or a build without kernels; the remedy says which.
  static Result<std::vector<DeviceInfo>> list();
  // Opens device `index` and loads those of `images` that are for its architecture. kUnsupported: none is.
  static Result<std::unique_ptr<Device>> open(int index, std::span<const KernelImage> images);
  ~Device();
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  const DeviceInfo& info() const;
  int64_t free_bytes() const;

  // Aligned to 256. `what` and `remedy` are for the message: kTooLarge says what was asked for and what is free.
  Result<Bytes> allocate(int64_t bytes, std::string_view what, std::string_view remedy);
  Result<PinnedBytes> allocate_pinned(int64_t bytes, std::string_view what);
  Stream stream();
  Event event();

  // The entry point of this name, with its limit of dynamic shared memory raised to the device's. Programmer error: no
  // such symbol in the images.
  Kernel kernel(std::string_view symbol);

  // What the platform file keeps.
  struct Impl;
  Impl* impl() const { return impl_.get(); }

 private:
  explicit Device(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace weir::device
