// Reconstruction terms, element by element: value and derivative.
#pragma once

#include "core/macros.h"

namespace vae_fused {

template <class T>
struct ReconstructionElement {
  T root;        // the term is the square of it: squared in float64 where it is summed
  T derivative;  // in recon; the derivative in target is its negative
};

// (recon - target)^2, without a factor 1/2.
template <class T>
VAE_FUSED_HOST_DEVICE ReconstructionElement<T> squared_error(T recon, T target) {
  const T difference = recon - target;
  return {difference, difference + difference};
}

}  // namespace vae_fused
