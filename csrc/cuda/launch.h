// Host side: errors, the device of a call, properties of a device, and launches.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <array>
#include <cstddef>
#include <mutex>
#include <stdexcept>
#include <string>
#include <utility>

#include "common/types.h"

namespace gaal::cuda {

inline void check(cudaError_t status, const char* what) {
  if (status != cudaSuccess)
    throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(status));
}

// Makes `device` current until the end of the scope.
class DeviceGuard {
 public:
  explicit DeviceGuard(int device) : device_(device) {
    check(cudaGetDevice(&previous_), "cudaGetDevice");
    if (previous_ != device_) check(cudaSetDevice(device_), "cudaSetDevice");
  }
  ~DeviceGuard() {
    if (previous_ != device_) static_cast<void>(cudaSetDevice(previous_));
  }
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  int device_;
  int previous_ = 0;
};

struct DeviceInfo {
  int multiprocessors = 0;
  bool cooperative = false;
};

constexpr int kMaxDevices = 64;

// Queried once per device.
inline const DeviceInfo& device_info(int device) {
  static std::array<DeviceInfo, kMaxDevices> known;
  static std::array<std::once_flag, kMaxDevices> asked;
  if (device < 0 || device >= kMaxDevices) throw std::runtime_error("device index out of range");
  std::call_once(asked[device], [device] {
    const auto attribute = [device](cudaDeviceAttr which) {
      int value = 0;
      check(cudaDeviceGetAttribute(&value, which, device), "cudaDeviceGetAttribute");
      return value;
    };
    DeviceInfo& info = known[device];
    info.multiprocessors = attribute(cudaDevAttrMultiProcessorCount);
    info.cooperative = attribute(cudaDevAttrCooperativeLaunch) != 0;
  });
  return known[device];
}

// Calls use(T{}) for the element type T of `dtype`.
template <typename Use>
void with_element_type(DType dtype, Use&& use) {
  switch (dtype) {
    case DType::kFloat32: return use(float{});
    case DType::kFloat16: return use(__half{});
    case DType::kBFloat16: return use(__nv_bfloat16{});
  }
}

struct Launch {
  unsigned blocks;
  unsigned threads;
  size_t shared_bytes;
  cudaStream_t stream;
  bool cooperative = false;
};

template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), const Launch& shape, Arguments&&... arguments) {
  if (shape.shared_bytes > 48 * 1024) {
    check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                               cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(shape.shared_bytes)),
          "cudaFuncSetAttribute");
  }
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeCooperative;
  attribute.val.cooperative = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(shape.blocks);
  config.blockDim = dim3(shape.threads);
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = shape.stream;
  config.attrs = &attribute;
  config.numAttrs = shape.cooperative ? 1 : 0;
  check(cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...),
        "kernel launch");
}

}  // namespace gaal::cuda
