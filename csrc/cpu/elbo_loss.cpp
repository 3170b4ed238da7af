#include <torch/library.h>

#include "checks.h"
#include "cpu/allocate.h"
#include "cpu/parallel.h"
#include "cpu/scalar_access.h"
#include "operands.h"
#include "reduction.h"
#include "sampling.h"

namespace vae_fused {
namespace {

using OptionalTensor = std::optional<Tensor>;

// The arguments of the objective, checked.
struct Objective {
  const Tensor& recon;
  const Tensor& target;
  Tensor mu, logvar, kl;  // either the pair or kl is defined
  double beta;
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
    beta = present(beta_tensor) ? read_number(*beta_tensor, 0) : beta_value;
  }

  bool by_item() const { return reduction == Reduction::kSample; }
  int64_t batch() const { return recon.size(0); }
  int64_t plan_items() const { return by_item() ? batch() : 1; }
  int64_t plan_numel(const Tensor& term) const { return by_item() ? numel_per_item(term) : term.numel(); }
  double recon_divisor() const { return divisor(reduction, batch(), recon.numel()); }
  double kl_divisor() const { return divisor(reduction, batch(), mu.defined() ? mu.numel() : 0); }
  at::ScalarType result_type() const { return accumulation_type({&recon, &target, mu.defined() ? &mu : &kl}); }
};

// Gradients of the objective, undefined where nobody asked.
struct Gradients {
  Tensor recon, target, mu, logvar;
};

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
  p.item_numel = objective.plan_numel(objective.recon);
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
  p.item_numel = objective.plan_numel(objective.mu);
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
        reconstruction_plan(objective.plan_items(), reconstruction.item_numel) {
    if (!objective.mu.defined()) return;
    latent = latent_params(objective, grads, latent_weight);
    latent_plan = TilePlan(objective.plan_items(), latent.item_numel);
  }

