// A likelihood whose elements share one sigma is a plain term of the differences, scaled: no kernel of its own.
//
// With s = log sigma, w the weight of an element, W = sum w and c the constant of the density, or 0,
//   Gaussian: sum w (d^2 / (2 sigma^2) + s + c) = (e^{-2s} / 2) sum w d^2 + (s + c) W,
//   Laplace:  sum w (|d| / sigma + s + c)       =  e^{-s}       sum w |d| + (s + c) W.
// The sums are float64, so nothing is lost by scaling them, and the derivative in s needs no pass of its own. Where
// 1 / sigma^2 is beyond float64, a difference of 0 still counts as 0.
#pragma once

#include <cmath>

#include "core/macros.h"
#include "core/recon_loss.h"

namespace vae_fused {

// The formula that the kernels evaluate for a likelihood with one sigma.
constexpr ReconLoss plain_term(ReconLoss loss) {
  return loss == ReconLoss::kGaussianNLL ? ReconLoss::kMSE : ReconLoss::kL1;
}

struct OneSigma {
  double scale;   // of the plain term's sum
  double offset;  // of every element, times its weight
  double power;   // the scale is proportional to sigma^-power

  VAE_FUSED_HOST_DEVICE double scaled(double sum) const { return sum == 0.0 ? 0.0 : scale * sum; }
  VAE_FUSED_HOST_DEVICE double value(double sum, double weights) const { return scaled(sum) + offset * weights; }
  VAE_FUSED_HOST_DEVICE double derivative(double sum, double weights) const { return weights - power * scaled(sum); }
  // Of the plain term's gradients: finite, with room for the factors that go with it.
  VAE_FUSED_HOST_DEVICE double gradient_scale() const { return scale < 0x1p1000 ? scale : 0x1p1000; }
};

VAE_FUSED_HOST_DEVICE OneSigma one_sigma(ReconLoss loss, double log_sigma, double constant) {
  if (loss == ReconLoss::kGaussianNLL) return {0.5 * ::exp(-2.0 * log_sigma), log_sigma + constant, 2.0};
  return {::exp(-log_sigma), log_sigma + constant, 1.0};
}

}  // namespace vae_fused
