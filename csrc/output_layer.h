// The rows of an output layer's reconstruction in chunks: how many, and one after the other.
#pragma once

#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>
#include <c10/util/accumulate.h>

#include <algorithm>

#include "checks.h"
#include "objective_arguments.h"
#include "output_layer_arguments.h"
#include "reduction.h"

namespace vae_fused {

// A chunk of the reconstruction takes about this much, and as much again for its gradient. Every chunk reads the whole
// weight and reads and writes its whole gradient, so it has rows enough for the products to cost more than that.
inline constexpr int64_t kChunkBytes = int64_t{64} << 20;
inline constexpr int64_t kLeastRows = 128;
inline constexpr int64_t kRowsMultiple = 16;

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Rows of a chunk where the caller does not say: from the sizes alone, so that no sum depends on the machine. All
// chunks but the last are equal, and the last is not a scrap.
inline int64_t default_chunk(int64_t rows, int64_t bytes_of_row) {
  const int64_t most = std::max(kLeastRows, kChunkBytes / std::max<int64_t>(bytes_of_row, 1));
  const int64_t chunks = std::max<int64_t>(1, ceil_div(rows, most));
  const int64_t even = ceil_div(ceil_div(rows, chunks), kRowsMultiple) * kRowsMultiple;
  return std::clamp<int64_t>(even, 1, std::max<int64_t>(rows, 1));
}

// BLAS takes a matrix in which one of the strides is 1; another would be copied again for every chunk.
inline Tensor for_blas(const Tensor& matrix) {
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

  explicit OutputLayer(const OutputLayerArguments& a)
      : hidden(a.hidden),
        weight((check_output_layer(a), for_blas(a.weight))),
        bias(a.bias.value_or(Tensor())),
        target(a.target),
        recon_loss(a.recon_loss),
        reduction(parse_reduction(a.reduction, /*allow_none=*/false)),
        items(hidden.size(0)),
        rows_per_item(c10::multiply_integers(hidden.sizes().slice(1, hidden.dim() - 2))),
        outputs(weight.size(0)) {
    chunk = a.chunk ? std::min(*a.chunk, std::max<int64_t>(rows(), 1))
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
  const OutputLayer& layer;
  int64_t first, count;
  Tensor hidden;      // [count, in_features]
  Tensor target;      // [count, outputs]
  Tensor recon;       // [count, outputs]
  OptionalTensor kl;  // [count]: the loss wants one, and gives its results in the dtype of it, float64
  OptionalTensor none{};

  // The loss of these rows: their sum, or one a row where every item has its own.
  ObjectiveArguments objective() const {
    return {recon, target, none, none, kl, 0.0, none, layer.recon_loss, layer.by_item() ? "sample" : "sum"};
  }
};

// Rows [first, first + count) of a tensor [items, ..., features]. One whose rows do not lie at a fixed distance from
// each other is copied, but only the items that these rows belong to.
inline Tensor rows_of(const OutputLayer& layer, const Tensor& tensor, int64_t first, int64_t count) {
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
  for (int64_t first = 0; first < layer.rows(); first += layer.chunk) {
    const int64_t count = std::min(layer.chunk, layer.rows() - first);
    Chunk chunk{layer,
                first,
                count,
                rows_of(layer, layer.hidden, first, count),
                rows_of(layer, layer.target, first, count),
                buffer.narrow(0, 0, count),
                no_kl.narrow(0, 0, count)};
    if (layer.bias.defined()) {
      at::addmm_out(chunk.recon, layer.bias, chunk.hidden, layer.weight.t());
    } else {
      at::mm_out(chunk.recon, chunk.hidden, layer.weight.t());
    }
    body(chunk);
  }
}

}  // namespace vae_fused
