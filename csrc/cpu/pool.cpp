#include "cpu/pool.h"

#include <c10/core/CPUAllocator.h>
#include <c10/util/Exception.h>
#include <pthread.h>
#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <mutex>
#include <string>
#include <vector>

namespace vae_fused {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kDefaultLimitMiB = 1024;

struct Block {
  void* data;
  size_t bytes;
};

size_t limit_from_environment() {
  const char* text = std::getenv("VAE_FUSED_POOL_MIB");
  if (text == nullptr || *text == '\0') return kDefaultLimitMiB << 20;
  char* end = nullptr;
  const long long mib = std::strtoll(text, &end, 10);
  TORCH_CHECK_VALUE(*end == '\0' && mib >= 0, "VAE_FUSED_POOL_MIB must be a number of MiB, 0 or more, got '", text,
                    "'");
  return std::min(static_cast<size_t>(mib), std::numeric_limits<size_t>::max() >> 20) << 20;
}

// Memory aligned to huge pages, and made of them where the system allows it: one fault maps 2 MiB instead of 4 KiB.
// Mapped and not allocated, because malloc hands out again what has small pages already, and keeps what it is given.
void* map_huge_pages(size_t bytes) {
#if defined(__linux__)
  void* mapping = mmap(nullptr, bytes + kHugePage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapping == MAP_FAILED) return nullptr;
  const size_t before = (kHugePage - reinterpret_cast<uintptr_t>(mapping) % kHugePage) % kHugePage;
  char* const data = static_cast<char*>(mapping) + before;
  if (before != 0) munmap(mapping, before);
  munmap(data + bytes, kHugePage - before);
  madvise(data, bytes, MADV_HUGEPAGE);
  return data;
#else
  return std::aligned_alloc(kHugePage, bytes);
#endif
}

Block map_block(size_t bytes) {
  const size_t rounded = (bytes + kHugePage - 1) / kHugePage * kHugePage;
  void* data = map_huge_pages(rounded);
  TORCH_CHECK_WITH(OutOfMemoryError, data != nullptr, "vae_fused could not allocate ", rounded, " bytes");
  return {data, rounded};
}

void unmap(const Block& block) {
#if defined(__linux__)
  munmap(block.data, block.bytes);
#else
  std::free(block.data);
#endif
}

class Pool final : public c10::Allocator {
 public:
  static Pool& instance() {
    static Pool* pool = new Pool;  // never destroyed: tensors may outlive every static
    return *pool;
  }

  c10::DataPtr allocate(size_t bytes) override {
    Block block = take(bytes);
    if (block.data == nullptr) block = map_block(bytes);
    // Torch's own allocator reports so; without it the profiler's memory view leaves these blocks out.
    c10::profiledCPUMemoryReporter().New(block.data, block.bytes);
    return {block.data, new Block(block), &give_back, c10::Device(c10::kCPU)};
  }

  void copy_data(void* destination, const void* source, size_t count) const override {
    std::memcpy(destination, source, count);
  }

  size_t kept() {
    std::lock_guard<std::mutex> lock(mutex_);
    return kept_bytes_;
  }

  size_t release() {
    std::vector<Block> blocks;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      blocks.swap(free_);
      kept_bytes_ = 0;
    }
    size_t bytes = 0;
    for (const Block& block : blocks) {
      bytes += block.bytes;
      unmap(block);
    }
    return bytes;
  }

 private:
  Pool() : limit_(limit_from_environment()) {
    // A child must not inherit a mutex that another thread of the parent held.
    pthread_atfork([] { instance().mutex_.lock(); }, [] { instance().mutex_.unlock(); },
                   [] { instance().mutex_.unlock(); });
  }

  // The most recently used block that fits without wasting more than a quarter, if there is one.
  Block take(size_t bytes) {
    std::lock_guard<std::mutex> lock(mutex_);
    const auto fits = [&](const Block& block) {
      return block.bytes >= bytes && block.bytes - bytes <= bytes / 4 + kHugePage;
    };
    const auto found = std::find_if(free_.rbegin(), free_.rend(), fits);
    if (found == free_.rend()) return {nullptr, 0};
    const Block block = *found;
    free_.erase(std::next(found).base());
    kept_bytes_ -= block.bytes;
    return block;
  }

  static void give_back(void* context) {
    const Block block = *static_cast<Block*>(context);
    delete static_cast<Block*>(context);
    c10::profiledCPUMemoryReporter().Delete(block.data);
    instance().keep(block);
  }

  void keep(const Block& block) {
    std::vector<Block> dropped;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      if (block.bytes > limit_) {
        dropped.push_back(block);
      } else {
        while (kept_bytes_ + block.bytes > limit_) {
          dropped.push_back(free_.front());
          kept_bytes_ -= free_.front().bytes;
          free_.erase(free_.begin());
        }
        free_.push_back(block);
        kept_bytes_ += block.bytes;
      }
    }
    for (const Block& old : dropped) unmap(old);
  }

  const size_t limit_;
  std::mutex mutex_;
  std::vector<Block> free_;  // least recently used first
  size_t kept_bytes_ = 0;
};

}  // namespace

c10::Allocator* allocator_for(size_t bytes) {
  if (bytes < kPooledBytes) return c10::GetCPUAllocator();
  return &Pool::instance();
}

size_t pooled_bytes() { return Pool::instance().kept(); }

size_t release_pool() { return Pool::instance().release(); }

}  // namespace vae_fused
