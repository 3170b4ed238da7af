// Uninitialised results of CUDA operators, and what the sums of a launch need.
#pragma once

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <c10/core/DeviceGuard.h>

#include "cuda/device.h"

namespace vae_fused {

// What operators that are written once for every kind of device need of a GPU.
struct OnCUDA {
  using Guard = c10::DeviceGuard;

  static bool streams(const at::Tensor&) { return false; }

  static at::Tensor like(const at::Tensor& tensor) { return at::empty_like(tensor); }
  static at::Tensor like(const at::Tensor& tensor, at::ScalarType type) {
    return at::empty_like(tensor, tensor.options().dtype(type));
  }
  static at::Tensor empty(at::IntArrayRef sizes, at::ScalarType type, const at::Tensor& near) {
    return at::empty(sizes, near.options().dtype(type));
  }
};

// The sums of a launch, with the memory that they need until it is queued.
struct HeldSum {
  Summation summation{};
  at::Tensor partials;
  HeldTicket held{};

  HeldSum() = default;
  HeldSum(const at::Tensor& out, const Work& work, double divisor) {
    summation.out = out.mutable_data_ptr();
    summation.wide = out.scalar_type() == at::kDouble;
    summation.divisor = divisor;
    if (work.pieces == 1) return;
    partials = OnCUDA::empty({work.units()}, at::kDouble, out);
    held = next_ticket(out);
    summation.partials = partials.mutable_data_ptr<double>();
    summation.ticket = held.ticket;
  }
};

}  // namespace vae_fused
