#include "packed_moments.h"

#include <ATen/ops/slice.h>
#include <c10/util/Exception.h>

#include <limits>

#include "checks.h"
#include "scale_form.h"

namespace vae_fused {
Halves halves_of(const Tensor& packed, int64_t dim) {
  if (!packed.defined()) return {};
  const int64_t size = packed.size(dim) / 2;
  return {packed.slice(dim, 0, size), packed.slice(dim, size, 2 * size)};
}

void check_moments(const char* name, const Tensor& moments, Packing& packing) {
  check_batched(name, moments);
  const int64_t rank = moments.dim();
  TORCH_CHECK_VALUE(rank >= 2, name, " must have a batch dimension 0 and one that holds mean and logvar, got shape ",
                    moments.sizes());
  TORCH_CHECK_VALUE(packing.dim >= -rank && packing.dim < rank, "dim must be between ", -rank, " and ", rank - 1,
                    " for ", name, " of shape ", moments.sizes(), ", got ", packing.dim);
  const int64_t dim = packing.dim < 0 ? packing.dim + rank : packing.dim;
  TORCH_CHECK_VALUE(dim != 0, "dim must not be the batch dimension 0, got ", packing.dim);
  TORCH_CHECK_VALUE(moments.size(dim) % 2 == 0, name, " must have an even size in dimension ", packing.dim,
                    " to hold mean and logvar, got shape ", moments.sizes());
  TORCH_CHECK_VALUE(packing.logvar_min <= packing.logvar_max,
                    "logvar_clamp must be (low, high) with low <= high, got (", packing.logvar_min, ", ",
                    packing.logvar_max, ")");
  packing.dim = dim;
}

ScaleForm clamp_of(const Packing& packing, at::ScalarType type) {
  constexpr double infinity = std::numeric_limits<double>::infinity();
  ScaleForm form{};
  if (packing.logvar_min > -infinity || packing.logvar_max < infinity) form.clamp = ClampKind::kHard;
  form.low = rounded_to(type, packing.logvar_min);
  form.high = rounded_to(type, packing.logvar_max);
  return form;
}

Gaussians unpack(const Tensor& moments, const std::optional<Tensor>& prior_moments, Packing& packing,
                 Packing& prior_packing) {
  check_moments("moments", moments, packing);
  const auto type = moments.scalar_type();
  const Halves half = halves_of(moments, packing.dim);
  if (!present(prior_moments)) return {half.mu, half.logvar, {}, {}, clamp_of(packing, type)};
  check_moments("prior_moments", *prior_moments, prior_packing);
  check_same_dtype("prior_moments", *prior_moments, "moments", moments);
  check_same_device("prior_moments", *prior_moments, "moments", moments);
  const Halves prior = halves_of(*prior_moments, prior_packing.dim);
  TORCH_CHECK_VALUE(prior.mu.sizes() == half.mu.sizes(), "prior_moments must hold a mean of shape ", half.mu.sizes(),
                    ", got ", prior.mu.sizes());
  return {half.mu, half.logvar, prior.mu, prior.logvar, clamp_of(packing, type), clamp_of(prior_packing, type)};
}

}  // namespace vae_fused
