// What the host code of this folder asks of the CUDA runtime and of ATen's CUDA side; tests/cuda_emulation has its own.
#pragma once

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>

#include <optional>

#include "cuda/launch.h"

namespace vae_fused {

using at::Tensor;

// The current stream of the current device.
LaunchSite launch_site();

// Raises if the last launch did not start. It does not wait for it.
void check_launch();

// A ticket counter that no launch uses at the same time, and the tensor that holds it where it is not one of the
// module's.
struct HeldTicket {
  Ticket ticket;
  Tensor holder;
};
HeldTicket next_ticket(const Tensor& on_device);

// Reserves the Philox blocks for this many normals in the generator, or in the default one of the device, and describes
// their key for the kernel, which writes it to the uint64 tensor `used` [2].
KeySource reserve_noise(const std::optional<at::Generator>& generator, int64_t normals, int lanes, const Tensor& used);

}  // namespace vae_fused
