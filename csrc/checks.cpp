#include "checks.h"

#include <c10/core/ScalarType.h>

#include <cmath>
#include <iterator>
#include <limits>
#include <string>

namespace vae_fused {
namespace {

bool is_supported(at::ScalarType type) {
  return type == at::kFloat || type == at::kDouble || type == at::kHalf || type == at::kBFloat16;
}

// As Python prints it.
std::string name_of(at::ScalarType type) {
  const auto names = c10::getDtypeNames(type);
  return "torch." + std::string(names.first);
}

bool expands_to(at::IntArrayRef from, at::IntArrayRef to) {
  if (from.size() > to.size()) return false;
  const size_t offset = to.size() - from.size();
  for (size_t dim = 0; dim < from.size(); ++dim) {
    if (from[dim] != 1 && from[dim] != to[offset + dim]) return false;
  }
  return true;
}

}  // namespace

void check_floating(const char* name, const Tensor& value) {
  TORCH_CHECK_TYPE(is_supported(value.scalar_type()), name, " must be float16, bfloat16, float32 or float64, got ",
                   name_of(value.scalar_type()));
}

void check_batched(const char* name, const Tensor& value) {
  check_floating(name, value);
  TORCH_CHECK_VALUE(value.dim() >= 1, name, " must have a batch dimension 0, got a 0-dimensional tensor");
}

void check_same_dtype(const char* name, const Tensor& value, const char* other_name, const Tensor& other) {
  TORCH_CHECK_TYPE(value.scalar_type() == other.scalar_type(), name, " must have the dtype of ", other_name, ", ",
                   name_of(other.scalar_type()), ", got ", name_of(value.scalar_type()));
}

void check_same_device(const char* name, const Tensor& value, const char* other_name, const Tensor& other) {
  TORCH_CHECK_VALUE(value.device() == other.device(), name, " must be on the device of ", other_name, ", ",
                    other.device(), ", got ", value.device());
}

Reduction parse_reduction(std::string_view name, bool allow_none) {
  if (name == "batchmean") return Reduction::kBatchMean;
  if (name == "sum") return Reduction::kSum;
  if (name == "sample") return Reduction::kSample;
  if (name == "mean") return Reduction::kMean;
  if (name == "none" && allow_none) return Reduction::kNone;
  TORCH_CHECK_VALUE(false, "reduction must be one of batchmean, sum, sample, mean", allow_none ? ", none" : "",
                    ", got '", name, "'");
}

ReconLoss parse_recon_loss(std::string_view name) {
  std::string names;
  for (size_t i = 0; i < std::size(kReconLossNames); ++i) {
    if (name == kReconLossNames[i]) return static_cast<ReconLoss>(i);
    names += (i == 0 ? "" : ", ") + std::string(kReconLossNames[i]);
  }
  TORCH_CHECK_VALUE(false, "recon_loss must be one of ", names, ", got '", name, "'");
}

at::ScalarType accumulation_type(std::initializer_list<const Tensor*> operands) {
  for (const Tensor* operand : operands) {
    if (operand->defined() && operand->scalar_type() == at::kDouble) return at::kDouble;
  }
  return at::kFloat;
}

void check_latent_pair(const Tensor& mu, const Tensor& logvar) {
  check_batched("mu", mu);
  check_same_dtype("logvar", logvar, "mu", mu);
  TORCH_CHECK_VALUE(logvar.sizes() == mu.sizes(), "logvar must have the shape of mu, ", mu.sizes(), ", got ",
                    logvar.sizes());
  check_same_device("logvar", logvar, "mu", mu);
}

void check_prior(const char* name, const std::optional<Tensor>& prior, const Tensor& mu) {
  if (!present(prior)) return;
  check_same_dtype(name, *prior, "mu", mu);
  check_same_device(name, *prior, "mu", mu);
  TORCH_CHECK_VALUE(expands_to(prior->sizes(), mu.sizes()), name, " must be broadcastable to the shape of mu, ",
                    mu.sizes(), ", got ", prior->sizes());
}

void check_mask(const std::optional<Tensor>& mask, const Tensor& mu) {
  if (!present(mask)) return;
  TORCH_CHECK_TYPE(is_supported(mask->scalar_type()) || mask->scalar_type() == at::kBool,
                   "mask must be bool, float16, bfloat16, float32 or float64, got ", name_of(mask->scalar_type()));
  check_same_device("mask", *mask, "mu", mu);
  TORCH_CHECK_VALUE(expands_to(mask->sizes(), mu.sizes()), "mask must be broadcastable to the shape of mu, ",
                    mu.sizes(), ", got ", mask->sizes());
  TORCH_CHECK_VALUE(!mask->requires_grad(), "mask must not require a gradient: it has none");
}

void check_temperature(double temperature) {
  TORCH_CHECK_VALUE(temperature >= 0.0 && std::isfinite(temperature),
                    "temperature must be finite and not negative, got ", temperature);
}

void check_key(const Tensor& key) {
  TORCH_CHECK_TYPE(key.scalar_type() == at::kUInt64, "key must be uint64, got ", name_of(key.scalar_type()));
  TORCH_CHECK_VALUE((key.dim() == 1 || key.dim() == 2) && key.size(-1) == 2,
                    "key must have shape [2] or [batch, 2], got ", key.sizes());
}

void check_normal_request(const Tensor& key, at::IntArrayRef size, at::ScalarType dtype) {
  check_key(key);
  for (int64_t length : size) TORCH_CHECK_VALUE(length >= 0, "size must not be negative, got ", size);
  TORCH_CHECK_TYPE(is_supported(dtype), "dtype must be float16, bfloat16, float32 or float64, got ", name_of(dtype));
  TORCH_CHECK_VALUE(key.dim() == 1 || (!size.empty() && size[0] == key.size(0)),
                    "size must begin with the number of keys, ", key.size(0), ", got ", size);
}

void check_key_for(const Tensor& key, int64_t batch, at::Device device) {
  check_key(key);
  TORCH_CHECK_VALUE(key.dim() == 1 || key.size(0) == batch, "key must have shape [2] or [batch, 2] with batch ", batch,
                    ", got ", key.sizes());
  TORCH_CHECK_VALUE(key.device() == device, "key must be on the device of the samples, ", device, ", got ",
                    key.device());
}

void check_num_samples(std::optional<int64_t> num_samples) {
  TORCH_CHECK_VALUE(!num_samples || *num_samples >= 1, "num_samples must be at least 1, got ", num_samples.value_or(1));
}

void check_reconstruction(const Tensor& recon, const Tensor& target) {
  check_batched("recon", recon);
  TORCH_CHECK_TYPE(is_supported(target.scalar_type()) || target.scalar_type() == at::kByte,
                   "target must be uint8, float16, bfloat16, float32 or float64, got ", name_of(target.scalar_type()));
  const bool only_in_shape = target.numel() == recon.numel();
  TORCH_CHECK_VALUE(target.sizes() == recon.sizes(), "target must have the shape of recon, ", recon.sizes(), ", got ",
                    target.sizes(), only_in_shape ? ", which target.view_as(recon) makes of it" : "");
  check_same_device("target", target, "recon", recon);
}

void check_target_scale(const Tensor& target, double scale, double shift) {
  TORCH_CHECK_VALUE(target.scalar_type() == at::kByte || (scale == 1.0 && shift == 0.0),
                    "target_scale and target_shift say how a uint8 target is read, got a target of ",
                    name_of(target.scalar_type()));
}

void check_kl_source(const Tensor& recon, const std::optional<Tensor>& mu, const std::optional<Tensor>& logvar,
                     const std::optional<Tensor>& kl, Reduction reduction) {
  if (!present(kl)) {
    const char* got = present(mu) ? "mu without logvar" : present(logvar) ? "logvar without mu" : "none of them";
    TORCH_CHECK_VALUE(present(mu) && present(logvar), "the KL needs both mu and logvar, or kl, got ", got);
    check_latent_pair(*mu, *logvar);
    check_same_device("mu", *mu, "recon", recon);
    TORCH_CHECK_VALUE(mu->size(0) == recon.size(0), "mu must have the batch size of recon, ", recon.size(0), ", got ",
                      mu->size(0));
    return;
  }
  TORCH_CHECK_VALUE(!present(mu) && !present(logvar), "kl replaces mu and logvar: give kl, or mu and logvar, got both");
  check_floating("kl", *kl);
  TORCH_CHECK_VALUE(reduction != Reduction::kMean,
                    "kl cannot be given with reduction='mean': the number of latent elements is unknown; give mu and "
                    "logvar");
  TORCH_CHECK_VALUE(kl->dim() == 1 && kl->size(0) == recon.size(0), "kl must have the shape [batch] of recon, [",
                    recon.size(0), "], got ", kl->sizes(),
                    kl->dim() == 0 ? ": that of every item, as kl_divergence gives it with reduction='sample'" : "");
  check_same_device("kl", *kl, "recon", recon);
}

void check_beta(const std::optional<Tensor>& beta, const Tensor& recon) {
  if (!present(beta)) return;
  check_floating("beta", *beta);
  TORCH_CHECK_VALUE(beta->dim() == 0, "beta must be a float or a 0-dimensional tensor, got shape ", beta->sizes());
  TORCH_CHECK_VALUE(beta->is_cpu() || beta->device() == recon.device(),
                    "beta must be on the CPU or on the device of recon, ", recon.device(), ", got ", beta->device());
}

void check_weight(const std::optional<Tensor>& weight, const Tensor& recon) {
  if (!present(weight)) return;
  TORCH_CHECK_TYPE(is_supported(weight->scalar_type()) || weight->scalar_type() == at::kBool,
                   "weight must be bool, float16, bfloat16, float32 or float64, got ", name_of(weight->scalar_type()));
  TORCH_CHECK_VALUE(!weight->requires_grad(),
                    "weight must not require a gradient: it is a constant factor of the reconstruction");
  TORCH_CHECK_VALUE(expands_to(weight->sizes(), recon.sizes()), "weight must be broadcastable to the shape of recon, ",
                    recon.sizes(), ", got ", weight->sizes());
  check_same_device("weight", *weight, "recon", recon);
}

void check_log_sigma(ReconLoss loss, const std::optional<Tensor>& log_sigma, std::optional<double> value,
                     const Tensor& recon) {
  const char* name = kReconLossNames[static_cast<int>(loss)];
  if (!has_sigma(loss)) {
    TORCH_CHECK_VALUE(!present(log_sigma) && !value, "log_sigma is for recon_loss gaussian_nll and laplace_nll, got '",
                      name, "'");
    return;
  }
  TORCH_CHECK_VALUE(present(log_sigma) || value, "log_sigma is missing, which recon_loss='", name, "' needs");
  if (!present(log_sigma)) return;
  TORCH_CHECK_VALUE(!value, "log_sigma and log_sigma_value are two sources of the same: give one of them, got both");
  check_floating("log_sigma", *log_sigma);
  TORCH_CHECK_VALUE(expands_to(log_sigma->sizes(), recon.sizes()),
                    "log_sigma must be broadcastable to the shape of recon, ", recon.sizes(), ", got ",
                    log_sigma->sizes());
  check_same_device("log_sigma", *log_sigma, "recon", recon);
}

void check_term_settings(ReconLoss loss, bool full, double smooth_l1_beta) {
  const char* name = kReconLossNames[static_cast<int>(loss)];
  TORCH_CHECK_VALUE(!full || has_sigma(loss),
                    "full adds the constant of gaussian_nll or laplace_nll, which recon_loss='", name,
                    "' does not have");
  TORCH_CHECK_VALUE(smooth_l1_beta > 0.0 && smooth_l1_beta <= std::numeric_limits<float>::max(),
                    "smooth_l1_beta must be positive and in the range of float32, got ", smooth_l1_beta);
  TORCH_CHECK_VALUE(loss == ReconLoss::kSmoothL1 || smooth_l1_beta == 1.0,
                    "smooth_l1_beta is for recon_loss smooth_l1, got '", name, "'");
}

void check_gradient(const char* name, const Tensor& grad, at::IntArrayRef shape, at::Device device) {
  check_floating(name, grad);
  TORCH_CHECK_VALUE(grad.sizes() == shape, name, " must have shape ", shape, ", got ", grad.sizes());
  TORCH_CHECK_VALUE(grad.device() == device, name, " must be on ", device, ", got ", grad.device());
}

void check_generator(const std::optional<at::Generator>& generator, at::Device device) {
  if (!generator.has_value() || !generator->defined()) return;
  const at::Device own = generator->device();  // "cuda" alone has no index
  TORCH_CHECK_VALUE(own.type() == device.type() && (!own.has_index() || own == device),
                    "generator must be on the device of mu, ", device, ", got ", own);
}

void check_scaled_gradients(at::TensorList gradients, const Tensor& factor) {
  check_gradient("factor", factor, {}, factor.device());
  for (const Tensor& gradient : gradients) check_gradient("gradients", gradient, gradient.sizes(), factor.device());
}

void check_reparameterize_backward(const std::optional<Tensor>& grad_z, const std::optional<Tensor>& grad_kl,
                                   const std::optional<Tensor>& mu, const Tensor& logvar, const Tensor& key,
                                   std::optional<int64_t> num_samples) {
  check_batched("logvar", logvar);
  check_num_samples(num_samples);
  check_key_for(key, logvar.size(0), logvar.device());
  if (present(grad_z)) {
    at::DimVector shape(logvar.sizes().begin(), logvar.sizes().end());
    if (num_samples) shape.insert(shape.begin(), *num_samples);
    check_gradient("grad_z", *grad_z, shape, logvar.device());
  }
  if (present(grad_kl)) {
    TORCH_CHECK_VALUE(present(mu), "mu is needed for the gradient of the KL, got None");
    TORCH_CHECK_VALUE(!num_samples, "num_samples must be None where grad_kl is given, got ", *num_samples);
    check_latent_pair(*mu, logvar);
    check_gradient("grad_kl", *grad_kl, logvar.sizes().slice(0, 1), logvar.device());
  }
}

}  // namespace vae_fused
