// The scale of the posterior, out of any of the forms in which it is stored, with its derivatives.
//
// raw -> value = map(raw) -> clamp of its log-variance -> + epsilon, which is sigma or sigma^2. Where the value is an
// exponential to the end, sigma comes from the log-variance; else sigma comes first, and no exponential of a logarithm
// costs it digits.
#pragma once

#include "core/gaussian.h"
#include "core/kernel_params.h"
#include "core/logarithm.h"

namespace vae_fused {

template <class T>
struct Scale {
  T sigma, sigma_slope;      // and its derivative in raw
  T logvar, logvar_slope;    // log sigma^2 and its derivative in raw
  T variance_minus_one;      // sigma^2 - 1
  T minus_one_minus_logvar;  // sigma^2 - 1 - logvar, without cancellation
};

// A number on its way, and its derivative in raw.
template <class T>
struct Sloped {
  T value, slope;
};

template <class T>
VAE_FUSED_HOST_DEVICE T constant(double value) {
  return T(static_cast<scalar_of<T>>(value));
}

// ln(1 + e^x) = max(x, 0) + ln(1 + e^-|x|); the rounding of 1 + e^-|x| is put back, for its digits are all there is of
// the result for a large negative x.
template <class T>
VAE_FUSED_HOST_DEVICE Sloped<T> softplus(T x) {
  const T zero(0.0f), one(1.0f);
  const T decayed = exponential(zero - absolute(x)).value, sum = one + decayed;
  const T log1p = logarithm(sum).value + (decayed - (sum - one)) / sum;
  return {select_less(x, zero, zero, x) + log1p, select_less(x, zero, decayed, one) / sum};
}

// Clamped to bounds as torch.clamp does it: the derivative is kept at the bounds and is zero beyond them.
template <class T>
VAE_FUSED_HOST_DEVICE Sloped<T> clamped_to(const Sloped<T>& x, double low_bound, double high_bound) {
  const T low = constant<T>(low_bound), high = constant<T>(high_bound), zero(0.0f);
  const T raised = select_less(x.value, low, low, x.value);
  const T passed = select_less(x.value, low, zero, select_less(high, x.value, zero, x.slope));
  return {select_less(high, raised, high, raised), passed};
}

// middle + half tanh((x - middle) / half), from e^{-2|y|}.
template <class T>
VAE_FUSED_HOST_DEVICE Sloped<T> softly_clamped(const Sloped<T>& logvar, double low, double high) {
  const T middle = constant<T>(0.5 * (low + high)), half = constant<T>(0.5 * (high - low)), zero(0.0f);
  const T y = (logvar.value - middle) / half;
  const auto decay = exponential(T(-2.0f) * absolute(y));
  const T denominator = T(2.0f) + decay.minus_one;
  const T magnitude = half * (zero - decay.minus_one) / denominator;
  const T slope = T(4.0f) * decay.value / (denominator * denominator);
  return {middle + select_less(y, zero, zero - magnitude, magnitude), logvar.slope * slope};
}

// Of the log-variance lambda: as core/gaussian.h has it.
template <class T>
VAE_FUSED_HOST_DEVICE Scale<T> scale_of_logvar(const Sloped<T>& logvar) {
  const T half(0.5f);
  const auto e = exponential(half * logvar.value);
  const T h = e.minus_one;
  return {e.value,           half * e.value * logvar.slope,        logvar.value, logvar.slope,
          h * (h + T(2.0f)), h * h + T(2.0f) * e.minus_one_minus_x};
}

// Of sigma, with h = sigma - 1: sigma^2 - 1 - 2 ln sigma = h^2 + 2 (h - ln(1 + h)).
template <class T>
VAE_FUSED_HOST_DEVICE Scale<T> scale_of_std(const Sloped<T>& sigma) {
  const T two(2.0f), h = sigma.value - T(1.0f);
  const auto log = logarithm(sigma.value);
  return {sigma.value,     sigma.slope,
          two * log.value, two * sigma.slope / sigma.value,
          h * (h + two),   h * h + two * log.argument_minus_one_minus_log};
}

template <class T>
VAE_FUSED_HOST_DEVICE Scale<T> scale_of_variance(const Sloped<T>& variance) {
  const auto log = logarithm(variance.value);
  const T sigma = square_root(variance.value);
  return {sigma,
          T(0.5f) * variance.slope / sigma,
          log.value,
          variance.slope / variance.value,
          variance.value - T(1.0f),
          log.argument_minus_one_minus_log};
}

template <class T>
VAE_FUSED_HOST_DEVICE Scale<T> scale_of(const ScaleForm& form, T raw) {
  // log-variance = order * ln(value)
  const T order(form.of_std ? 2.0f : 1.0f);
  const bool soft = form.clamp == ClampKind::kSoft;
  const bool straight = form.clamp == ClampKind::kStraightThrough;
  bool exponential_form = form.map == ScaleMap::kExponential;

  Sloped<T> value{raw, T(1.0f)}, logvar{order * raw, order};
  if (!exponential_form) {
    if (form.map == ScaleMap::kSoftplus) value = softplus(raw);
    if (soft) {
      logvar = {order * logarithm(value.value).value, order * value.slope / value.value};
      exponential_form = true;
    } else if (form.clamp != ClampKind::kNone) {
      // Straight-through means that the derivative of the logarithm, slope / value, stays.
      const Sloped<T> bounded = clamped_to(value, form.value_low, form.value_high);
      value = {bounded.value, straight ? value.slope * (bounded.value / value.value) : bounded.slope};
    }
  } else if (!soft && form.clamp != ClampKind::kNone) {
    const Sloped<T> bounded = clamped_to(logvar, form.low, form.high);
    logvar = {bounded.value, straight ? logvar.slope : bounded.slope};
  }
  if (soft) logvar = softly_clamped(logvar, form.low, form.high);

  if (exponential_form) {
    if (form.epsilon == 0.0) return scale_of_logvar(logvar);
    const T of_order(form.of_std ? 0.5f : 1.0f);
    const T grown = exponential(of_order * logvar.value).value;
    value = {grown, grown * (of_order * logvar.slope)};
  }
  value.value = value.value + constant<T>(form.epsilon);
  return form.of_std ? scale_of_std(value) : scale_of_variance(value);
}

// One element of the KL from either prior, its derivative in raw in the place of that in logvar.
template <bool kPrior, class T>
VAE_FUSED_HOST_DEVICE GaussianKL<T> kl_of_scale(T mu, const Scale<T>& scale, T prior_mu, T prior_logvar) {
  if constexpr (kPrior) {
    GaussianKL<T> element = gaussian_kl(mu, scale.logvar, prior_mu, prior_logvar);
    element.grad_logvar = element.grad_logvar * scale.logvar_slope;
    return element;
  } else {
    const T half(0.5f);
    return {half * (mu * mu + scale.minus_one_minus_logvar), mu, half * scale.variance_minus_one * scale.logvar_slope,
            T(0.0f)};
  }
}

}  // namespace vae_fused
