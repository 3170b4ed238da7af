#pragma once

#include "cuda/launch.h"

namespace vae_fused {

void launch_standard_normal(const StandardNormalParams& p, const Work& work, const LaunchSite& site);

}  // namespace vae_fused
