#include "cpu/parallel.h"

#include <pthread.h>

#include <atomic>

namespace vae_fused {
namespace {

std::atomic<bool> threads_used{false};
std::atomic<bool> threads_lost{false};

}  // namespace

bool threads_lost_in_fork() { return threads_lost.load(std::memory_order_relaxed); }

void note_threads_used() {
  static const int registered =
      pthread_atfork(nullptr, nullptr, [] { threads_lost.store(threads_used.load(std::memory_order_relaxed)); });
  static_cast<void>(registered);
  threads_used.store(true, std::memory_order_relaxed);
}

}  // namespace vae_fused
