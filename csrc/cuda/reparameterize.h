#pragma once

#include "cuda/launch.h"

namespace vae_fused {

// p.key and p.kl_partials are for the CPU: the keys come from source, and the KL of the items goes to sum.
void launch_reparameterize(const ReparameterizeParams& p, const KeySource& source, const Work& work,
                           const Summation& sum, const LaunchSite& site);

void launch_reparameterize_backward(const ReparameterizeBackwardParams& p, const Work& work, const LaunchSite& site);

}  // namespace vae_fused