  void run(bool with_reconstruction, bool with_latent) const {
    const int64_t split = with_reconstruction ? reconstruction_plan.tiles : 0;
    const int64_t tiles = split + (with_latent ? latent_plan.tiles : 0);
    const KernelTable& table = kernels();
    at::parallel_for(0, tiles, tiles_of(reconstruction_plan, kGrainMemory), [&](int64_t first, int64_t last) {
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

  Terms terms(objective, grads, Weight{nullptr, ElementType::kDouble, 0, 1.0 / objective.recon_divisor()},
              Weight{nullptr, ElementType::kDouble, 0, objective.beta / objective.kl_divisor()});
  Partials reconstruction_partials(terms.reconstruction_plan.partials(), 0.0);
  Partials latent_partials(terms.latent_plan.partials(), 0.0);
  terms.reconstruction.partials = reconstruction_partials.data();
  terms.latent.partials = latent_partials.data();
  terms.run(true, objective.mu.defined());

  const auto total = [](const Partials& partials, const TilePlan& plan, int64_t item) {
    return sum_of(partials.data() + item * plan.pieces, plan.pieces);
  };
  const auto given_kl = [&](int64_t item) { return read_number(objective.kl, item * objective.kl.stride(0)); };
  for (int64_t i = 0; i < loss.numel(); ++i) {
    double latent = 0.0;
    if (objective.mu.defined()) {
      latent = total(latent_partials, terms.latent_plan, i);
    } else if (objective.by_item()) {
      latent = given_kl(i);
    } else {
      for (int64_t item = 0; item < objective.batch(); ++item) latent += given_kl(item);
    }
    const double data = total(reconstruction_partials, terms.reconstruction_plan, i) / objective.recon_divisor();
    latent /= objective.kl_divisor();
    write_number(loss, i, data + objective.beta * latent);
    write_number(reconstruction, i, data);
    write_number(kl, i, latent);
  }
  return {loss, reconstruction, kl};
}

// Fills the gradients that have a buffer, for an incoming gradient [] or [B].
void backward(const Objective& objective, const Tensor& grad_loss, const Gradients& grads) {
  Terms terms(objective, grads, weight_of_gradient(grad_loss, 1.0 / objective.recon_divisor()),
              weight_of_gradient(grad_loss, objective.beta / objective.kl_divisor()));
  terms.run(grads.recon.defined() || grads.target.defined(), grads.mu.defined() || grads.logvar.defined());
}

void check_grad_loss(const Objective& objective, const Tensor& grad_loss) {
  const auto shape = objective.by_item() ? objective.recon.sizes().slice(0, 1) : at::IntArrayRef();
  check_gradient("grad_loss", grad_loss, shape, objective.recon.device());
}

Tensor like_if(bool wanted, const Tensor& tensor) {
  return wanted && tensor.defined() ? allocate_like(tensor) : Tensor();
}

std::tuple<Tensor, Tensor, Tensor> elbo_loss_cpu(const Tensor& recon, const Tensor& target, const OptionalTensor& mu,
                                                 const OptionalTensor& logvar, const OptionalTensor& kl, double beta,
                                                 const OptionalTensor& beta_tensor, std::string_view recon_loss,
                                                 std::string_view reduction) {
  const Objective objective(recon, target, mu, logvar, kl, beta, beta_tensor, recon_loss, reduction);
  return forward(objective, Gradients{});
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> elbo_loss_with_gradients_cpu(
    const Tensor& recon, const Tensor& target, const OptionalTensor& mu, const OptionalTensor& logvar,
    const OptionalTensor& kl, double beta, const OptionalTensor& beta_tensor, std::string_view recon_loss,
    std::string_view reduction, std::array<bool, 3> output_mask) {
  const Objective objective(recon, target, mu, logvar, kl, beta, beta_tensor, recon_loss, reduction);
  TORCH_CHECK_VALUE(!objective.by_item(), "reduction must not be sample where the forward computes the gradients");
  const Gradients grads{like_if(output_mask[0], recon), Tensor(), like_if(output_mask[1], objective.mu),
                        like_if(output_mask[2], objective.logvar)};
  const auto [loss, reconstruction, kl_term] = forward(objective, grads);
  return {loss, reconstruction, kl_term, grads.recon, grads.mu, grads.logvar};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> elbo_loss_backward_cpu(
    const Tensor& grad_loss, const Tensor& recon, const Tensor& target, const OptionalTensor& mu,
    const OptionalTensor& logvar, const OptionalTensor& kl, double beta, const OptionalTensor& beta_tensor,
    std::string_view recon_loss, std::string_view reduction, std::array<bool, 5> output_mask) {
  const Objective objective(recon, target, mu, logvar, kl, beta, beta_tensor, recon_loss, reduction);
  check_grad_loss(objective, grad_loss);
  const Gradients grads{like_if(output_mask[0], recon), like_if(output_mask[1], target),
                        like_if(output_mask[2], objective.mu), like_if(output_mask[3], objective.logvar)};
  backward(objective, grad_loss, grads);
  Tensor grad_kl = like_if(output_mask[4], objective.kl);
  if (grad_kl.defined()) {
    const double scale = objective.beta / objective.kl_divisor();
    for (int64_t item = 0; item < objective.batch(); ++item) {
      const int64_t at = objective.by_item() ? item * grad_loss.stride(0) : 0;
      write_number(grad_kl, item * grad_kl.stride(0), read_number(grad_loss, at) * scale);
    }
  }
  return {grads.recon, grads.target, grads.mu, grads.logvar, grad_kl};
}

// The forward computed the gradients for an incoming gradient of 1; for any other they are computed again in place.
void elbo_loss_backward_inplace_cpu(const Tensor& grad_loss, const Tensor& recon, const Tensor& target,
                                    const OptionalTensor& mu, const OptionalTensor& logvar, const OptionalTensor& kl,
                                    double beta, const OptionalTensor& beta_tensor, std::string_view recon_loss,
                                    std::string_view reduction, const OptionalTensor& grad_recon,
                                    const OptionalTensor& grad_mu, const OptionalTensor& grad_logvar) {
  const Objective objective(recon, target, mu, logvar, kl, beta, beta_tensor, recon_loss, reduction);
  check_grad_loss(objective, grad_loss);
  if (!objective.by_item() && read_number(grad_loss, 0) == 1.0) return;
  const Gradients grads{grad_recon.value_or(Tensor()), Tensor(), grad_mu.value_or(Tensor()),
                        grad_logvar.value_or(Tensor())};
  const auto check_buffer = [](const char* name, const Tensor& grad, const Tensor& of) {
    if (!grad.defined()) return;
    TORCH_CHECK_VALUE(of.defined(), name, " has nothing that it is the gradient of");
    check_gradient(name, grad, of.sizes(), of.device());
  };
  check_buffer("grad_recon", grads.recon, recon);
  check_buffer("grad_mu", grads.mu, objective.mu);
  check_buffer("grad_logvar", grads.logvar, objective.logvar);
  backward(objective, grad_loss, grads);
}

TORCH_LIBRARY_IMPL(vae_fused, CPU, m) {
  m.impl("elbo_loss", &elbo_loss_cpu);
  m.impl("elbo_loss_with_gradients", &elbo_loss_with_gradients_cpu);
  m.impl("elbo_loss_backward", &elbo_loss_backward_cpu);
  m.impl("elbo_loss_backward_", &elbo_loss_backward_inplace_cpu);
}

}  // namespace
}  // namespace vae_fused
