// The arguments of the objective, checked once for CPU and CUDA.
#pragma once

#include "checks.h"
#include "core/kernel_params.h"
#include "core/one_sigma.h"
#include "objective_arguments.h"
#include "reduction.h"
#include "sampling.h"

namespace vae_fused {

// The reconstruction term of a call: its formula for the kernels, and the operands beside recon and target.
struct ReconstructionTerm {
  ReconLoss loss;         // as the caller names it
  TermSettings settings;  // for the kernels
  double constant;        // of the likelihood, where it is asked for
  double recon_weight;
  Tensor weight;             // [N] expanded to recon, or undefined
  Tensor log_sigma;          // as given, or undefined
  Tensor element_log_sigma;  // [N] expanded to recon; undefined where one sigma serves all, or there is none
  std::optional<double> log_sigma_value;

  ReconstructionTerm(const ObjectiveArguments& a) : loss(parse_recon_loss(a.recon_loss)) {
    const TermArguments& term = a.term;
    check_log_sigma(loss, term.log_sigma, term.log_sigma_value, a.recon);
    check_term_settings(loss, term.full, term.smooth_l1_beta);
    check_weight(term.weight, a.recon);
    recon_weight = term.recon_weight;
    constant = term.full ? constant_of(loss) : 0.0;
    log_sigma_value = term.log_sigma_value;
    if (present(term.weight)) weight = term.weight->expand(a.recon.sizes());
    if (present(term.log_sigma)) {
      log_sigma = *term.log_sigma;
      if (log_sigma.numel() != 1) element_log_sigma = log_sigma.expand(a.recon.sizes());
    }
    settings = {with_one_sigma() ? plain_term(loss) : loss, term.smooth_l1_beta, constant};
  }

  bool with_one_sigma() const { return has_sigma(loss) && !element_log_sigma.defined(); }
  // The kernels of the squared error alone serve it.
  bool is_squared_error() const { return settings.formula == ReconLoss::kMSE && !weight.defined(); }
  // The gradient of log_sigma has its shape already where the kernels compute it; else it is a sum of what they
  // compute.
  bool log_sigma_is_of_elements() const {
    return element_log_sigma.defined() && log_sigma.sizes() == element_log_sigma.sizes();
  }
};

struct Objective {
  const Tensor& recon;
  const Tensor& target;
  Tensor mu, logvar, kl;  // either the pair or kl is defined
  double beta;            // where beta_tensor is absent
  const OptionalTensor& beta_tensor;
  Reduction reduction;
  double target_scale, target_shift;  // of a uint8 target
  ReconstructionTerm term;

  explicit Objective(const ObjectiveArguments& a)
      : recon(a.recon),
        target(a.target),
        beta(a.beta),
        beta_tensor(a.beta_tensor),
        reduction(parse_reduction(a.reduction, /*allow_none=*/false)),
        target_scale(a.target_scale),
        target_shift(a.target_shift),
        term((check_reconstruction(a.recon, a.target), a)) {
    check_target_scale(target, target_scale, target_shift);
    check_kl_source(recon, a.mu, a.logvar, a.kl, reduction);
    check_beta(beta_tensor, recon);
    if (present(a.kl)) {
      kl = *a.kl;
    } else {
      mu = *a.mu;
      logvar = *a.logvar;
    }
  }

  bool by_item() const { return reduction == Reduction::kSample; }
  // Bytes have no gradient, whatever the caller asks for.
  bool wants_grad_target(bool asked) const { return asked && target.is_floating_point(); }
  int64_t batch() const { return recon.size(0); }
  // How the sums are cut: one for each item, or one for all.
  int64_t sums() const { return by_item() ? batch() : 1; }
  int64_t numel_of_sum(const Tensor& term) const { return by_item() ? numel_per_item(term) : term.numel(); }
  double data_divisor() const { return divisor(reduction, batch(), recon.numel()); }
  double latent_divisor() const { return divisor(reduction, batch(), mu.defined() ? mu.numel() : 0); }
  at::ScalarType data_type() const { return accumulation_type({&recon, &target, &term.weight, &term.log_sigma}); }
  at::ScalarType result_type() const {
    const Tensor& latent = mu.defined() ? mu : kl;
    return data_type() == at::kDouble ? at::kDouble : accumulation_type({&latent});
  }
};

// The incoming gradient of the loss is one number, or one an item.
inline void check_grad_loss(const Objective& objective, const Tensor& grad_loss) {
  const auto shape = objective.by_item() ? objective.recon.sizes().slice(0, 1) : at::IntArrayRef();
  check_gradient("grad_loss", grad_loss, shape, objective.recon.device());
}

// Gradients of the objective, undefined where nobody asked. That of log_sigma is the one of every element; the sum over
// the elements that share a log_sigma is there to be multiplied by the incoming gradient.
struct Gradients {
  Tensor recon, target, mu, logvar, kl, log_sigma;
  Tensor shared_log_sigma{};  // of the shape of log_sigma, contiguous
};

// Buffers of gradients that are rewritten in place: each fits what it is the gradient of.
inline Gradients checked_buffers(const Objective& objective, const OptionalTensor& grad_recon,
                                 const OptionalTensor& grad_mu, const OptionalTensor& grad_logvar,
                                 const OptionalTensor& grad_kl, const OptionalTensor& grad_log_sigma) {
  const auto checked = [](const char* name, const OptionalTensor& grad, const Tensor& of) {
    if (!present(grad)) return Tensor();
    TORCH_CHECK_VALUE(of.defined(), name, " has nothing that it is the gradient of");
    check_gradient(name, *grad, of.sizes(), of.device());
    return *grad;
  };
  const Tensor of_log_sigma = checked("grad_log_sigma", grad_log_sigma, objective.term.log_sigma);
  const bool shared = of_log_sigma.defined() && !objective.term.log_sigma_is_of_elements();
  // It holds a sum of the forward, which nothing here computes again.
  TORCH_CHECK_VALUE(!shared || (of_log_sigma.is_contiguous() && !objective.by_item()),
                    "grad_log_sigma of a log_sigma that several elements share must be contiguous, and reduction not ",
                    "sample");
  return {checked("grad_recon", grad_recon, objective.recon),
          Tensor(),
          checked("grad_mu", grad_mu, objective.mu),
          checked("grad_logvar", grad_logvar, objective.logvar),
          checked("grad_kl", grad_kl, objective.kl),
          shared ? Tensor() : of_log_sigma,
          shared ? of_log_sigma : Tensor()};
}

}  // namespace vae_fused
