// The decoder's last Linear and the reconstruction term of its output, in chunks of rows, so that neither the
// reconstruction nor its gradient exists as a whole. Written in ATen and the operators of this package: CPU and CUDA
// run the same code, the matrix products stay with ATen, and the formula of the loss stays with elbo_loss.
#include <ATen/TensorOperators.h>
#include <ATen/ops/ones.h>
#include <torch/library.h>

#include "ops.h"
#include "output_layer.h"

namespace vae_fused {
namespace {

// The reconstruction term, in float64: one number, or one an item.
struct Total {
  const OutputLayer& layer;
  Tensor sum;

  explicit Total(const OutputLayer& layer)
      : layer(layer), sum(layer.by_item() ? at::empty({layer.rows()}, layer.sums()) : at::zeros({}, layer.sums())) {}

  void add(const Chunk& chunk, const Tensor& term) {
    if (layer.by_item()) {
      sum.narrow(0, chunk.first, chunk.count).copy_(term);
    } else {
      sum.add_(term);
    }
  }

  Tensor result() const {
    if (!layer.by_item()) return sum / layer.divided_by();
    return layer.rows_per_item == 1 ? sum : sum.view({layer.items, layer.rows_per_item}).sum(1);
  }
};

// Gradients of the layer's operands, in the wide dtype; undefined where nobody asked.
struct LayerGradients {
  const OutputLayer& layer;
  Tensor hidden, weight, bias;

  LayerGradients(const OutputLayer& layer, bool with_hidden, bool with_weight, bool with_bias) : layer(layer) {
    const auto options = layer.hidden.options().dtype(layer.wide());
    const auto buffer = [&](at::IntArrayRef sizes) {
      return layer.rows() == 0 ? at::zeros(sizes, options) : at::empty(sizes, options);
    };
    if (with_hidden) hidden = buffer({layer.rows(), layer.weight.size(1)});
    if (with_weight) weight = buffer(layer.weight.sizes());
    if (with_bias && layer.bias.defined()) bias = at::zeros({layer.outputs}, options);
  }

  bool wanted() const { return hidden.defined() || weight.defined() || bias.defined(); }

  // scale is applied to the wide sums, because in half precision it may underflow before them.
  void add(const Chunk& chunk, const Tensor& grad_recon, double scale) {
    if (hidden.defined()) {
      add_product(hidden.narrow(0, chunk.first, chunk.count), grad_recon, layer.weight, scale, /*first=*/true);
    }
    if (weight.defined()) add_product(weight, grad_recon.t(), chunk.hidden, scale, chunk.first == 0);
    if (bias.defined()) bias.add_(grad_recon.sum(0, /*keepdim=*/false, layer.wide()), scale);
  }

