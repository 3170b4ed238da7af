// The diagonal Gaussian posterior, element by element: standard deviation, KL divergence, and their derivatives.
//
// With lambda = log sigma^2 everything follows from one exponential of x = lambda / 2. Writing h = e^x - 1 and
// q = e^x - 1 - x, both of which core/math.h gives without cancellation,
//   sigma = 1 + h,   sigma^2 - 1 = h (h + 2),   sigma^2 - 1 - lambda = h^2 + 2 q,
// and the last is a sum of two terms that are never negative. KL: Kingma and Welling 2013 (arXiv:1312.6114), app. B.
#pragma once

#include "core/macros.h"
#include "core/math.h"

namespace vae_fused {

template <class T>
struct Posterior {
  T sigma;               // e^{lambda/2}
  T variance_minus_one;  // e^lambda - 1; the derivative of the unit KL in lambda is half of it
  T unit_kl;             // (mu^2 + e^lambda - 1 - lambda) / 2, nats
};

// From the exponential of lambda / 2.
template <class T>
VAE_FUSED_HOST_DEVICE Posterior<T> posterior(T mu, const Exponential<T>& e) {
  const T half(0.5f), h = e.minus_one;
  const T squares = product_and_sum(mu, mu, h * h);
  return {e.value, h * (h + T(2.0f)), product_and_sum(half, squares, e.minus_one_minus_x)};
}

template <class T>
VAE_FUSED_HOST_DEVICE Posterior<T> posterior(T mu, T logvar) {
  return posterior(mu, exponential(T(0.5f) * logvar));
}

#if defined(__CUDACC__)
// On a GPU sigma is one approximate power of two, of relative error 2^-22 + |lambda| 2^-25, and the other two come from
// its square. Near 0 that would cancel: there e^lambda - 1 - lambda is lambda^2 P(lambda), P minimax, relative error
// 5e-7. Beyond, the square's error counts most at the seam, where it is 2e-6 of either difference at most.
VAE_FUSED_HOST_DEVICE Posterior<float> posterior(float mu, float logvar) {
  constexpr float kNearZero = 1.25f;
  const float sigma = approximate_exp2(0.5f * kLog2E * logvar);
  float p = fmaf(2.50741978e-5f, logvar, 0.000205875389f);
  p = fmaf(p, logvar, 0.00138936739f);
  p = fmaf(p, logvar, 0.00832774024f);
  p = fmaf(p, logvar, 0.0416662544f);
  p = fmaf(p, logvar, 0.166667655f);
  p = fmaf(p, logvar, 0.5f);
  const float square = logvar * logvar;
  const bool near_zero = fabsf(logvar) < kNearZero;
  const float minus_one = near_zero ? fmaf(square, p, logvar) : fmaf(sigma, sigma, -1.0f);
  const float minus_one_minus_logvar = near_zero ? square * p : fmaf(sigma, sigma, -1.0f) - logvar;
  return {sigma, minus_one, 0.5f * fmaf(mu, mu, minus_one_minus_logvar)};
}
#endif

template <class T>
VAE_FUSED_HOST_DEVICE T sigma_of(T logvar) {
  return exponential(T(0.5f) * logvar).value;
}

// KL( N(mu, e^lambda) || N(prior_mu, e^prior_lambda) ) with delta = lambda - prior_lambda:
//   (e^delta - 1 - delta + (mu - prior_mu)^2 e^{-prior_lambda}) / 2
template <class T>
struct GaussianKL {
  T value;              // nats
  T grad_mu;            // (mu - prior_mu) e^{-prior_lambda}; the derivative in prior_mu is its negative
  T grad_logvar;        // (e^delta - 1) / 2
  T grad_prior_logvar;  // -(e^delta - 1 + (mu - prior_mu)^2 e^{-prior_lambda}) / 2
};

// From the exponential of delta.
template <class T>
VAE_FUSED_HOST_DEVICE GaussianKL<T> gaussian_kl(T mu, const Exponential<T>& ratio, T prior_mu, T prior_logvar) {
  const T half(0.5f);
  const T precision = exponential(T(0.0f) - prior_logvar).value;
  const T difference = mu - prior_mu;
  const T scaled = difference * precision;
  const T distance = difference * scaled;
  return {half * (ratio.minus_one_minus_x + distance), scaled, half * ratio.minus_one,
          T(-0.5f) * (ratio.minus_one + distance)};
}

template <class T>
VAE_FUSED_HOST_DEVICE GaussianKL<T> gaussian_kl(T mu, T logvar, T prior_mu, T prior_logvar) {
  return gaussian_kl(mu, exponential(logvar - prior_logvar), prior_mu, prior_logvar);
}

}  // namespace vae_fused
