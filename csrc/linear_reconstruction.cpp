// The decoder's last Linear and the reconstruction term of its output, in chunks of rows, so that neither the
// reconstruction nor its gradient exists as a whole. Written in ATen and the operators of this package: CPU and CUDA
// run the same code, the matrix products stay with ATen, and the formula of the loss stays with elbo_loss.
#include <ATen/TensorOperators.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>
#include <c10/util/accumulate.h>
#include <torch/library.h>

#include <algorithm>

#include "checks.h"
#include "ops.h"
#include "reduction.h"

namespace vae_fused {
namespace {

// A chunk of the reconstruction takes about this much, and as much again for its gradient. Every chunk reads the whole
// weight and reads and writes its whole gradient, so it has rows enough for the products to cost more than that.
constexpr int64_t kChunkBytes = int64_t{64} << 20;
constexpr int64_t kLeastRows = 128;
constexpr int64_t kRowsMultiple = 16;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Rows of a chunk where the caller does not say: from the sizes alone, so that no sum depends on the machine. All
// chunks but the last are equal, and the last is not a scrap.
int64_t default_chunk(int64_t rows, int64_t bytes_of_row) {
  const int64_t most = std::max(kLeastRows, kChunkBytes / std::max<int64_t>(bytes_of_row, 1));
  const int64_t chunks = std::max<int64_t>(1, ceil_div(rows, most));
  const int64_t even = ceil_div(ceil_div(rows, chunks), kRowsMultiple) * kRowsMultiple;
  return std::clamp<int64_t>(even, 1, std::max<int64_t>(rows, 1));
}

// BLAS takes a matrix in which one of the strides is 1; another would be copied again for every chunk.
Tensor for_blas(const Tensor& matrix) {
  return matrix.stride(0) == 1 || matrix.stride(1) == 1 ? matrix : matrix.contiguous();
}

struct OutputLayer {
  const Tensor& hidden;  // [items, ..., in_features]
  const Tensor weight;   // [outputs, in_features]
  const Tensor bias;     // [outputs], or undefined
  const Tensor& target;  // [items, ..., outputs]
  const std::string_view recon_loss;
  const Reduction reduction;
  const int64_t items, rows_per_item, outputs;
  int64_t chunk;

  OutputLayer(const Tensor& hidden, const Tensor& weight, const OptionalTensor& bias, const Tensor& target,
              std::string_view recon_loss, std::string_view reduction_name, std::optional<int64_t> chunk_rows)
      : hidden(hidden),
        weight((check_linear(hidden, weight, bias, target), for_blas(weight))),
        bias(bias.value_or(Tensor())),
        target(target),
        recon_loss(recon_loss),
        reduction(parse_reduction(reduction_name, /*allow_none=*/false)),
        items(hidden.size(0)),
        rows_per_item(c10::multiply_integers(hidden.sizes().slice(1, hidden.dim() - 2))),
        outputs(weight.size(0)) {
    TORCH_CHECK_VALUE(recon_loss == "mse", "recon_loss must be one of mse, got '", recon_loss, "'");
    check_chunk(chunk_rows);
    chunk = chunk_rows ? std::min(*chunk_rows, std::max<int64_t>(rows(), 1))
                       : default_chunk(rows(), outputs * static_cast<int64_t>(hidden.element_size()));
  }

  int64_t rows() const { return items * rows_per_item; }
  bool by_item() const { return reduction == Reduction::kSample; }
  double divided_by() const { return divisor(reduction, items, rows() * outputs); }
  // Gradients are summed in this and rounded once.
  at::ScalarType wide() const { return accumulation_type({&hidden}); }
  at::TensorOptions sums() const { return hidden.options().dtype(at::kDouble); }
};

struct Chunk {
  int64_t first, count;
  Tensor hidden;      // [count, in_features]
  Tensor target;      // [count, outputs]
  Tensor recon;       // [count, outputs]
  OptionalTensor kl;  // [count]: the loss wants one, and gives its results in the dtype of it, float64
  const OptionalTensor& none;

  ObjectiveArguments objective(std::string_view recon_loss, std::string_view reduction) const {
    return {recon, target, none, none, kl, 0.0, none, recon_loss, reduction};
  }
};

// Rows [first, first + count) of a tensor [items, ..., features]. One whose rows do not lie at a fixed distance from
// each other is copied, but only the items that these rows belong to.
Tensor rows_of(const OutputLayer& layer, const Tensor& tensor, int64_t first, int64_t count) {
  if (tensor.dim() == 2) return tensor.narrow(0, first, count);
  const int64_t item = first / layer.rows_per_item;
  const int64_t end = (first + count - 1) / layer.rows_per_item + 1;
  return tensor.narrow(0, item, end - item)
      .reshape({(end - item) * layer.rows_per_item, tensor.size(-1)})
      .narrow(0, first - item * layer.rows_per_item, count);
}

template <class Body>
void for_each_chunk(const OutputLayer& layer, Body body) {
  const Tensor buffer = at::empty({layer.chunk, layer.outputs}, layer.hidden.options());
  const Tensor no_kl = at::zeros({layer.chunk}, layer.sums());
  const OptionalTensor none;
  for (int64_t first = 0; first < layer.rows(); first += layer.chunk) {
    const int64_t count = std::min(layer.chunk, layer.rows() - first);
    Chunk chunk{first,
                count,
                rows_of(layer, layer.hidden, first, count),
                rows_of(layer, layer.target, first, count),
                buffer.narrow(0, 0, count),
                no_kl.narrow(0, 0, count),
                none};
    if (layer.bias.defined()) {
      at::addmm_out(chunk.recon, layer.bias, chunk.hidden, layer.weight.t());
    } else {
      at::mm_out(chunk.recon, chunk.hidden, layer.weight.t());
    }
    body(chunk);
  }
}

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
  Tensor product;  // scratch

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

