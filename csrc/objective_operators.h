// The operators of the objective, once for the kernels of every kind of device. A Device has
//   Guard                      works on the device of a tensor until it goes out of scope
//   like, empty                memory for a result
//   forward, backward          the kernels; what they give for one log sigma is made a gradient by of_one_log_sigma
#pragma once

#include <ATen/ExpandUtils.h>
#include <torch/library.h>

#include "argument_blocks.h"
#include "objective.h"
#include "overwritten.h"

namespace vae_fused {

template <class Device>
struct ObjectiveOperators {
  using Guard = typename Device::Guard;

  static Tensors<3> elbo_loss(const ObjectiveArguments& a) {
    const Guard guard(a.recon.device());
    const Objective objective(a);
    const auto sums = Device::forward(objective, Gradients{}, /*one_log_sigma=*/false);
    return {sums.loss, sums.reconstruction, sums.kl};
  }

  static Tensors<8> elbo_loss_with_gradients(std::array<bool, 5> output_mask, const ObjectiveArguments& a) {
    const Guard guard(a.recon.device());
    const Objective objective(a);
    TORCH_CHECK_VALUE(!objective.by_item(), "reduction must not be sample where the forward computes the gradients");
    const Gradients grads{like_if(output_mask[0], a.recon),      Tensor(),
                          like_if(output_mask[1], objective.mu), like_if(output_mask[2], objective.logvar),
                          like_if(output_mask[3], objective.kl), log_sigma_buffer(output_mask[4], objective.term)};
    const auto sums = Device::forward(objective, grads, has_one_log_sigma(output_mask[4], objective.term));
    return {sums.loss, sums.reconstruction,
            sums.kl,   grads.recon,
            grads.mu,  grads.logvar,
            grads.kl,  log_sigma_gradient(output_mask[4], objective.term, grads.log_sigma, sums.grad_one_log_sigma)};
  }

  // The gradient of recon takes its place: a kernel reads the elements that it works on before it writes their
  // gradients.
  static Tensors<7> elbo_loss_(std::array<bool, 4> output_mask, const ObjectiveArguments& a) {
    const Guard guard(a.recon.device());
    const Objective objective(a);
    a.recon.mutable_data_ptr();  // a copy-on-write clone gets memory of its own before its address is taken
    check_overwritten(objective);
    const Gradients grads{a.recon,
                          Tensor(),
                          like_if(output_mask[0], objective.mu),
                          like_if(output_mask[1], objective.logvar),
                          like_if(output_mask[2], objective.kl),
                          log_sigma_buffer(output_mask[3], objective.term)};
    const auto sums = Device::forward(objective, grads, has_one_log_sigma(output_mask[3], objective.term));
    return {sums.loss,
            sums.reconstruction,
            sums.kl,
            grads.mu,
            grads.logvar,
            grads.kl,
            log_sigma_gradient(output_mask[3], objective.term, grads.log_sigma, sums.grad_one_log_sigma)};
  }

  static Tensors<6> elbo_loss_backward(const Tensor& grad_loss, std::array<bool, 6> output_mask,
                                       const ObjectiveArguments& a) {
    const Guard guard(a.recon.device());
    const Objective objective(a);
    check_grad_loss(objective, grad_loss);
    const Gradients grads{
        like_if(output_mask[0], a.recon),      like_if(objective.wants_grad_target(output_mask[1]), a.target),
        like_if(output_mask[2], objective.mu), like_if(output_mask[3], objective.logvar),
        like_if(output_mask[4], objective.kl), log_sigma_buffer(output_mask[5], objective.term)};
    const auto of_one = Device::backward(objective, grad_loss, grads, /*nothing_if_one=*/false,
                                         has_one_log_sigma(output_mask[5], objective.term));
    const Tensor grad_log_sigma = log_sigma_gradient(output_mask[5], objective.term, grads.log_sigma, of_one);
    return {grads.recon, grads.target,
            grads.mu,    grads.logvar,
            grads.kl,    grad_log_sigma.defined() ? grad_log_sigma.to(a.term.log_sigma->scalar_type()) : Tensor()};
  }

  // The forward computed the gradients for an incoming gradient of 1; for any other they are computed again in place,
  // or, where the forward summed them over elements, multiplied by it.
  static void elbo_loss_backward_(const Tensor& grad_loss, const OptionalTensor& grad_recon,
                                  const OptionalTensor& grad_mu, const OptionalTensor& grad_logvar,
                                  const OptionalTensor& grad_kl, const OptionalTensor& grad_log_sigma,
                                  const ObjectiveArguments& a) {
    const Guard guard(a.recon.device());
    const Objective objective(a);
    check_grad_loss(objective, grad_loss);
    Device::backward(objective, grad_loss,
                     checked_buffers(objective, grad_recon, grad_mu, grad_logvar, grad_kl, grad_log_sigma),
                     /*nothing_if_one=*/!objective.by_item(), /*one_log_sigma=*/false);
  }

  static void register_in(torch::Library& m) {
    m.impl("elbo_loss", unpacked<&elbo_loss>);
    m.impl("elbo_loss_with_gradients", unpacked<&elbo_loss_with_gradients>);
    m.impl("elbo_loss_", unpacked<&elbo_loss_>);
    m.impl("elbo_loss_backward", unpacked<&elbo_loss_backward>);
    m.impl("elbo_loss_backward_", unpacked<&elbo_loss_backward_>);
  }

 private:
  static Tensor like_if(bool wanted, const Tensor& tensor) {
    return wanted && tensor.defined() ? Device::like(tensor) : Tensor();
  }

  // Whether the gradient of one log sigma for all elements is wanted, and there is one.
  static bool has_one_log_sigma(bool wanted, const ReconstructionTerm& term) {
    return wanted && term.with_one_sigma() && term.log_sigma.defined();
  }

  // The buffer for the gradients of every element's log sigma, where they are wanted and there are any.
  static Tensor log_sigma_buffer(bool wanted, const ReconstructionTerm& term) {
    if (!wanted || !term.element_log_sigma.defined()) return Tensor();
    if (term.log_sigma_is_of_elements()) return Device::like(term.log_sigma);
    return Device::empty(term.element_log_sigma.sizes(), accumulation_type({&term.log_sigma}), term.log_sigma);
  }

  // The gradient of log sigma as the forward gives it: where several elements share one, the sum of theirs.
  template <class OfOne>
  static Tensor log_sigma_gradient(bool wanted, const ReconstructionTerm& term, const Tensor& of_elements,
                                   const OfOne& of_one) {
    if (!wanted || !term.log_sigma.defined()) return Tensor();
    if (!term.element_log_sigma.defined()) return Device::of_one_log_sigma(term.log_sigma, of_one);
    return term.log_sigma_is_of_elements() ? of_elements : at::sum_to(of_elements, term.log_sigma.sizes());
  }
};

}  // namespace vae_fused
