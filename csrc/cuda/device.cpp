#include "cuda/device.h"

#include <ATen/cuda/CUDAContext.h>
#include <ATen/cuda/CUDAGeneratorImpl.h>
#include <ATen/ops/zeros.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGraphsC10Utils.h>

#include <atomic>
#include <map>
#include <mutex>

namespace vae_fused {
namespace {

// One counter for every stream of a device: launches on one stream follow each other. Stream ids are never used again,
// even where handles are.
int slot_of_stream(c10::cuda::CUDAStream stream) {
  unsigned long long id = 0;
  C10_CUDA_CHECK(cudaStreamGetId(stream.stream(), &id));
  static std::mutex mutex;
  static std::map<std::pair<int, unsigned long long>, int> slots;
  static std::map<int, int> used_on_device;
  std::lock_guard<std::mutex> lock(mutex);
  const std::pair<int, unsigned long long> stream_of_device(stream.device_index(), id);
  const auto found = slots.find(stream_of_device);
  if (found != slots.end()) return found->second;
  int& used = used_on_device[stream.device_index()];
  if (used == kStreamTickets) return -1;
  return slots[stream_of_device] = used++;
}

// One counter for every captured launch, for good: a graph may run beside other graphs and beside streams, and its own
// branches beside each other, but never beside itself.
int slot_of_captured_launch() {
  static std::atomic<int> used{0};
  int slot = used.load();
  while (slot < kCapturedTickets && !used.compare_exchange_weak(slot, slot + 1)) {
  }
  return slot < kCapturedTickets ? kStreamTickets + slot : -1;
}

}  // namespace

LaunchSite launch_site() {
  return {at::cuda::getCurrentCUDAStream().stream(), at::cuda::getCurrentDeviceProperties()->multiProcessorCount};
}

void check_launch() { C10_CUDA_KERNEL_LAUNCH_CHECK(); }

HeldTicket next_ticket(const Tensor& on_device) {
  const bool captured = c10::cuda::currentStreamCaptureStatusMayInitCtx() != c10::cuda::CaptureStatus::None;
  const int slot = captured ? slot_of_captured_launch() : slot_of_stream(at::cuda::getCurrentCUDAStream());
  if (slot >= 0) return {{slot, nullptr}, Tensor()};
  // No counter left: one of its own, cleared on the stream before every launch, in a graph too.
  Tensor counter = at::zeros({1}, on_device.options().dtype(at::kInt));
  return {{-1, static_cast<unsigned*>(counter.mutable_data_ptr())}, counter};
}

KeySource reserve_noise(const std::optional<at::Generator>& generator, int64_t normals, int lanes, const Tensor& used) {
  auto* source = at::get_generator_or_default<at::CUDAGeneratorImpl>(
      generator, at::cuda::detail::getDefaultCUDAGenerator(used.device().index()));
  const uint64_t blocks = (static_cast<uint64_t>(normals) + lanes - 1) / lanes;
  at::PhiloxCudaState state;
  {
    std::lock_guard<std::mutex> lock(source->mutex_);
    state = source->philox_cuda_state(4 * blocks);
  }
  KeySource key{};
  key.used = static_cast<uint64_t*>(used.mutable_data_ptr());
  key.captured = state.captured_;
  if (state.captured_) {
    key.captured_seed = state.seed_.ptr;
    key.captured_offset = state.offset_.ptr;
    key.offset = state.offset_intragraph_;
  } else {
    key.seed = state.seed_.val;
    key.offset = state.offset_.val;
  }
  return key;
}

}  // namespace vae_fused
