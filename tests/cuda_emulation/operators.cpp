// The host code of csrc/cuda, registered on the dispatch key PrivateUse1, so that a test can send CPU tensors there.
#include <ATen/ExpandUtils.h>
#include <ATen/TensorUtils.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/empty_strided.h>
#include <ATen/ops/slice.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/zeros.h>
#include <c10/core/DeviceGuard.h>
#include <torch/library.h>

#include <algorithm>
#include <array>
#include <numeric>

#include "cuda/device.h"

#define CUDA PrivateUse1  // in TORCH_LIBRARY_IMPL(vae_fused, CUDA, m); the headers above must not see it

#include "checks.cpp"
#include "cuda/elbo_loss.cpp"
#include "cuda/kl_divergence.cpp"
#include "cuda/reparameterize.cpp"
#include "cuda/scale_gradients.cpp"
#include "cuda/standard_normal.cpp"
#include "kl_divergence_arguments.cpp"
#include "operands.cpp"
#include "packed_moments.cpp"
#include "scale_form.cpp"

#undef CUDA

namespace {

// As the generator of a device: by value, or where captured by pointer and counted from the start of the graph.
bool captured;
uint64_t seed, offset;
int64_t graph_seed, graph_offset;

}  // namespace

// The next drawn keys come from here.
extern "C" __attribute__((visibility("default"))) void emulate_generator(uint64_t new_seed, uint64_t new_offset,
                                                                         bool capture) {
  captured = capture;
  seed = new_seed;
  graph_seed = static_cast<int64_t>(new_seed);
  graph_offset = static_cast<int64_t>(new_offset - 8);
  offset = capture ? 8 : new_offset;
}

extern "C" __attribute__((visibility("default"))) uint64_t emulated_offset() {
  return captured ? static_cast<uint64_t>(graph_offset) + offset : offset;
}

extern "C" __attribute__((visibility("default"))) void emulate_largest_grid(int blocks) {
  emulation::largest_grid = blocks;
}

extern "C" __attribute__((visibility("default"))) int emulated_launches() { return emulation::launches; }

extern "C" __attribute__((visibility("default"))) const char* emulated_launcher() { return emulation::launcher; }

namespace vae_fused {

LaunchSite launch_site() { return {nullptr, 132}; }

void check_launch() { TORCH_CHECK(emulation::last_error()[0] == '\0', emulation::last_error()); }

// A slot that has been used before, to show that counters end at zero; and now and then one of its own.
HeldTicket next_ticket(const Tensor&) {
  static int launches = 0;
  if (++launches % 3 != 0) return {{launches % 2, nullptr}, Tensor()};
  Tensor counter = at::empty({1}, at::kInt);
  *counter.mutable_data_ptr<int>() = 0;  // no operator, which a test that counts them would see
  return {{-1, static_cast<unsigned*>(counter.mutable_data_ptr())}, counter};
}

KeySource reserve_noise(const std::optional<at::Generator>&, int64_t normals, int lanes, const Tensor& used) {
  KeySource key{};
  key.used = static_cast<uint64_t*>(used.mutable_data_ptr());
  key.captured = captured;
  key.offset = offset;
  if (captured) {
    key.captured_seed = &graph_seed;
    key.captured_offset = &graph_offset;
  } else {
    key.seed = seed;
  }
  offset += 4 * ((static_cast<uint64_t>(normals) + lanes - 1) / lanes);
  return key;
}

}  // namespace vae_fused
