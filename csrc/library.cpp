// The operators: their schemas and tags, once; and the Python module that loads them.
//
// A key is a uint64 tensor (seed, offset), [2], or [B, 2] for one per batch item. An operator that takes a key is a
// pure function; its `generator` overload draws a key first and returns it, and is the only one that is random. A
// gradient that output_mask does not ask for comes back undefined (None).
#include <pybind11/pybind11.h>
#include <torch/library.h>

#include <string>

#include "cpu/kernels/kernel_table.h"
#include "cpu/pool.h"

TORCH_LIBRARY(vae_fused, m) {
  const std::vector<at::Tag> pure = {at::Tag::pt2_compliant_tag};
  const std::vector<at::Tag> random = {at::Tag::pt2_compliant_tag, at::Tag::nondeterministic_seeded};

  m.def("standard_normal(Tensor key, SymInt[] size, *, ScalarType dtype) -> Tensor", pure);

  // What logvar holds, ScaleArguments of scale_form.h: its parameterization, epsilon, and the clamp of the log-variance
  // with both its bounds or neither. The mask is a factor of the KL of each element.
  const auto define = [&m](const std::string& begin, const std::string& end, const std::vector<at::Tag>& tags) {
    const char* scale =
        ", str parameterization='logvar', float epsilon=0.0, float? logvar_min=None, float? logvar_max=None,"
        " str clamp='hard'";
    m.def((begin + scale + end).c_str(), tags);
  };
  define("reparameterize(Tensor mu, Tensor logvar, Tensor key, *, int? num_samples=None",
         ", float temperature=1.0) -> Tensor", pure);
  define("reparameterize.generator(Tensor mu, Tensor logvar, *, Generator? generator=None, int? num_samples=None",
         ", float temperature=1.0) -> (Tensor z, Tensor key)", random);
  define("reparameterize_with_kl(Tensor mu, Tensor logvar, Tensor key, *, Tensor? mask=None",
         ") -> (Tensor z, Tensor kl)", pure);
  define("reparameterize_with_kl.generator(Tensor mu, Tensor logvar, *, Generator? generator=None, Tensor? mask=None",
         ") -> (Tensor z, Tensor kl, Tensor key)", random);
  // The backward of all four: mu is only needed where the KL has a gradient.
  define(
      "reparameterize_backward(Tensor? grad_z, Tensor? grad_kl, Tensor? mu, Tensor logvar, Tensor key,"
      " int? num_samples, bool[2] output_mask, *, Tensor? mask=None",
      ", float temperature=1.0) -> (Tensor grad_mu, Tensor grad_logvar)", pure);

  // With the scale DivergenceArguments of kl_divergence_arguments.h.
  const std::string divergence =
      "Tensor mu, Tensor logvar, Tensor? prior_mu, Tensor? prior_logvar, str reduction, *, Tensor? mask=None";
  define("kl_divergence(" + divergence, ") -> Tensor", pure);
  define("kl_divergence_backward(Tensor grad, bool[4] output_mask, " + divergence,
         ") -> (Tensor grad_mu, Tensor grad_logvar, Tensor grad_prior_mu, Tensor grad_prior_logvar)", pure);

  // Packed moments hold mu and logvar as the halves of dimension dim; logvar is clamped to the two bounds. Their
  // gradient is one tensor like them.
  m.def(
      "packed_reparameterize_with_kl(Tensor moments, Tensor key, *, int dim, float logvar_min, float logvar_max)"
      " -> (Tensor z, Tensor kl)",
      pure);
  m.def(
      "packed_reparameterize_with_kl.generator(Tensor moments, *, int dim, float logvar_min, float logvar_max,"
      " Generator? generator=None) -> (Tensor z, Tensor kl, Tensor key)",
      random);
  m.def(
      "packed_reparameterize_backward(Tensor? grad_z, Tensor? grad_kl, Tensor moments, Tensor key, int dim,"
      " float logvar_min, float logvar_max) -> Tensor",
      pure);
  m.def(
      "packed_kl_divergence(Tensor moments, Tensor? prior_moments, int dim, float logvar_min, float logvar_max,"
      " int prior_dim, float prior_logvar_min, float prior_logvar_max) -> Tensor",
      pure);
  m.def(
      "packed_kl_divergence_backward(Tensor grad, Tensor moments, Tensor? prior_moments, int dim, float logvar_min,"
      " float logvar_max, int prior_dim, float prior_logvar_min, float prior_logvar_max, bool[2] output_mask)"
      " -> (Tensor grad_moments, Tensor grad_prior_moments)",
      pure);

  // ObjectiveArguments of objective_arguments.h. beta_tensor, where given, takes the place of beta and is read when the
  // kernel runs. A uint8 target is read as target_scale * byte + target_shift. weight is a constant factor of every
  // element of the reconstruction term, recon_weight of all of it. A likelihood has log_sigma or, where it is a number,
  // log_sigma_value; full adds its constant.
  const std::string objective =
      "Tensor target, Tensor? mu, Tensor? logvar, Tensor? kl, float beta, Tensor? beta_tensor, str recon_loss,"
      " str reduction, *, float target_scale=1.0, float target_shift=0.0, Tensor? weight=None, Tensor? log_sigma=None,"
      " float? log_sigma_value=None, float recon_weight=1.0, bool full=False, float smooth_l1_beta=1.0)";
  const auto define_objective = [&](const std::string& begin, const std::string& end) {
    m.def((begin + objective + end).c_str(), pure);
  };
  define_objective("elbo_loss(Tensor recon, ", " -> (Tensor loss, Tensor reconstruction, Tensor kl)");
  // One pass: the gradients are those of an incoming gradient of 1. That of a log_sigma which several elements share
  // is float32 or wider here.
  define_objective("elbo_loss_with_gradients(bool[5] output_mask, Tensor recon, ",
                   " -> (Tensor loss, Tensor reconstruction, Tensor kl, Tensor grad_recon, Tensor grad_mu,"
                   " Tensor grad_logvar, Tensor grad_kl, Tensor grad_log_sigma)");
  // The same with the gradient of recon in the memory of recon. Where autograd records, the gradients wait for the
  // backward, whatever output_mask says, and loss is differentiable once.
  define_objective("elbo_loss_(bool[4] output_mask, Tensor(a!) recon, ",
                   " -> (Tensor loss, Tensor reconstruction, Tensor kl, Tensor grad_mu, Tensor grad_logvar,"
                   " Tensor grad_kl, Tensor grad_log_sigma)");
  define_objective("elbo_loss_backward(Tensor grad_loss, bool[6] output_mask, Tensor recon, ",
                   " -> (Tensor grad_recon, Tensor grad_target, Tensor grad_mu, Tensor grad_logvar, Tensor grad_kl,"
                   " Tensor grad_log_sigma)");
  // Makes gradients of an incoming gradient of 1 those of grad_loss; where that is 1 it only reads it.
  define_objective(
      "elbo_loss_backward_(Tensor grad_loss, Tensor(a!)? grad_recon, Tensor(b!)? grad_mu,"
      " Tensor(c!)? grad_logvar, Tensor(d!)? grad_kl, Tensor(e!)? grad_log_sigma, Tensor recon, ",
      " -> ()");

  // OutputLayerArguments of output_layer_arguments.h: the reconstruction term, float64, of hidden @ weight.T + bias,
  // which is never there as a whole: rows of it at a time.
  const std::string layer =
      "Tensor hidden, Tensor weight, Tensor? bias, Tensor target, str recon_loss, str reduction, int? chunk";
  const auto define_layer = [&](const std::string& schema) { m.def(schema.c_str(), pure); };
  define_layer("linear_reconstruction(" + layer + ") -> Tensor");
  // One pass: the gradients are those of an incoming gradient of 1, in float32 or wider.
  define_layer("linear_reconstruction_with_gradients(" + layer +
               ", bool[3] output_mask)"
               " -> (Tensor reconstruction, Tensor grad_hidden, Tensor grad_weight, Tensor grad_bias)");
  define_layer("linear_reconstruction_backward(Tensor grad_loss, " + layer +
               ", bool[4] output_mask)"
               " -> (Tensor grad_hidden, Tensor grad_weight, Tensor grad_bias, Tensor grad_target)");
  // Multiplies by a number [] that is read when the kernel runs; where that is 1 it only reads it.
  m.def("scale_gradients_(Tensor(a!)[] gradients, Tensor factor) -> ()", pure);
}

PYBIND11_MODULE(_C, m) {
  m.doc() = "Loads the vae_fused operators into torch.ops.vae_fused.";
  m.def(
      "cpu_capability", [] { return vae_fused::kernels().capability; },
      "The instruction set of the CPU kernels in use: avx512, avx2 or baseline.");
  m.def("pooled_bytes", &vae_fused::pooled_bytes, "Bytes of CPU memory kept for later results.");
  m.def("release_pool", &vae_fused::release_pool, "Frees them; returns how many there were.");
}
