#include "cuda/kl_divergence.h"

#include "cuda/device.h"
#include "cuda/results.h"
#include "kl_divergence_operators.h"

namespace vae_fused {
namespace {

struct KLDivergenceOnCUDA : OnCUDA {
  // Into out, which has an element for every item or one for all.
  static void sum(const KLDivergenceParams& p, const Tensor& out, double divisor) {
    const Work work(out.numel(), p.item_numel);
    const HeldSum sum(out, work, divisor);
    launch_kl_divergence(p, work, sum.summation, launch_site());
    check_launch();
  }

  static void run(const KLDivergenceParams& p, int64_t items) {
    launch_kl_divergence(p, Work(items, p.item_numel), Summation{}, launch_site());
    check_launch();
  }
};

TORCH_LIBRARY_IMPL(vae_fused, CUDA, m) { KLDivergenceOperators<KLDivergenceOnCUDA>::register_in(m); }

}  // namespace
}  // namespace vae_fused
