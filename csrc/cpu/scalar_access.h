// Single numbers in CPU tensors, read without a dispatcher call.
#pragma once

#include <ATen/core/Tensor.h>

namespace vae_fused {

inline double read_number(const at::Tensor& tensor, int64_t offset) {
  switch (tensor.scalar_type()) {
    case at::kFloat: return tensor.const_data_ptr<float>()[offset];
    case at::kDouble: return tensor.const_data_ptr<double>()[offset];
    case at::kHalf: return tensor.const_data_ptr<at::Half>()[offset];
    case at::kBFloat16: return tensor.const_data_ptr<at::BFloat16>()[offset];
    default: TORCH_INTERNAL_ASSERT(false, "unchecked dtype ", tensor.scalar_type());
  }
}

// value into a float32 or float64 tensor.
inline void write_number(const at::Tensor& tensor, int64_t offset, double value) {
  if (tensor.scalar_type() == at::kDouble) {
    tensor.mutable_data_ptr<double>()[offset] = value;
  } else {
    tensor.mutable_data_ptr<float>()[offset] = static_cast<float>(value);
  }
}

}  // namespace vae_fused
