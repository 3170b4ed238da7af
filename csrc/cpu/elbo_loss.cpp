#include <torch/library.h>

#include "cpu/allocate.h"
#include "cpu/parallel.h"
#include "cpu/scalar_access.h"
#include "objective.h"
#include "operands.h"
#include "overwritten.h"

namespace vae_fused {
namespace {

double beta_of(const Objective& objective) {
  return present(objective.beta_tensor) ? read_number(*objective.beta_tensor, 0) : objective.beta;
}

ReconstructionParams reconstruction_params(const Objective& objective, const Gradients& grads, const Weight& weight) {
  ReconstructionParams p{};
  p.extent = bind_operands(objective.recon.sizes(), Order::kMemory,
                           {{objective.recon, &p.recon},
                            {objective.target, &p.target},
                            {grads.recon, &p.grad_recon},
                            {grads.target, &p.grad_target}});
  p.wide = accumulation_type({&objective.recon, &objective.target}) == at::kDouble;
  p.streamed = static_cast<int64_t>(objective.recon.nbytes()) > kStreamedBytes;
  p.numel = objective.recon.numel();
  p.item_numel = objective.numel_of_sum(objective.recon);
  p.target_scale = objective.target_scale;
  p.target_shift = objective.target_shift;
  p.weight = weight;
  return p;
}

KLDivergenceParams latent_params(const Objective& objective, const Gradients& grads, const Weight& weight) {
  KLDivergenceParams p{};
  p.extent = bind_operands(
      objective.mu.sizes(), Order::kMemory,
      {{objective.mu, &p.mu}, {objective.logvar, &p.logvar}, {grads.mu, &p.grad_mu}, {grads.logvar, &p.grad_logvar}});
  p.wide = objective.mu.scalar_type() == at::kDouble;
  p.streamed = static_cast<int64_t>(objective.mu.nbytes()) > kStreamedBytes;
  p.numel = objective.mu.numel();
  p.item_numel = objective.numel_of_sum(objective.mu);
  p.weight = weight;
  return p;
}

// Both terms in one parallel region: the tiles of the latents follow those of the data.
struct Terms {
  ReconstructionParams reconstruction;
  TilePlan reconstruction_plan;
  KLDivergenceParams latent{};
  TilePlan latent_plan{0, 0};

  Terms(const Objective& objective, const Gradients& grads, const Weight& reconstruction_weight,
        const Weight& latent_weight)
      : reconstruction(reconstruction_params(objective, grads, reconstruction_weight)),
        reconstruction_plan(objective.sums(), reconstruction.item_numel) {
    if (!objective.mu.defined()) return;
    latent = latent_params(objective, grads, latent_weight);
    latent_plan = TilePlan(objective.sums(), latent.item_numel);
  }

