// The CPU kernels of one instruction set. Each works on a range of tiles of its plan; the host runs ranges in parallel.
#pragma once

#include <cstdint>

#include "core/kernel_params.h"
#include "cpu/tile_plan.h"

namespace vae_fused {

template <class Params>
using TileKernel = void(const Params&, const TilePlan&, int64_t first_tile, int64_t last_tile);

struct KernelTable {
  const char* capability;
  TileKernel<StandardNormalParams>* standard_normal;
  TileKernel<ReparameterizeParams>* reparameterize;
  TileKernel<ReparameterizeBackwardParams>* reparameterize_backward;
  TileKernel<KLDivergenceParams>* kl_divergence;
  TileKernel<ReconstructionParams>* reconstruction;           // the squared error, without weights
  TileKernel<ReconstructionTermParams>* reconstruction_term;  // any term
};

namespace avx512 {
extern const KernelTable kTable;
}
namespace avx2 {
extern const KernelTable kTable;
}
namespace baseline {
extern const KernelTable kTable;
}

// The best that this processor has, or what VAE_FUSED_CPU_CAPABILITY (avx512, avx2, baseline) asks for. Chosen once.
const KernelTable& kernels();

}  // namespace vae_fused
