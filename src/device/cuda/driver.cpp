#include "device/cuda/driver.h"

#include <dlfcn.h>

namespace weir::device {
namespace {

constexpr const char* kLibrary = "libcuda.so.1";

#define WEIR_CUDA_STRING_INNER(name) #name
#define WEIR_CUDA_STRING(name) WEIR_CUDA_STRING_INNER(name)

Error no_driver(std::string message) {
  return with_remedy({ErrorCode::kUnsupported, std::move(message), {}},
                     "install NVIDIA's driver for this GPU, or run on the CPU with --device cpu");
}

Result<Driver> load() {
  void* library = dlopen(kLibrary, RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) return no_driver(fmt::format("{} is not on this machine", kLibrary));
  Driver driver;
  const char* missing = nullptr;
  const auto find = [&](const char* name) {
    void* symbol = dlsym(library, name);
    if (symbol == nullptr && missing == nullptr) missing = name;
    return symbol;
  };
#define WEIR_CUDA_FIND(name) driver.name = reinterpret_cast<decltype(driver.name)>(find(WEIR_CUDA_STRING(name)));
  WEIR_CUDA_FUNCTIONS(WEIR_CUDA_FIND)
#undef WEIR_CUDA_FIND
  if (missing != nullptr) {
    return with_remedy(
        make_error(ErrorCode::kUnsupported, "the NVIDIA driver is too old: it has no {}", missing),
        fmt::format("update it to one for CUDA {}.{} or later", CUDA_VERSION / 1000, CUDA_VERSION % 1000 / 10));
  }
  const CUresult result = driver.cuInit(0);
  if (result == CUDA_ERROR_NO_DEVICE) return driver;  // a driver without a device: list() is empty
  if (result != CUDA_SUCCESS)
    return no_driver(fmt::format("the NVIDIA driver does not start: {}", driver.text(result)));
  int version = 0;
  driver.cuDriverGetVersion(&version);
  // Machine code is read by every driver of the toolkit's major version and later.
  if (version / 1000 < CUDA_VERSION / 1000) {
    return with_remedy(make_error(ErrorCode::kUnsupported, "the NVIDIA driver is for CUDA {}.{}, these kernels for {}",
                                  version / 1000, version % 1000 / 10, CUDA_VERSION / 1000),
                       fmt::format("update it to one for CUDA {}.0 or later", CUDA_VERSION / 1000));
  }
  return driver;
}

}  // namespace

Result<const Driver*> Driver::get() {
  static const Result<Driver> driver = load();
  if (!driver.ok()) return driver.error();
  return &driver.value();
}

std::string Driver::text(CUresult result) const {
  const char* name = nullptr;
  const char* explanation = nullptr;
  cuGetErrorName(result, &name);
  cuGetErrorString(result, &explanation);
  return fmt::format("{}: {}", name == nullptr ? std::to_string(static_cast<int>(result)) : name,
                     explanation == nullptr ? "" : explanation);
}

}  // namespace weir::device