  void add_product(Tensor sum, const Tensor& left, const Tensor& right, double scale, bool first) {
    if (left.scalar_type() == sum.scalar_type()) {
      at::addmm_out(sum, sum, left, right, first ? 0 : 1, scale);
      return;
    }
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
    product = Tensor();
  }
};

Tensor linear_reconstruction(const Tensor& hidden, const Tensor& weight, const OptionalTensor& bias,
                             const Tensor& target, std::string_view recon_loss, std::string_view reduction,
                             std::optional<int64_t> chunk_rows) {
  const OutputLayer layer(hidden, weight, bias, target, recon_loss, reduction, chunk_rows);
  Total total(layer);
  for_each_chunk(layer, [&](const Chunk& chunk) {
    total.add(chunk, std::get<1>(ops::elbo_loss(chunk.objective(recon_loss, layer.by_item() ? "sample" : "sum"))));
  });
  return total.result();
}

std::tuple<Tensor, Tensor, Tensor, Tensor> linear_reconstruction_with_gradients(
    const Tensor& hidden, const Tensor& weight, const OptionalTensor& bias, const Tensor& target,
    std::string_view recon_loss, std::string_view reduction, std::optional<int64_t> chunk_rows,
    std::array<bool, 3> output_mask) {
  const OutputLayer layer(hidden, weight, bias, target, recon_loss, reduction, chunk_rows);
  TORCH_CHECK_VALUE(!layer.by_item(), "reduction must not be sample where the forward computes the gradients");
  LayerGradients grads(layer, output_mask[0], output_mask[1], output_mask[2]);
  Total total(layer);
  for_each_chunk(layer, [&](const Chunk& chunk) {
    const auto results = ops::elbo_loss_with_gradients(chunk.objective(recon_loss, "sum"), {true, false, false, false});
    total.add(chunk, std::get<1>(results));
    grads.add(chunk, std::get<3>(results), 1.0 / layer.divided_by());
  });
  return {total.result(), grads.hidden.defined() ? grads.hidden.view(hidden.sizes()) : Tensor(), grads.weight,
          grads.bias};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> linear_reconstruction_backward(
    const Tensor& grad_loss, const Tensor& hidden, const Tensor& weight, const OptionalTensor& bias,
    const Tensor& target, std::string_view recon_loss, std::string_view reduction, std::optional<int64_t> chunk_rows,
    std::array<bool, 4> output_mask) {
  const OutputLayer layer(hidden, weight, bias, target, recon_loss, reduction, chunk_rows);
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
      return ops::elbo_loss_backward(grad, chunk.objective(recon_loss, layer.by_item() ? "sample" : "sum"),
                                     {of_recon, of_target, false, false, false, false});
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
    for (const Tensor& grad : {grads.hidden, grads.weight, grads.bias}) {
      if (grad.defined()) ops::scale_gradient_(grad, grad_loss);
    }
  }
  const auto rounded = [&](const Tensor& grad) { return grad.defined() ? grad.to(hidden.scalar_type()) : grad; };
  return {grads.hidden.defined() ? rounded(grads.hidden).view(hidden.sizes()) : Tensor(), rounded(grads.weight),
          rounded(grads.bias), grad_target.defined() ? grad_target.view(target.sizes()) : Tensor()};
}

// On a CPU the factor is read and 1 costs nothing. Elsewhere reading it would make the host wait for the device, and
// the pass costs little beside the products that filled the buffer.
void scale_gradient_(const Tensor& gradient, const Tensor& factor) {
  check_gradient("factor", factor, {}, gradient.device());
  if (factor.is_cpu() && factor.item<double>() == 1.0) return;
  // As a dimension of one it takes part in type promotion: a factor beyond a half type's range is not rounded to it.
  gradient.mul_(factor.is_cpu() ? factor : factor.unsqueeze(0));
}

void register_kernels(torch::Library& m) {
  m.impl("linear_reconstruction", &linear_reconstruction);
  m.impl("linear_reconstruction_with_gradients", &linear_reconstruction_with_gradients);
  m.impl("linear_reconstruction_backward", &linear_reconstruction_backward);
  m.impl("scale_gradient_", &scale_gradient_);
}

TORCH_LIBRARY_IMPL(vae_fused, CPU, m) { register_kernels(m); }
TORCH_LIBRARY_IMPL(vae_fused, CUDA, m) { register_kernels(m); }

}  // namespace
}  // namespace vae_fused
