#include "cpu/objective_terms.h"
#include "cpu/results.h"
#include "objective_operators.h"

namespace vae_fused {
namespace {

// Loss and terms, and the gradient of one log sigma for all elements, for an incoming gradient of 1.
struct Sums {
  Tensor loss, reconstruction, kl;
  double grad_one_log_sigma = 0.0;
};

struct ObjectiveOnCPU : OnCPU {
  // Fills the gradients that have a buffer, too. What one log sigma needs is summed anyway.
  static Sums forward(const Objective& objective, const Gradients& grads, bool) {
    const auto dtype = objective.result_type();
    const auto result = [&] {
      return objective.by_item() ? allocate({objective.batch()}, dtype) : allocate({}, dtype);
    };
    Sums sums{result(), result(), result()};

    Terms terms(objective, grads, Tensor());
    terms.sum_reconstruction();
    terms.sum_latent();
    terms.run(true, objective.mu.defined());
    fill_kl_gradient(objective, grads.kl, [](int64_t) { return 1.0; });

    const auto given_kl = [&](int64_t item) { return read_number(objective.kl, item * objective.kl.stride(0)); };
    const double beta = beta_of(objective);
    for (int64_t i = 0; i < sums.loss.numel(); ++i) {
      double latent = 0.0;
      if (objective.mu.defined()) {
        latent = terms.latent_of(i);
      } else if (objective.by_item()) {
        latent = given_kl(i);
      } else {
        for (int64_t item = 0; item < objective.batch(); ++item) latent += given_kl(item);
      }
      const double data = terms.reconstruction_of(i) / objective.data_divisor();
      latent /= objective.latent_divisor();
      write_number(sums.loss, i, data + beta * latent);
      write_number(sums.reconstruction, i, data);
      write_number(sums.kl, i, latent);
      sums.grad_one_log_sigma += terms.log_sigma_gradient_of(i, objective.data_divisor());
    }
    return sums;
  }

  // Fills the gradients that have a buffer, for an incoming gradient [] or [B]; returns that of one log sigma, if
  // wanted.
  static double backward(const Objective& objective, const Tensor& grad_loss, const Gradients& grads,
                         bool nothing_if_one, bool one_log_sigma) {
    const auto incoming = [&](int64_t item) {
      return read_number(grad_loss, objective.by_item() ? item * grad_loss.stride(0) : 0);
    };
    if (nothing_if_one && incoming(0) == 1.0) return 0.0;
    Terms terms(objective, grads, grad_loss);
    if (one_log_sigma) terms.sum_reconstruction();
    terms.run(one_log_sigma || grads.recon.defined() || grads.target.defined() || grads.log_sigma.defined(),
              grads.mu.defined() || grads.logvar.defined());
    fill_kl_gradient(objective, grads.kl, incoming);
    if (grads.shared_log_sigma.defined()) grads.shared_log_sigma.mul_(incoming(0));
    double gradient = 0.0;
    for (int64_t i = 0; one_log_sigma && i < objective.sums(); ++i) {
      gradient += incoming(i) * terms.log_sigma_gradient_of(i, objective.data_divisor());
    }
    return gradient;
  }

  static Tensor of_one_log_sigma(const Tensor& log_sigma, double gradient) {
    Tensor result = allocate(log_sigma.sizes(), accumulation_type({&log_sigma}));
    write_number(result, 0, gradient);
    return result;
  }

 private:
  // incoming(item) is the gradient of the loss, or of the item's own.
  template <class Incoming>
  static void fill_kl_gradient(const Objective& objective, const Tensor& gradient, const Incoming& incoming) {
    if (!gradient.defined()) return;
    const double scale = beta_of(objective) / objective.latent_divisor();
    for (int64_t item = 0; item < objective.batch(); ++item) {
      write_number(gradient, item * gradient.stride(0), incoming(item) * scale);
    }
  }
};

TORCH_LIBRARY_IMPL(vae_fused, CPU, m) { ObjectiveOperators<ObjectiveOnCPU>::register_in(m); }

}  // namespace
}  // namespace vae_fused
