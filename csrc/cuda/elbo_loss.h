#pragma once

#include "cuda/launch.h"

namespace vae_fused {

// One launch of the objective: both terms, their sums or their gradients or both.
struct ElboLossParams {
  ReconstructionParams data;
  Work data_work;
  bool with_data;
  KLDivergenceParams latent;
  Work latent_work;
  bool with_latent;
  bool latent_vectors;    // the latents lie in whole vectors, whatever the data does
  Weight beta;            // one number
  bool nothing_if_one;    // read grad_loss and leave if it is 1
  Weight grad_loss;       // [] or [B]; scale 1
  Weight given_kl;        // [B], takes the place of the latents; scale 1
  int64_t batch;          // B
  Operand grad_given_kl;  // [B]

  // Sums, where loss is not null. With one piece an item for both terms, one team works on both and writes the results.
  void *loss, *reconstruction, *kl;  // [items] float, or double where wide_results
  bool wide_results;
  bool paired;
  double data_divisor, latent_divisor;
  double* data_partials;    // [items, pieces]
  double* latent_partials;  // [items, pieces]
  Ticket ticket;

  constexpr bool sums() const { return loss != nullptr; }
  // Of an item, in either term.
  constexpr int64_t most_pieces() const {
    return with_latent && latent_work.pieces > data_work.pieces ? latent_work.pieces : data_work.pieces;
  }
  // The units of the data come first, those of the latents follow, or go along with them.
  constexpr int64_t data_steps() const { return with_data ? data_work.steps() : 0; }
  constexpr int64_t steps() const { return data_steps() + (with_latent && !paired ? latent_work.steps() : 0); }
};

// One launch of the objective with any reconstruction term. A likelihood may have one log sigma, which is read when
// the kernel runs, in place of one an element.
struct ElboLossTermParams {
  ElboLossParams p;
  TermSettings settings;
  Operand weight, log_sigma, grad_log_sigma;
  bool one_log_sigma;
  Weight log_sigma_number;      // one number
  void* grad_log_sigma_number;  // [items] float, or double where wide, if wanted: what every sum adds to the gradient
                                // of the one log sigma
  bool wide_grad_log_sigma;
  double* slope_partials;             // [items, pieces]
  Operand shared_log_sigma_gradient;  // [shared_log_sigmas], is multiplied by grad_loss
  int64_t shared_log_sigmas;          // 0 where there is no such gradient
};

// Gives both terms one team where each has one piece an item.
void pair_terms(ElboLossParams& p);

// The squared error, without weights.
void launch_elbo_loss(const ElboLossParams& p, const LaunchSite& site);
// Any term.
void launch_elbo_loss_term(const ElboLossTermParams& p, const LaunchSite& site);

}  // namespace vae_fused
