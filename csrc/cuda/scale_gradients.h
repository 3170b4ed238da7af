#pragma once

#include "cuda/launch.h"

namespace vae_fused {

// One gradient that is multiplied in place.
struct ScaledGradient {
  Extent extent;
  Operand values;  // [N]
  Work work;
};

// As many as the objective has.
constexpr int kGradientsOfLaunch = 5;

struct ScaleGradientsParams {
  ScaledGradient gradients[kGradientsOfLaunch];
  int count;
  Weight factor;  // one number
};

void launch_scale_gradients(const ScaleGradientsParams& p, const LaunchSite& site);

}  // namespace vae_fused