  static void add_product(Tensor sum, const Tensor& left, const Tensor& right, double scale, bool first) {
    if (left.scalar_type() == sum.scalar_type()) {
      at::addmm_out(sum, sum, left, right, first ? 0 : 1, scale);
      return;
    }
    Tensor product;
    if (left.is_cuda()) {
      product = at::mm(left, right, sum.scalar_type());
    } else if (left.scalar_type() == at::kHalf) {
      // A product of the unscaled gradient may be beyond float16.
      product = at::mm(left.to(sum.scalar_type()), right.to(sum.scalar_type()));
    } else {
      product = at::mm(left, right);
    }
    if (first) sum.zero_();
    sum.add_(product, scale);
  }
};

Tensor linear_reconstruction(const OutputLayerArguments& arguments) {
  const OutputLayer layer(arguments);
  Total total(layer);
  for_each_chunk(layer, [&](const Chunk& chunk) { total.add(chunk, std::get<1>(ops::elbo_loss(chunk.objective()))); });
  return total.result();
}

Tensors<4> linear_reconstruction_with_gradients(const OutputLayerArguments& arguments,
                                                std::array<bool, 3> output_mask) {
  const OutputLayer layer(arguments);
  TORCH_CHECK_VALUE(!layer.by_item(), "reduction must not be sample where the forward computes the gradients");
  LayerGradients grads(layer, output_mask[0], output_mask[1], output_mask[2]);
  Total total(layer);
  for_each_chunk(layer, [&](const Chunk& chunk) {
    const auto results = ops::elbo_loss_with_gradients({true, false, false, false, false}, chunk.objective());
    total.add(chunk, std::get<1>(results));
    grads.add(chunk, std::get<3>(results), 1.0 / layer.divided_by());
  });
  return {total.result(), grads.hidden.defined() ? grads.hidden.view(layer.hidden.sizes()) : Tensor(), grads.weight,
          grads.bias};
}

Tensors<4> linear_reconstruction_backward(const Tensor& grad_loss, const OutputLayerArguments& arguments,
                                          std::array<bool, 4> output_mask) {
  const OutputLayer layer(arguments);
  const Tensor &hidden = layer.hidden, &target = layer.target;
  check_gradient("grad_loss", grad_loss, layer.by_item() ? hidden.sizes().slice(0, 1) : at::IntArrayRef(),
                 hidden.device());
  LayerGradients grads(layer, output_mask[0], output_mask[1], output_mask[2]);
  Tensor grad_target = output_mask[3] ? at::empty({layer.rows(), layer.outputs}, target.options()) : Tensor();
  const Tensor incoming =
      layer.by_item() ? grad_loss.unsqueeze(1).expand({layer.items, layer.rows_per_item}).reshape({layer.rows()})
                      : grad_loss.to(at::kDouble) / layer.divided_by();
  // One incoming gradient for all is applied last, as to the buffers of the forward: the bits are the same.
  const Tensor one = at::ones({}, layer.sums());
  for_each_chunk(layer, [&](const Chunk& chunk) {
    const auto gradients = [&](const Tensor& grad, bool of_recon, bool of_target) {
      return ops::elbo_loss_backward(grad, {of_recon, of_target, false, false, false, false}, chunk.objective());
    };
    const Tensor of_chunk = layer.by_item() ? incoming.narrow(0, chunk.first, chunk.count) : incoming;
    if (grads.wanted()) {
      const Tensor to_recon = std::get<0>(gradients(layer.by_item() ? of_chunk : one, true, false));
      grads.add(chunk, to_recon, layer.by_item() ? 1.0 : 1.0 / layer.divided_by());
    }
    if (grad_target.defined()) {
      grad_target.narrow(0, chunk.first, chunk.count).copy_(std::get<1>(gradients(of_chunk, false, true)));
    }
  });
  if (!layer.by_item()) {
    std::vector<Tensor> computed;
    for (const Tensor& grad : {grads.hidden, grads.weight, grads.bias}) {
      if (grad.defined()) computed.push_back(grad);
    }
    ops::scale_gradients_(computed, grad_loss);
  }
  const auto rounded = [&](const Tensor& grad) { return grad.defined() ? grad.to(hidden.scalar_type()) : grad; };
  return {grads.hidden.defined() ? rounded(grads.hidden).view(hidden.sizes()) : Tensor(), rounded(grads.weight),
          rounded(grads.bias), grad_target.defined() ? grad_target.view(target.sizes()) : Tensor()};
}

void register_kernels(torch::Library& m) {
  m.impl("linear_reconstruction", unpacked<&linear_reconstruction>);
  m.impl("linear_reconstruction_with_gradients", unpacked<&linear_reconstruction_with_gradients>);
  m.impl("linear_reconstruction_backward", unpacked<&linear_reconstruction_backward>);
}

TORCH_LIBRARY_IMPL(vae_fused, CPU, m) { register_kernels(m); }
TORCH_LIBRARY_IMPL(vae_fused, CUDA, m) { register_kernels(m); }

}  // namespace
}  // namespace vae_fused
