// Plain parameter structs: all that a kernel knows. No torch, no ownership, the same for CPU and CUDA.
//
// Notation of the shape comments: N elements, B batch items, E = N / B elements an item, K samples an item.
#pragma once

#include <cstdint>

namespace vae_fused {

// Dimensions left after neighbours that step alike in every operand are merged; more than that is an error.
constexpr int kMaxRank = 12;

// Bytes are read alone, as the target of a reconstruction.
enum class ElementType : int8_t { kFloat, kHalf, kBFloat16, kDouble, kByte };

// The logical shape that the operands of one kernel share, innermost dimension last.
struct Extent {
  int rank;  // 0 is one element
  int64_t sizes[kMaxRank];
};

// One operand: where its elements lie, strides counted in elements. data is null where the operand is absent.
struct Operand {
  void* data;  // [N] of type, at strides
  ElementType type;
  int64_t strides[kMaxRank];
};

// A number per launch or per item: values[item * stride] * scale, or scale alone where values is null.
struct Weight {
  const void* values;  // [B] or [1] of type, at stride
  ElementType type;
  int64_t stride;
  double scale;
};

// The Philox key (seed, offset) of every item: one for all, or its own.
struct NoiseKey {
  const uint64_t* words;  // [2] or [B, 2]
  bool per_item;
};

// What makes a standard deviation or a variance of the number that is stored.
enum class ScaleMap : int8_t { kExponential, kIdentity, kSoftplus };

// Of the log-variance that the map gives. Beyond the bounds the gradient is zero where it is hard, and passed on where
// it is straight-through; soft is low + half + half tanh((x - low) / half - 1) with half of their distance.
enum class ClampKind : int8_t { kNone, kHard, kSoft, kStraightThrough };

// What the operand logvar of a posterior holds. Zero-initialised, the log-variance as it is.
struct ScaleForm {
  ScaleMap map;
  bool of_std;  // the map gives the standard deviation, else the variance
  ClampKind clamp;
  double low, high;              // bounds of the log-variance, exact in the type of the operand
  double value_low, value_high;  // the same of what the map gives
  double epsilon;                // added to what the map gives, after the clamp

  // The log-variance itself, with no more than a hard clamp: what the kernels without transforms read.
  bool is_logvar() const {
    return map == ScaleMap::kExponential && !of_std && epsilon == 0.0 &&
           (clamp == ClampKind::kNone || clamp == ClampKind::kHard);
  }
};

// out[i] = normal i of the key; with per-item keys, normal i % E of key i / E.
struct StandardNormalParams {
  NoiseKey key;
  int64_t numel;       // N
  int64_t item_numel;  // E
  ElementType type;    // float64 noise has two lanes a block, every other type four
  void* out;           // [N] of type, contiguous
};

// z[k] = mu + temperature sigma eps[k], and per item the unit KL.
struct ReparameterizeParams {
  NoiseKey key;
  Extent extent;        // of mu: [N]
  bool wide;            // arithmetic in float64
  bool streamed;        // CPU: outputs larger than the caches, written past them
  int64_t numel;        // N
  int64_t item_numel;   // E
  int64_t num_samples;  // K
  Operand mu, logvar;
  ScaleForm scale;
  double temperature;
  Operand mask;           // factor of the KL of each element, or absent
  Operand z;              // one sample of it; sample k lies sample_stride further
  int64_t sample_stride;  // elements of z
  double* kl_partials;    // [B, pieces], or null: no KL

  // Whether it takes more than a clamped log-variance.
  bool transforms() const { return !scale.is_logvar() || temperature != 1.0 || mask.data != nullptr; }
};

// From grad_z [K, N] and the gradient of the KL [B]: the gradients to mu and logvar.
struct ReparameterizeBackwardParams {
  NoiseKey key;
  Extent extent;
  bool wide;      // arithmetic in float64
  bool streamed;  // CPU: outputs larger than the caches, written past them
  int64_t numel;
  int64_t item_numel;
  int64_t num_samples;
  Operand grad_z;         // one sample of it, or absent
  int64_t sample_stride;  // elements of grad_z
  Operand mu;             // read only where the KL has a gradient
  Operand logvar;
  ScaleForm scale;
  double temperature;
  Operand mask;  // factor of the KL of each element, or absent
  bool has_kl;
  Weight grad_kl;  // [B]
  Operand grad_mu, grad_logvar;

  bool transforms() const { return !scale.is_logvar() || temperature != 1.0 || mask.data != nullptr; }
};

// KL of N(mu, sigma^2) from N(prior_mu, e^prior_logvar), from N(0, 1) where both prior operands are absent.
struct KLDivergenceParams {
  Extent extent;
  bool wide;      // arithmetic in float64
  bool streamed;  // CPU: outputs larger than the caches, written past them
  int64_t numel;
  int64_t item_numel;
  Operand mu, logvar, prior_mu, prior_logvar;
  ScaleForm scale, prior_scale;  // that of the prior is a log-variance
  Operand mask;                  // factor of each element, or absent
  Operand elements;              // the elementwise divergence, or absent
  double* partials;              // [B, pieces] or [pieces], or null
  Operand grad_elements;         // incoming elementwise gradient, or absent
  Weight weight;                 // incoming gradient otherwise
  Operand grad_mu, grad_logvar, grad_prior_mu, grad_prior_logvar;

  bool transforms() const { return !scale.is_logvar() || mask.data != nullptr; }
};

// The reconstruction term and its gradients, weight * d(recon - target)^2.
struct ReconstructionParams {
  Extent extent;
  bool wide;      // arithmetic in float64
  bool streamed;  // CPU: outputs larger than the caches, written past them
  int64_t numel;
  int64_t item_numel;
  Operand recon, target;
  double target_scale, target_shift;  // a target of bytes is target_scale * byte + target_shift
  double* partials;                   // [B, pieces] or [pieces], or null
  Weight weight;                      // of the gradients
  Operand grad_recon, grad_target;
};

}  // namespace vae_fused
