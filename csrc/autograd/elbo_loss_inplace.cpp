// The objective whose gradient takes the place of the reconstruction. The backward cannot compute anything again, so it
// hands each gradient over once, multiplied by the incoming gradient.
#include <ATen/TensorSubclassLikeUtils.h>

#include "autograd/elbo_loss.h"

namespace vae_fused {
namespace {

// What autograd needs of the overwritten memory later, or what belongs to the user, is refused.
void check_overwritten_by_autograd(const Tensor& recon, const Tensor& target) {
  const Tensor owner = recon.is_view() ? Tensor(recon._base()) : recon;
  TORCH_CHECK_VALUE(!(owner.is_leaf() && owner.requires_grad()), "recon is a leaf that requires a gradient",
                    recon.is_view() ? ", or a view of one" : "", ", inplace=True would overwrite it");
  TORCH_CHECK_VALUE(!target.requires_grad(),
                    "target must not require a gradient with inplace=True, which overwrites the recon that it needs");
}

enum Saved { kMu, kLogvar, kKL, kBetaTensor, kLogSigma };

struct ElboLossInPlace : torch::autograd::Function<ElboLossInPlace> {
  static Tensor forward(AutogradContext* ctx, const Tensor& recon, const Tensor& target, const OptionalTensor& mu,
                        const OptionalTensor& logvar, const OptionalTensor& kl, const OptionalTensor& beta_tensor,
                        const OptionalTensor& log_sigma, const ObjectiveArguments& arguments, DetachedTerms* terms) {
    const auto wanted = [](const OptionalTensor& input) { return present(input) && input->requires_grad(); };
    Tensor loss, grad_mu, grad_logvar, grad_log_sigma;
    {
      BelowAutograd guard;
      std::tie(loss, terms->reconstruction, terms->kl, grad_mu, grad_logvar, grad_log_sigma) =
          ops::elbo_loss_({wanted(mu), wanted(logvar), wanted(log_sigma)}, arguments);
    }
    // Whoever saved recon for its own backward finds out by this.
    recon.unsafeGetTensorImpl()->bump_version();
    const Tensor grad_recon = recon.detach();  // shares the memory and the version, but holds no graph
    ctx->saved_data["grad_recon"] = grad_recon;
    ctx->saved_data["grad_mu"] = grad_mu;
    ctx->saved_data["grad_logvar"] = grad_logvar;
    if (grad_log_sigma.defined()) ctx->saved_data["grad_log_sigma"] = grad_log_sigma;
    ctx->saved_data["version"] = grad_recon._version();
    ctx->saved_data["beta"] = arguments.beta;
    ctx->saved_data["reduction"] = std::string(arguments.reduction);
    // The KL is computed again where beta needs a gradient.
    const bool with_latent = present(beta_tensor) && beta_tensor->requires_grad();
    ctx->save_for_backward({with_latent ? or_undefined(mu) : Tensor(), with_latent ? or_undefined(logvar) : Tensor(),
                            or_undefined(kl), or_undefined(beta_tensor), or_undefined(log_sigma)});
    ctx->set_materialize_grads(false);
    return loss;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    variable_list result(9);  // recon, target, mu, logvar, kl, beta_tensor, log_sigma, and two that are no tensors
    const Tensor& grad_loss = grads[0];
    if (!grad_loss.defined()) return result;
    TORCH_CHECK(!at::GradMode::is_enabled() && !at::isTensorSubclassLike(grad_loss),
                "elbo_loss with inplace=True is differentiable once, for one incoming gradient: recon was overwritten "
                "by its gradient. Call it with inplace=False for create_graph=True and for batches of gradients");
    const auto saved = ctx->get_saved_variables();
    const std::string reduction = ctx->saved_data["reduction"].toStringRef();
    const OptionalTensor mu = or_none(saved[kMu]), logvar = or_none(saved[kLogvar]), kl = or_none(saved[kKL]),
                         beta_tensor = or_none(saved[kBetaTensor]);

    if (ctx->needs_input_grad(0)) result[0] = take(ctx, "grad_recon", grad_loss);
    // An absent input has no edge: after recon and target come kl, or mu and logvar, and then beta.
    size_t edge = 2;
    if (present(kl)) {
      if (ctx->needs_input_grad(edge++)) {
        result[4] = gradient_of_kl(grad_loss, *kl, ctx->saved_data["beta"].toDouble(), beta_tensor, reduction);
      }
    } else {
      if (ctx->needs_input_grad(edge++)) result[2] = take(ctx, "grad_mu", grad_loss);
      if (ctx->needs_input_grad(edge++)) result[3] = take(ctx, "grad_logvar", grad_loss);
    }
    if (present(beta_tensor) && ctx->needs_input_grad(edge++)) {
      result[5] = gradient_of_beta(grad_loss, mu, logvar, kl, beta_tensor, reduction);
    }
    if (saved[kLogSigma].defined() && ctx->needs_input_grad(edge)) {
      result[6] = take(ctx, "grad_log_sigma", grad_loss).to(saved[kLogSigma].scalar_type());
    }
    return result;
  }

  // Given away once, because its first owner may change it.
  static Tensor take(AutogradContext* ctx, const std::string& name, const Tensor& grad_loss) {
    TORCH_CHECK(ctx->saved_data.count(name) != 0, name,
                " of elbo_loss with inplace=True was given away by an earlier backward and recon, from which it could "
                "be computed again, is overwritten: call it with inplace=False to backward more than once");
    const Tensor gradient = ctx->saved_data[name].toTensor();
    if (name == "grad_recon") {
      TORCH_CHECK(gradient._version() == ctx->saved_data["version"].toInt(),
                  "recon was modified by an inplace operation after elbo_loss with inplace=True, but its memory holds "
                  "its gradient from then on");
    }
    ctx->saved_data.erase(name);
    ops::scale_gradient_(gradient, grad_loss);
    return gradient;
  }

  static Tensor gradient_of_kl(const Tensor& grad_loss, const Tensor& kl, double beta,
                               const OptionalTensor& beta_tensor, std::string_view reduction) {
    const double divided_by = reduction == "batchmean" ? static_cast<double>(kl.size(0)) : 1.0;
    Tensor gradient = grad_loss.to(at::kDouble);
    if (present(beta_tensor)) {
      gradient = gradient * (beta_tensor->to(at::kDouble) / divided_by);
    } else {
      gradient = gradient * (beta / divided_by);
    }
    return gradient.to(kl.scalar_type()).expand_as(kl);
  }
};

Tensors<6> elbo_loss_inplace_autograd(std::array<bool, 3> output_mask, const ObjectiveArguments& a) {
  if (!records_graph(a)) {
    BelowAutograd guard;
    auto results = ops::elbo_loss_(output_mask, a);
    a.recon.unsafeGetTensorImpl()->bump_version();
    return results;
  }
  check_overwritten_by_autograd(a.recon, a.target);
  DetachedTerms terms;
  const Tensor loss =
      ElboLossInPlace::apply(a.recon, a.target, a.mu, a.logvar, a.kl, a.beta_tensor, a.term.log_sigma, a, &terms);
  return {loss, terms.reconstruction, terms.kl, Tensor(), Tensor(), Tensor()};
}

TORCH_LIBRARY_IMPL(vae_fused, Autograd, m) { m.impl("elbo_loss_", unpacked<&elbo_loss_inplace_autograd>); }

}  // namespace
}  // namespace vae_fused
