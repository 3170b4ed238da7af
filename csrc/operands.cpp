#include "operands.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <array>
#include <numeric>

namespace vae_fused {

ElementType element_type(at::ScalarType type) {
  switch (type) {
    case at::kFloat: return ElementType::kFloat;
    case at::kHalf: return ElementType::kHalf;
    case at::kBFloat16: return ElementType::kBFloat16;
    case at::kDouble: return ElementType::kDouble;
    case at::kByte: return ElementType::kByte;
    case at::kBool: return ElementType::kByte;  // 0 or 1
    default: TORCH_INTERNAL_ASSERT(false, "unchecked dtype ", type);
  }
}

namespace {

// The event dimensions in the order in which the first tensor lies in memory.
void sort_event_dimensions(const Tensor& tensor, std::vector<int64_t>& dims) {
  const auto events = dims.empty() || dims[0] != 0 ? dims.begin() : dims.begin() + 1;
  std::stable_sort(events, dims.end(), [&](int64_t a, int64_t b) { return tensor.stride(a) > tensor.stride(b); });
}

bool steps_alike(std::initializer_list<Binding> bindings, int64_t outer, int64_t inner, int64_t inner_size) {
  return std::all_of(bindings.begin(), bindings.end(), [&](const Binding& binding) {
    return !binding.tensor.defined() || binding.tensor.stride(outer) == binding.tensor.stride(inner) * inner_size;
  });
}

}  // namespace

Extent bind_operands(at::IntArrayRef sizes, Order order, std::initializer_list<Binding> bindings) {
  const Tensor* first = nullptr;
  bool contiguous = true;
  for (const Binding& binding : bindings) {
    *binding.operand = Operand{};
    if (!binding.tensor.defined()) continue;
    if (first == nullptr) first = &binding.tensor;
    binding.operand->data = const_cast<void*>(binding.tensor.const_data_ptr());
    binding.operand->type = element_type(binding.tensor.scalar_type());
    contiguous = contiguous && binding.tensor.is_contiguous();
  }
  Extent extent{};
  if (contiguous) {  // by far the most frequent layout needs no analysis
    extent.rank = 1;
    extent.sizes[0] = std::accumulate(sizes.begin(), sizes.end(), int64_t{1}, std::multiplies<>());
    for (const Binding& binding : bindings) binding.operand->strides[0] = 1;
    return extent;
  }

  std::vector<int64_t> dims;
  for (int64_t dim = 0; dim < static_cast<int64_t>(sizes.size()); ++dim) {
    if (sizes[dim] != 1) dims.push_back(dim);
  }
  if (order == Order::kMemory) sort_event_dimensions(*first, dims);
  for (size_t i = 0; i < dims.size(); ++i) {
    const bool merges = i > 0 && steps_alike(bindings, dims[i - 1], dims[i], sizes[dims[i]]);
    TORCH_CHECK_VALUE(merges || extent.rank < kMaxRank, "more than ", kMaxRank,
                      " dimensions with unrelated strides: make the tensors contiguous");
    if (!merges) extent.sizes[extent.rank++] = 1;
    extent.sizes[extent.rank - 1] *= sizes[dims[i]];
    for (const Binding& binding : bindings) {
      if (binding.tensor.defined()) binding.operand->strides[extent.rank - 1] = binding.tensor.stride(dims[i]);
    }
  }
  return extent;
}

Weight weight_of_gradient(const Tensor& grad, double scale) {
  const int64_t stride = grad.dim() == 1 && grad.size(0) > 1 ? grad.stride(0) : 0;
  return {grad.const_data_ptr(), element_type(grad.scalar_type()), stride, scale};
}

NoiseKey noise_key(const Tensor& contiguous_key) {
  return {static_cast<const uint64_t*>(contiguous_key.const_data_ptr()), contiguous_key.dim() == 2};
}

}  // namespace vae_fused
