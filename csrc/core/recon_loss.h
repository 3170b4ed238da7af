// The reconstruction terms by name.
#pragma once

#include <cstdint>

namespace vae_fused {

enum class ReconLoss : int8_t { kMSE, kL1, kSmoothL1, kBCEWithLogits, kBCE, kGaussianNLL, kLaplaceNLL };

// In the order of the enumeration; vae_fused/_arguments.py has the same list.
constexpr const char* kReconLossNames[] = {"mse", "l1",           "smooth_l1",  "bce_with_logits",
                                           "bce", "gaussian_nll", "laplace_nll"};

// Whether the term is the negative logarithm of a density with a width sigma, and so has a log_sigma and a constant.
constexpr bool has_sigma(ReconLoss loss) { return loss == ReconLoss::kGaussianNLL || loss == ReconLoss::kLaplaceNLL; }

// What the density's normalisation adds to every element: log(2 pi) / 2 and log 2.
constexpr double constant_of(ReconLoss loss) {
  return loss == ReconLoss::kGaussianNLL  ? 0.91893853320467274178
         : loss == ReconLoss::kLaplaceNLL ? 0.69314718055994530942
                                          : 0.0;
}

}  // namespace vae_fused
