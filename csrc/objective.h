// The arguments of the objective, checked once for CPU and CUDA.
#pragma once

#include "checks.h"
#include "objective_arguments.h"
#include "reduction.h"
#include "sampling.h"

namespace vae_fused {

struct Objective {
  const Tensor& recon;
  const Tensor& target;
  Tensor mu, logvar, kl;  // either the pair or kl is defined
  double beta;            // where beta_tensor is absent
  const OptionalTensor& beta_tensor;
  Reduction reduction;
  double target_scale, target_shift;  // of a uint8 target

  explicit Objective(const ObjectiveArguments& a)
      : recon(a.recon),
        target(a.target),
        beta(a.beta),
        beta_tensor(a.beta_tensor),
        reduction(parse_reduction(a.reduction, /*allow_none=*/false)),
        target_scale(a.target_scale),
        target_shift(a.target_shift) {
    check_reconstruction(recon, target);
    check_target_scale(target, target_scale, target_shift);
    check_recon_loss(a.recon_loss);
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
  int64_t batch() const { return recon.size(0); }
  // How the sums are cut: one for each item, or one for all.
  int64_t sums() const { return by_item() ? batch() : 1; }
  int64_t numel_of_sum(const Tensor& term) const { return by_item() ? numel_per_item(term) : term.numel(); }
  double data_divisor() const { return divisor(reduction, batch(), recon.numel()); }
  double latent_divisor() const { return divisor(reduction, batch(), mu.defined() ? mu.numel() : 0); }
  at::ScalarType result_type() const { return accumulation_type({&recon, &target, mu.defined() ? &mu : &kl}); }
};

// The incoming gradient of the loss is one number, or one an item.
inline void check_grad_loss(const Objective& objective, const Tensor& grad_loss) {
  const auto shape = objective.by_item() ? objective.recon.sizes().slice(0, 1) : at::IntArrayRef();
  check_gradient("grad_loss", grad_loss, shape, objective.recon.device());
}

// Gradients of the objective, undefined where nobody asked.
struct Gradients {
  Tensor recon, target, mu, logvar, kl;
};

// Buffers of gradients that are rewritten in place: each fits what it is the gradient of.
inline Gradients checked_buffers(const Objective& objective, const OptionalTensor& grad_recon,
                                 const OptionalTensor& grad_mu, const OptionalTensor& grad_logvar) {
  const auto checked = [](const char* name, const OptionalTensor& grad, const Tensor& of) {
    if (!present(grad)) return Tensor();
    TORCH_CHECK_VALUE(of.defined(), name, " has nothing that it is the gradient of");
    check_gradient(name, *grad, of.sizes(), of.device());
    return *grad;
  };
  return {checked("grad_recon", grad_recon, objective.recon), Tensor(), checked("grad_mu", grad_mu, objective.mu),
          checked("grad_logvar", grad_logvar, objective.logvar), Tensor()};
}

}  // namespace vae_fused
