// What operators that are written once for every kind of device need of the CPU.
#pragma once

#include "cpu/allocate.h"
#include "cpu/parallel.h"

namespace vae_fused {

struct OnCPU {
  struct Guard {
    explicit Guard(at::Device) {}
  };

  static bool streams(const Tensor& output) { return static_cast<int64_t>(output.nbytes()) > kStreamedBytes; }

  static Tensor like(const Tensor& tensor) { return allocate_like(tensor); }
  static Tensor like(const Tensor& tensor, at::ScalarType type) { return allocate_like(tensor, type); }
  static Tensor empty(at::IntArrayRef sizes, at::ScalarType type, const Tensor&) { return allocate(sizes, type); }
};

}  // namespace vae_fused
