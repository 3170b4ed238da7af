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

inline void write_number(const at::Tensor& tensor, int64_t offset, double value) {
  switch (tensor.scalar_type()) {
    case at::kFloat: tensor.mutable_data_ptr<float>()[offset] = static_cast<float>(value); return;
    case at::kDouble: tensor.mutable_data_ptr<double>()[offset] = value; return;
    case at::kHalf: tensor.mutable_data_ptr<at::Half>()[offset] = static_cast<float>(value); return;
    case at::kBFloat16: tensor.mutable_data_ptr<at::BFloat16>()[offset] = static_cast<float>(value); return;
    default: TORCH_INTERNAL_ASSERT(false, "unchecked dtype ", tensor.scalar_type());
  }
}

}  // namespace vae_fused
