// The reconstruction terms, element by element: each states its value and its derivatives once, for CPU and CUDA.
//
// A term is called with recon, target and log_sigma, which only the likelihoods with a sigma an element look at; those
// with one sigma for all are core/one_sigma.h. Where it takes an elementary function of recon or of log_sigma alone,
// that is begin(recon, log_sigma), which a kernel may call ahead, to call the term with what it returned.
// docs/reconstruction-terms.md has the formulas and where they come from.
#pragma once

#include "core/kernel_params.h"
#include "core/math.h"
#include "core/recon_loss.h"
#include "core/reconstruction_math.h"

namespace vae_fused {

template <class T>
struct TermElement {
  T value;
  T to_recon, to_target;  // derivatives
  T to_log_sigma;         // 0 where there is none
};

// (recon - target)^2; without a weight the kernels of core/reconstruction.h do it.
template <class T>
struct SquaredError {
  VAE_FUSED_HOST_DEVICE explicit SquaredError(const TermSettings&) {}

  VAE_FUSED_HOST_DEVICE TermElement<T> operator()(T recon, T target, T) const {
    const T difference = recon - target, slope = difference + difference;
    return {difference * difference, slope, T(0.0f) - slope, T(0.0f)};
  }
};

template <class T>
struct AbsoluteError {
  VAE_FUSED_HOST_DEVICE explicit AbsoluteError(const TermSettings&) {}

  VAE_FUSED_HOST_DEVICE TermElement<T> operator()(T recon, T target, T) const {
    const T difference = recon - target, sign = sign_of(difference);
    return {absolute(difference), sign, T(0.0f) - sign, T(0.0f)};
  }
};

// d^2 / (2 beta) within |d| < beta, |d| - beta / 2 beyond. With c = d / beta, clamped to [-1, 1], both are
// c (d - c beta / 2), and c is the derivative.
template <class T>
struct SmoothL1 {
  using Scalar = scalar_of<T>;
  VAE_FUSED_HOST_DEVICE explicit SmoothL1(const TermSettings& settings)
      : half_beta(static_cast<Scalar>(0.5 * settings.smooth_l1_beta)),
        inverse_beta(static_cast<Scalar>(1.0 / settings.smooth_l1_beta)) {}

  VAE_FUSED_HOST_DEVICE TermElement<T> operator()(T recon, T target, T) const {
    const T difference = recon - target, slope = within_one(difference * inverse_beta);
    return {slope * (difference - slope * half_beta), slope, T(0.0f) - slope, T(0.0f)};
  }

  const T half_beta, inverse_beta;
};

// -target log sigmoid(recon) - (1 - target) log sigmoid(-recon) = max(recon, 0) - recon target + log1p(e^-|recon|),
// where the first two terms are |recon| times target or 1 - target. Nothing overflows and nothing cancels.
template <class T>
struct BCEWithLogits {
  VAE_FUSED_HOST_DEVICE explicit BCEWithLogits(const TermSettings&) {}

  VAE_FUSED_HOST_DEVICE T begin(T recon, T) const { return decay(recon); }

  VAE_FUSED_HOST_DEVICE TermElement<T> operator()(T recon, T target, T log_sigma) const {
    return (*this)(recon, target, log_sigma, begin(recon, log_sigma));
  }
  VAE_FUSED_HOST_DEVICE TermElement<T> operator()(T recon, T target, T, T fallen) const {
    const T zero(0.0f), one(1.0f), minus_recon = zero - recon;
    const T sigmoid = quotient(select_less(recon, zero, fallen, one), one + fallen);
    const T against = select_less(recon, zero, target, one - target);
    return {product_and_sum(absolute(recon), against, log_one_plus_of_unit(fallen)), sigmoid - target, minus_recon,
            zero};
  }
};

// -target log recon - (1 - target) log(1 - recon) of a probability; the logarithms are at least -100 and the derivative
// divides by at least 1e-12, as in torch.nn.functional.binary_cross_entropy. NaN where recon is no probability.
template <class T>
struct BCE {
  VAE_FUSED_HOST_DEVICE explicit BCE(const TermSettings&) {}

