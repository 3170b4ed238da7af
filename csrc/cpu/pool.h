// Where the large results of CPU operators live: memory that is used again, instead of new pages at every step.
//
// A fresh allocation of tens of megabytes is mapped by the system page by page at first touch, which costs more than
// the arithmetic that fills it. Blocks that tensors give back are kept, least recently used first out, up to a limit in
// MiB: VAE_FUSED_POOL_MIB, 1024 by default, 0 to keep nothing. Smaller tensors come from torch's own allocator.
#pragma once

#include <c10/core/Allocator.h>

#include <cstddef>

namespace vae_fused {

constexpr size_t kPooledBytes = size_t{1} << 20;

// The pool for large sizes, torch's allocator for small ones. Safe across threads and after fork.
c10::Allocator* allocator_for(size_t bytes);

// Bytes that are kept for later and belong to no tensor.
size_t pooled_bytes();

// Gives them back to the system and returns how many there were.
size_t release_pool();

}  // namespace vae_fused
