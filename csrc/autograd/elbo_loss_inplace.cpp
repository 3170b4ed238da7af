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

enum Saved { kSavedMu, kSavedLogvar, kSavedKL, kSavedBetaTensor, kSavedLogSigma };

struct ElboLossInPlace : torch::autograd::Function<ElboLossInPlace> {
  static Tensor forward(AutogradContext* ctx, const Tensor& recon, const Tensor& target, const OptionalTensor& mu,
                        const OptionalTensor& logvar, const OptionalTensor& kl, const OptionalTensor& beta_tensor,
                        const OptionalTensor& log_sigma, const ObjectiveArguments& arguments, DetachedTerms* terms) {
    const auto wanted = [](const OptionalTensor& input) { return present(input) && input->requires_grad(); };
    Tensor loss;
    std::array<Tensor, kBuffers.size()> gradients;
    {
      BelowAutograd guard;
      std::tie(loss, terms->reconstruction, terms->kl, gradients[1], gradients[2], gradients[3], gradients[4]) =
          ops::elbo_loss_({wanted(mu), wanted(logvar), wanted(kl), wanted(log_sigma)}, arguments);
    }
    // Whoever saved recon for its own backward finds out by this.
    recon.unsafeGetTensorImpl()->bump_version();
    gradients[0] = recon.detach();  // shares the memory and the version, but holds no graph
    for (size_t i = 0; i < kBuffers.size(); ++i) {
      if (gradients[i].defined()) ctx->saved_data[kBuffers[i].name] = gradients[i];
    }
    ctx->saved_data["version"] = gradients[0]._version();
    ctx->saved_data["reduction"] = std::string(arguments.reduction);
    ctx->saved_data["given_kl"] = present(kl);
    // The KL is computed again where beta needs a gradient.
    const bool with_latent = present(beta_tensor) && beta_tensor->requires_grad();
    const auto if_latent = [&](const OptionalTensor& input) { return with_latent ? or_undefined(input) : Tensor(); };
    ctx->save_for_backward(
        {if_latent(mu), if_latent(logvar), if_latent(kl), or_undefined(beta_tensor), or_undefined(log_sigma)});
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
    const OptionalTensor mu = or_none(saved[kSavedMu]), logvar = or_none(saved[kSavedLogvar]),
                         kl = or_none(saved[kSavedKL]), beta_tensor = or_none(saved[kSavedBetaTensor]);

    // An absent input has no edge: after recon and target come kl, or mu and logvar, then beta and log_sigma.
    const bool given_kl = ctx->saved_data["given_kl"].toBool();
    std::array<bool, kLogSigma + 1> wanted{};
    size_t edge = 0;
    for (const Input input : {kRecon, kTarget, kMu, kLogvar, kKL, kBetaTensor, kLogSigma}) {
      const bool absent = (input == kKL && !given_kl) || ((input == kMu || input == kLogvar) && given_kl) ||
                          (input == kBetaTensor && !beta_tensor) ||
                          (input == kLogSigma && !saved[kSavedLogSigma].defined());
      if (!absent) wanted[input] = ctx->needs_input_grad(edge++);
    }
    if (wanted[kBetaTensor]) {
      result[kBetaTensor] = gradient_of_beta(grad_loss, mu, logvar, kl, beta_tensor, reduction);
    }
    std::vector<Tensor> gradients;
    for (const Buffer& buffer : kBuffers) {
      if (!wanted[buffer.of]) continue;
      result[buffer.of] = take(ctx, buffer.name);
      gradients.push_back(result[buffer.of]);
    }
    if (!gradients.empty()) ops::scale_gradients_(gradients, grad_loss);
    if (wanted[kLogSigma]) result[kLogSigma] = result[kLogSigma].to(saved[kSavedLogSigma].scalar_type());
    return result;
  }

  // Given away once, because its first owner may change it.
  static Tensor take(AutogradContext* ctx, const std::string& name) {
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
    return gradient;
  }
};

Tensors<7> elbo_loss_inplace_autograd(std::array<bool, 4> output_mask, const ObjectiveArguments& a) {
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
  return {loss, terms.reconstruction, terms.kl, Tensor(), Tensor(), Tensor(), Tensor()};
}

TORCH_LIBRARY_IMPL(vae_fused, Autograd, m) { m.impl("elbo_loss_", unpacked<&elbo_loss_inplace_autograd>); }

}  // namespace
}  // namespace vae_fused
