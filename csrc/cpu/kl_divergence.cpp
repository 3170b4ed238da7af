#include "cpu/results.h"
#include "cpu/scalar_access.h"
#include "kl_divergence_operators.h"

namespace vae_fused {
namespace {

struct KLDivergenceOnCPU : OnCPU {
  // Into out, which has an element for every item or one for all.
  static void sum(KLDivergenceParams& p, const Tensor& out, double divisor) {
    const TilePlan plan(out.numel(), p.item_numel);
    Partials partials(plan.partials(), 0.0);
    p.partials = partials.data();
    run_tiles(kernels().kl_divergence, p, plan, kGrainNoise);
    for (int64_t i = 0; i < out.numel(); ++i) {
      write_number(out, i, sum_of(partials.data() + i * plan.pieces, plan.pieces) / divisor);
    }
  }

  static void run(const KLDivergenceParams& p, int64_t items) {
    run_tiles(kernels().kl_divergence, p, TilePlan(items, p.item_numel), kGrainNoise);
  }
};

TORCH_LIBRARY_IMPL(vae_fused, CPU, m) { KLDivergenceOperators<KLDivergenceOnCPU>::register_in(m); }

}  // namespace
}  // namespace vae_fused
