#include "cuda/elbo_loss.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <c10/core/DeviceGuard.h>
#include <torch/library.h>

#include "checks.h"
#include "cuda/device.h"
#include "operands.h"
#include "reduction.h"
#include "sampling.h"

namespace vae_fused {
namespace {

using OptionalTensor = std::optional<Tensor>;

// Gradients of the objective, undefined where nobody asked.
struct Gradients {
  Tensor recon, target, mu, logvar, kl;
};

Weight one_number(double value) { return {nullptr, ElementType::kDouble, 0, value}; }

// A CPU beta is read here; one on the device when the kernel runs, so that a captured graph follows its schedule.
Weight weight_of_beta(double beta, const OptionalTensor& beta_tensor, const Tensor& like) {
  if (!present(beta_tensor)) return one_number(beta);
  if (beta_tensor->device() != like.device()) return one_number(beta_tensor->item<double>());
  return weight_of_gradient(*beta_tensor, 1.0);
}

// The arguments of the objective, checked.
struct Objective {
  const Tensor& recon;
  const Tensor& target;
  Tensor mu, logvar, kl;  // either the pair or kl is defined
  Weight beta;
  Reduction reduction;

  Objective(const Tensor& recon, const Tensor& target, const OptionalTensor& mu, const OptionalTensor& logvar,
            const OptionalTensor& kl, double beta_value, const OptionalTensor& beta_tensor, std::string_view recon_loss,
            std::string_view reduction_name)
      : recon(recon), target(target), reduction(parse_reduction(reduction_name, /*allow_none=*/false)) {
    check_reconstruction(recon, target);
    check_recon_loss(recon_loss);
    check_kl_source(recon, mu, logvar, kl, reduction);
    check_beta(beta_tensor, recon);
    if (present(kl)) {
      this->kl = *kl;
    } else {
      this->mu = *mu;
      this->logvar = *logvar;
    }
    beta = weight_of_beta(beta_value, beta_tensor, recon);
  }

