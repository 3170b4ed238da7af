#pragma once

#include "cuda/launch.h"

namespace vae_fused {

// p.partials is for the CPU: sums go to sum.
void launch_kl_divergence(const KLDivergenceParams& p, const Work& work, const Summation& sum, const LaunchSite& site);

}  // namespace vae_fused