  VAE_FUSED_HOST_DEVICE TermElement<T> operator()(T recon, T target, T) const {
    const T zero(0.0f), one(1.0f), lowest(-100.0f), least(1e-12f);
    const T log_of = at_least(natural_log(recon), lowest);
    const T log_of_other = at_least(log_one_plus(zero - recon), lowest);
    const T to_target = log_of_other - log_of;
    const T variance = at_least(recon * (one - recon), least);
    return {product_and_sum(target, to_target, zero - log_of_other), quotient(recon - target, variance), to_target,
            zero};
  }
};

// 1 / sigma as the factor of the difference; for no difference 1, because 1 / sigma may be infinite and 0 / sigma is 0.
template <class T>
VAE_FUSED_HOST_DEVICE T factor_of_difference(T difference, T inverse_sigma) {
  return select_less(T(0.0f), absolute(difference), inverse_sigma, T(1.0f));
}

// d^2 / (2 sigma^2) + log sigma + constant. d / sigma is formed before it is squared, so that e^{2 log_sigma} need not
// be within the range of T.
template <class T>
struct GaussianNLL {
  using Scalar = scalar_of<T>;
  VAE_FUSED_HOST_DEVICE explicit GaussianNLL(const TermSettings& settings)
      : constant(static_cast<Scalar>(settings.constant)) {}

  VAE_FUSED_HOST_DEVICE T begin(T, T log_sigma) const { return exponential_of(T(0.0f) - log_sigma); }

  VAE_FUSED_HOST_DEVICE TermElement<T> operator()(T recon, T target, T log_sigma) const {
    return (*this)(recon, target, log_sigma, begin(recon, log_sigma));
  }
  VAE_FUSED_HOST_DEVICE TermElement<T> operator()(T recon, T target, T log_sigma, T inverse_sigma) const {
    const T difference = recon - target, factor = factor_of_difference(difference, inverse_sigma);
    const T score = difference * factor, square = score * score, slope = score * factor;
    return {product_and_sum(T(0.5f), square, log_sigma + constant), slope, T(0.0f) - slope, T(1.0f) - square};
  }

  const T constant;
};

// |d| / sigma + log sigma + constant.
template <class T>
struct LaplaceNLL {
  using Scalar = scalar_of<T>;
  VAE_FUSED_HOST_DEVICE explicit LaplaceNLL(const TermSettings& settings)
      : constant(static_cast<Scalar>(settings.constant)) {}

  VAE_FUSED_HOST_DEVICE T begin(T, T log_sigma) const { return exponential_of(T(0.0f) - log_sigma); }

  VAE_FUSED_HOST_DEVICE TermElement<T> operator()(T recon, T target, T log_sigma) const {
    return (*this)(recon, target, log_sigma, begin(recon, log_sigma));
  }
  VAE_FUSED_HOST_DEVICE TermElement<T> operator()(T recon, T target, T log_sigma, T inverse_sigma) const {
    const T difference = recon - target, factor = factor_of_difference(difference, inverse_sigma);
    const T score = absolute(difference) * factor, slope = sign_of(difference) * factor;
    return {score + (log_sigma + constant), slope, T(0.0f) - slope, T(1.0f) - score};
  }

  const T constant;
};

// A term known when the kernel runs: for the kernels that are not worth one for every term.
template <class T>
struct AnyTerm {
  const TermSettings& settings;
  VAE_FUSED_HOST_DEVICE explicit AnyTerm(const TermSettings& settings) : settings(settings) {}

  VAE_FUSED_HOST_DEVICE TermElement<T> operator()(T recon, T target, T log_sigma) const {
    switch (settings.formula) {
      case ReconLoss::kL1: return AbsoluteError<T>(settings)(recon, target, log_sigma);
      case ReconLoss::kSmoothL1: return SmoothL1<T>(settings)(recon, target, log_sigma);
      case ReconLoss::kBCEWithLogits: return BCEWithLogits<T>(settings)(recon, target, log_sigma);
      case ReconLoss::kBCE: return BCE<T>(settings)(recon, target, log_sigma);
      case ReconLoss::kGaussianNLL: return GaussianNLL<T>(settings)(recon, target, log_sigma);
      case ReconLoss::kLaplaceNLL: return LaplaceNLL<T>(settings)(recon, target, log_sigma);
      default: return SquaredError<T>(settings)(recon, target, log_sigma);
    }
  }
};

// A term for any type.
template <template <class> class Term>
struct TermOf {
  template <class T>
  using For = Term<T>;
};

// body(TermOf<Term>) for the term that a kernel evaluates.
template <class Body>
inline __attribute__((always_inline)) void with_term(ReconLoss formula, Body body) {
  switch (formula) {
    case ReconLoss::kMSE: return body(TermOf<SquaredError>{});
    case ReconLoss::kL1: return body(TermOf<AbsoluteError>{});
    case ReconLoss::kSmoothL1: return body(TermOf<SmoothL1>{});
    case ReconLoss::kBCEWithLogits: return body(TermOf<BCEWithLogits>{});
    case ReconLoss::kBCE: return body(TermOf<BCE>{});
    case ReconLoss::kGaussianNLL: return body(TermOf<GaussianNLL>{});
    case ReconLoss::kLaplaceNLL: return body(TermOf<LaplaceNLL>{});
  }
}

}  // namespace vae_fused
