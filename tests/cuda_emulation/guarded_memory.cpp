// An allocator of CPU tensors that ends the process where a kernel leaves its operands: each lies at the end of its own
// pages, and the pages before and behind it may not be touched. At most 15 bytes are left over, so that the address is
// a multiple of 16; they keep what was written there, or the process ends when the tensor is released.
#include <c10/core/CPUAllocator.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace {

constexpr size_t kAlignment = 16;
constexpr unsigned char kLeftOver = 0xa5;

struct Pages {
  char* first;
  size_t bytes;  // with the two that may not be touched
  char* end;     // of the tensor
};

void release(void* context) {
  auto* pages = static_cast<Pages*>(context);
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  for (char* at = pages->end; at < pages->first + pages->bytes - page; ++at) {
    if (static_cast<unsigned char>(*at) == kLeftOver) continue;
    std::fputs("a kernel wrote behind the end of an operand\n", stderr);
    std::abort();
  }
  munmap(pages->first, pages->bytes);
  delete pages;
}

struct GuardedAllocator : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    const size_t aligned = (bytes + kAlignment - 1) / kAlignment * kAlignment;
    const size_t inner = (aligned + page - 1) / page * page, all = inner + 2 * page;
    void* mapped = mmap(nullptr, all, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    TORCH_CHECK(mapped != MAP_FAILED, "no memory");
    char* const first = static_cast<char*>(mapped);
    TORCH_CHECK(inner == 0 || mprotect(first + page, inner, PROT_READ | PROT_WRITE) == 0, "no memory");
    char* const data = first + page + inner - aligned;
    std::memset(data + bytes, kLeftOver, aligned - bytes);
    return {data, new Pages{first, all, data + bytes}, &release, c10::Device(c10::kCPU)};
  }

  void copy_data(void* to, const void* from, size_t bytes) const override { default_copy_data(to, from, bytes); }
};

}  // namespace

// For the rest of the process.
extern "C" __attribute__((visibility("default"))) void guard_memory() {
  static GuardedAllocator allocator;
  c10::SetCPUAllocator(&allocator, /*priority=*/100);
}