  bool by_item() const { return reduction == Reduction::kSample; }
  int64_t batch() const { return recon.size(0); }
  Work work_of(const Tensor& term) const {
    return by_item() ? Work(batch(), numel_per_item(term)) : Work(1, term.numel());
  }
  double data_divisor() const { return divisor(reduction, batch(), recon.numel()); }
  double latent_divisor() const { return divisor(reduction, batch(), mu.defined() ? mu.numel() : 0); }
  at::ScalarType result_type() const { return accumulation_type({&recon, &target, mu.defined() ? &mu : &kl}); }
};

// The operands and the work of both terms; no sums yet. grad_loss is undefined for an incoming gradient of 1.
ElboLossParams params_of(const Objective& objective, const Gradients& grads, const Tensor& grad_loss) {
  const auto weight = [&](double scale) {
    return grad_loss.defined() ? weight_of_gradient(grad_loss, scale) : one_number(scale);
  };
  ElboLossParams p{};
  p.batch = objective.batch();
  p.beta = objective.beta;
  p.grad_loss = weight(1.0);
  p.data_divisor = objective.data_divisor();
  p.latent_divisor = objective.latent_divisor();

  ReconstructionParams& data = p.data;
  data.extent = bind_operands(objective.recon.sizes(), Order::kMemory,
                              {{objective.recon, &data.recon},
                               {objective.target, &data.target},
                               {grads.recon, &data.grad_recon},
                               {grads.target, &data.grad_target}});
  data.wide = accumulation_type({&objective.recon, &objective.target}) == at::kDouble;
  data.numel = objective.recon.numel();
  data.weight = weight(1.0 / p.data_divisor);
  p.data_work = objective.work_of(objective.recon);
  data.item_numel = p.data_work.item_numel;

  if (objective.mu.defined()) {
    KLDivergenceParams& latent = p.latent;
    latent.extent = bind_operands(objective.mu.sizes(), Order::kMemory,
                                  {{objective.mu, &latent.mu},
                                   {objective.logvar, &latent.logvar},
                                   {grads.mu, &latent.grad_mu},
                                   {grads.logvar, &latent.grad_logvar}});
    latent.wide = objective.mu.scalar_type() == at::kDouble;
    latent.numel = objective.mu.numel();
    latent.weight = weight(1.0 / p.latent_divisor);
    p.latent_work = objective.work_of(objective.mu);
    latent.item_numel = p.latent_work.item_numel;
  } else {
    p.given_kl = weight_of_gradient(objective.kl, 1.0);
    if (grads.kl.defined()) bind_operands(grads.kl.sizes(), Order::kLogical, {{grads.kl, &p.grad_given_kl}});
  }
  return p;
}

// Loss and terms; and the gradients of the loss that have a buffer, for an incoming gradient of 1.
std::tuple<Tensor, Tensor, Tensor> forward(const Objective& objective, const Gradients& grads) {
  const auto options = objective.recon.options().dtype(objective.result_type());
  const auto result = [&] {
    return objective.by_item() ? at::empty({objective.batch()}, options) : at::empty({}, options);
  };
  Tensor loss = result(), reconstruction = result(), kl = result();
  if (loss.numel() == 0) return {loss, reconstruction, kl};

  ElboLossParams p = params_of(objective, grads, Tensor());
  p.with_data = true;
  p.with_latent = objective.mu.defined();
  p.loss = loss.mutable_data_ptr();
  p.reconstruction = reconstruction.mutable_data_ptr();
  p.kl = kl.mutable_data_ptr();
  p.wide_results = objective.result_type() == at::kDouble;
  pair_terms(p);
  Tensor partials;
  HeldTicket held{};
  if (!p.paired) {
    const int64_t latent_units = p.with_latent ? p.latent_work.units() : 0;
    partials = at::empty({p.data_work.units() + latent_units}, options.dtype(at::kDouble));
    p.data_partials = partials.mutable_data_ptr<double>();
    p.latent_partials = p.data_partials + p.data_work.units();
    held = next_ticket(objective.recon);
    p.ticket = held.ticket;
  }
  launch_elbo_loss(p, launch_site());
  check_launch();
  return {loss, reconstruction, kl};
}

// Fills the gradients that have a buffer, for an incoming gradient [] or [B].
void backward(const Objective& objective, const Tensor& grad_loss, const Gradients& grads, bool nothing_if_one) {
  ElboLossParams p = params_of(objective, grads, grad_loss);
  const auto wanted = [](const Tensor& grad) { return grad.defined() && grad.numel() > 0; };
  p.with_data = wanted(grads.recon) || wanted(grads.target);
  p.with_latent = wanted(grads.mu) || wanted(grads.logvar);
  p.nothing_if_one = nothing_if_one;
  if (!p.with_data && !p.with_latent && !wanted(grads.kl)) return;
  launch_elbo_loss(p, launch_site());
  check_launch();
}

void check_grad_loss(const Objective& objective, const Tensor& grad_loss) {
  const auto shape = objective.by_item() ? objective.recon.sizes().slice(0, 1) : at::IntArrayRef();
  check_gradient("grad_loss", grad_loss, shape, objective.recon.device());
}

Tensor like_if(bool wanted, const Tensor& tensor) {
  return wanted && tensor.defined() ? at::empty_like(tensor) : Tensor();
}

std::tuple<Tensor, Tensor, Tensor> elbo_loss_cuda(const Tensor& recon, const Tensor& target, const OptionalTensor& mu,
                                                  const OptionalTensor& logvar, const OptionalTensor& kl, double beta,
                                                  const OptionalTensor& beta_tensor, std::string_view recon_loss,
                                                  std::string_view reduction) {
  const c10::DeviceGuard guard(recon.device());
  const Objective objective(recon, target, mu, logvar, kl, beta, beta_tensor, recon_loss, reduction);
  return forward(objective, Gradients{});
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> elbo_loss_with_gradients_cuda(
    const Tensor& recon, const Tensor& target, const OptionalTensor& mu, const OptionalTensor& logvar,
    const OptionalTensor& kl, double beta, const OptionalTensor& beta_tensor, std::string_view recon_loss,
    std::string_view reduction, std::array<bool, 3> output_mask) {
  const c10::DeviceGuard guard(recon.device());
  const Objective objective(recon, target, mu, logvar, kl, beta, beta_tensor, recon_loss, reduction);
  TORCH_CHECK_VALUE(!objective.by_item(), "reduction must not be sample where the forward computes the gradients");
  const Gradients grads{like_if(output_mask[0], recon), Tensor(), like_if(output_mask[1], objective.mu),
                        like_if(output_mask[2], objective.logvar), Tensor()};
  const auto [loss, reconstruction, kl_term] = forward(objective, grads);
  return {loss, reconstruction, kl_term, grads.recon, grads.mu, grads.logvar};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> elbo_loss_backward_cuda(
    const Tensor& grad_loss, const Tensor& recon, const Tensor& target, const OptionalTensor& mu,
    const OptionalTensor& logvar, const OptionalTensor& kl, double beta, const OptionalTensor& beta_tensor,
    std::string_view recon_loss, std::string_view reduction, std::array<bool, 5> output_mask) {
  const c10::DeviceGuard guard(recon.device());
  const Objective objective(recon, target, mu, logvar, kl, beta, beta_tensor, recon_loss, reduction);
  check_grad_loss(objective, grad_loss);
  const Gradients grads{like_if(output_mask[0], recon), like_if(output_mask[1], target),
                        like_if(output_mask[2], objective.mu), like_if(output_mask[3], objective.logvar),
                        like_if(output_mask[4], objective.kl)};
  backward(objective, grad_loss, grads, /*nothing_if_one=*/false);
  return {grads.recon, grads.target, grads.mu, grads.logvar, grads.kl};
}

void elbo_loss_backward_inplace_cuda(const Tensor& grad_loss, const Tensor& recon, const Tensor& target,
                                     const OptionalTensor& mu, const OptionalTensor& logvar, const OptionalTensor& kl,
                                     double beta, const OptionalTensor& beta_tensor, std::string_view recon_loss,
                                     std::string_view reduction, const OptionalTensor& grad_recon,
                                     const OptionalTensor& grad_mu, const OptionalTensor& grad_logvar) {
  const c10::DeviceGuard guard(recon.device());
  const Objective objective(recon, target, mu, logvar, kl, beta, beta_tensor, recon_loss, reduction);
  check_grad_loss(objective, grad_loss);
  const Gradients grads{grad_recon.value_or(Tensor()), Tensor(), grad_mu.value_or(Tensor()),
                        grad_logvar.value_or(Tensor()), Tensor()};
  const auto check_buffer = [](const char* name, const Tensor& grad, const Tensor& of) {
    if (!grad.defined()) return;
    TORCH_CHECK_VALUE(of.defined(), name, " has nothing that it is the gradient of");
    check_gradient(name, grad, of.sizes(), of.device());
  };
  check_buffer("grad_recon", grads.recon, recon);
  check_buffer("grad_mu", grads.mu, objective.mu);
  check_buffer("grad_logvar", grads.logvar, objective.logvar);
  backward(objective, grad_loss, grads, /*nothing_if_one=*/!objective.by_item());
}

TORCH_LIBRARY_IMPL(vae_fused, CUDA, m) {
  m.impl("elbo_loss", &elbo_loss_cuda);
  m.impl("elbo_loss_with_gradients", &elbo_loss_with_gradients_cuda);
  m.impl("elbo_loss_backward", &elbo_loss_backward_cuda);
  m.impl("elbo_loss_backward_", &elbo_loss_backward_inplace_cuda);
}

}  // namespace
}  // namespace vae_fused