  void run(bool with_reconstruction, bool with_latent) const {
    const int64_t split = with_reconstruction ? reconstruction_plan.tiles : 0;
    const int64_t tiles = split + (with_latent ? latent_plan.tiles : 0);
    const KernelTable& table = kernels();
    parallel_over_tiles(tiles, tiles_of(reconstruction_plan, kGrainMemory), [&](int64_t first, int64_t last) {
      if (first < split) table.reconstruction(reconstruction, reconstruction_plan, first, std::min(last, split));
      if (last > split) table.kl_divergence(latent, latent_plan, std::max(first, split) - split, last - split);
    });
  }
};

// Loss and terms; and the gradients of the loss that have a buffer, for an incoming gradient of 1.
std::tuple<Tensor, Tensor, Tensor> forward(const Objective& objective, const Gradients& grads) {
  const auto dtype = objective.result_type();
  const auto result = [&] { return objective.by_item() ? allocate({objective.batch()}, dtype) : allocate({}, dtype); };
  Tensor loss = result(), reconstruction = result(), kl = result();

  Terms terms(objective, grads, Weight{nullptr, ElementType::kDouble, 0, 1.0 / objective.data_divisor()},
              Weight{nullptr, ElementType::kDouble, 0, beta_of(objective) / objective.latent_divisor()});
  Partials reconstruction_partials(terms.reconstruction_plan.partials(), 0.0);
  Partials latent_partials(terms.latent_plan.partials(), 0.0);
  terms.reconstruction.partials = reconstruction_partials.data();
  terms.latent.partials = latent_partials.data();
  terms.run(true, objective.mu.defined());

  const auto total = [](const Partials& partials, const TilePlan& plan, int64_t item) {
    return sum_of(partials.data() + item * plan.pieces, plan.pieces);
  };
  const auto given_kl = [&](int64_t item) { return read_number(objective.kl, item * objective.kl.stride(0)); };
  const double beta = beta_of(objective);
  for (int64_t i = 0; i < loss.numel(); ++i) {
    double latent = 0.0;
    if (objective.mu.defined()) {
      latent = total(latent_partials, terms.latent_plan, i);
    } else if (objective.by_item()) {
      latent = given_kl(i);
    } else {
      for (int64_t item = 0; item < objective.batch(); ++item) latent += given_kl(item);
    }
    const double data = total(reconstruction_partials, terms.reconstruction_plan, i) / objective.data_divisor();
    latent /= objective.latent_divisor();
    write_number(loss, i, data + beta * latent);
    write_number(reconstruction, i, data);
    write_number(kl, i, latent);
  }
  return {loss, reconstruction, kl};
}

// Fills the gradients that have a buffer, for an incoming gradient [] or [B].
void backward(const Objective& objective, const Tensor& grad_loss, const Gradients& grads) {
  Terms terms(objective, grads, weight_of_gradient(grad_loss, 1.0 / objective.data_divisor()),
              weight_of_gradient(grad_loss, beta_of(objective) / objective.latent_divisor()));
  terms.run(grads.recon.defined() || grads.target.defined(), grads.mu.defined() || grads.logvar.defined());
}

Tensor like_if(bool wanted, const Tensor& tensor) {
  return wanted && tensor.defined() ? allocate_like(tensor) : Tensor();
}

std::tuple<Tensor, Tensor, Tensor> elbo_loss_cpu(const Tensor& recon, const Tensor& target, const OptionalTensor& mu,
                                                 const OptionalTensor& logvar, const OptionalTensor& kl, double beta,
                                                 const OptionalTensor& beta_tensor, std::string_view recon_loss,
                                                 std::string_view reduction, double target_scale, double target_shift) {
  const Objective objective(
      {recon, target, mu, logvar, kl, beta, beta_tensor, recon_loss, reduction, target_scale, target_shift});
  return forward(objective, Gradients{});
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> elbo_loss_with_gradients_cpu(
    const Tensor& recon, const Tensor& target, const OptionalTensor& mu, const OptionalTensor& logvar,
    const OptionalTensor& kl, double beta, const OptionalTensor& beta_tensor, std::string_view recon_loss,
    std::string_view reduction, std::array<bool, 3> output_mask, double target_scale, double target_shift) {
  const Objective objective(
      {recon, target, mu, logvar, kl, beta, beta_tensor, recon_loss, reduction, target_scale, target_shift});
  TORCH_CHECK_VALUE(!objective.by_item(), "reduction must not be sample where the forward computes the gradients");
  const Gradients grads{like_if(output_mask[0], recon), Tensor(), like_if(output_mask[1], objective.mu),
                        like_if(output_mask[2], objective.logvar), Tensor()};
  const auto [loss, reconstruction, kl_term] = forward(objective, grads);
  return {loss, reconstruction, kl_term, grads.recon, grads.mu, grads.logvar};
}

// The gradient of recon takes its place: the kernel reads an element before it writes the gradient of it, and a tile
// that it has to gather before it writes any.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> elbo_loss_inplace_cpu(
    const Tensor& recon, const Tensor& target, const OptionalTensor& mu, const OptionalTensor& logvar,
    const OptionalTensor& kl, double beta, const OptionalTensor& beta_tensor, std::string_view recon_loss,
    std::string_view reduction, std::array<bool, 2> output_mask, double target_scale, double target_shift) {
  const Objective objective(
      {recon, target, mu, logvar, kl, beta, beta_tensor, recon_loss, reduction, target_scale, target_shift});
  check_overwritten(objective);
  const Gradients grads{recon, Tensor(), like_if(output_mask[0], objective.mu),
                        like_if(output_mask[1], objective.logvar), Tensor()};
  const auto [loss, reconstruction, kl_term] = forward(objective, grads);
  return {loss, reconstruction, kl_term, grads.mu, grads.logvar};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> elbo_loss_backward_cpu(
    const Tensor& grad_loss, const Tensor& recon, const Tensor& target, const OptionalTensor& mu,
    const OptionalTensor& logvar, const OptionalTensor& kl, double beta, const OptionalTensor& beta_tensor,
    std::string_view recon_loss, std::string_view reduction, std::array<bool, 5> output_mask, double target_scale,
    double target_shift) {
  const Objective objective(
      {recon, target, mu, logvar, kl, beta, beta_tensor, recon_loss, reduction, target_scale, target_shift});
  check_grad_loss(objective, grad_loss);
  const Gradients grads{like_if(output_mask[0], recon), like_if(output_mask[1], target),
                        like_if(output_mask[2], objective.mu), like_if(output_mask[3], objective.logvar),
                        like_if(output_mask[4], objective.kl)};
  backward(objective, grad_loss, grads);
  if (grads.kl.defined()) {
    const double scale = beta_of(objective) / objective.latent_divisor();
    for (int64_t item = 0; item < objective.batch(); ++item) {
      const int64_t at = objective.by_item() ? item * grad_loss.stride(0) : 0;
      write_number(grads.kl, item * grads.kl.stride(0), read_number(grad_loss, at) * scale);
    }
  }
  return {grads.recon, grads.target, grads.mu, grads.logvar, grads.kl};
}

// The forward computed the gradients for an incoming gradient of 1; for any other they are computed again in place.
void elbo_loss_backward_inplace_cpu(const Tensor& grad_loss, const Tensor& recon, const Tensor& target,
                                    const OptionalTensor& mu, const OptionalTensor& logvar, const OptionalTensor& kl,
                                    double beta, const OptionalTensor& beta_tensor, std::string_view recon_loss,
                                    std::string_view reduction, const OptionalTensor& grad_recon,
                                    const OptionalTensor& grad_mu, const OptionalTensor& grad_logvar,
                                    double target_scale, double target_shift) {
  const Objective objective(
      {recon, target, mu, logvar, kl, beta, beta_tensor, recon_loss, reduction, target_scale, target_shift});
  check_grad_loss(objective, grad_loss);
  if (!objective.by_item() && read_number(grad_loss, 0) == 1.0) return;
  backward(objective, grad_loss, checked_buffers(objective, grad_recon, grad_mu, grad_logvar));
}

TORCH_LIBRARY_IMPL(vae_fused, CPU, m) {
  m.impl("elbo_loss", &elbo_loss_cpu);
  m.impl("elbo_loss_with_gradients", &elbo_loss_with_gradients_cpu);
  m.impl("elbo_loss_", &elbo_loss_inplace_cpu);
  m.impl("elbo_loss_backward", &elbo_loss_backward_cpu);
  m.impl("elbo_loss_backward_", &elbo_loss_backward_inplace_cpu);
}

}  // namespace
}  // namespace vae_fused
