// What the operators say to a sparse operand: which argument it is. They have kernels for dense ones alone, and the
// dispatcher by itself would name neither the argument nor what was expected.
#include <ATen/core/Tensor.h>
#include <ATen/core/stack.h>
#include <c10/core/Layout.h>
#include <torch/library.h>

namespace vae_fused {
namespace {

// Those whose operands come from the user as they are; Python has looked at those of the others before.
constexpr const char* kOperators[] = {
    "reparameterize",
    "reparameterize.generator",
    "reparameterize_with_kl",
    "reparameterize_with_kl.generator",
    "kl_divergence",
    "elbo_loss",
    "elbo_loss_with_gradients",
    "elbo_loss_",
};

// As Python prints it.
const char* name_of(at::Layout layout) {
  switch (layout) {
    case at::kSparse: return "torch.sparse_coo";
    case at::kSparseCsr: return "torch.sparse_csr";
    case at::kSparseCsc: return "torch.sparse_csc";
    case at::kSparseBsr: return "torch.sparse_bsr";
    default: return "torch.sparse_bsc";
  }
}

void refuse(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const auto& arguments = op.schema().arguments();
  const auto values = torch::jit::last(*stack, arguments.size());
  for (size_t i = 0; i < arguments.size(); ++i) {
    if (!values[i].isTensor()) continue;
    const at::Layout layout = values[i].toTensor().layout();
    TORCH_CHECK_TYPE(layout == at::kStrided, arguments[i].name(), " must be a dense tensor, got one of layout ",
                     name_of(layout));
  }
  TORCH_INTERNAL_ASSERT(false, op.schema().name(), " was called as if with a sparse operand");
}

void register_in(torch::Library& m) {
  for (const char* name : kOperators) m.impl(name, torch::CppFunction::makeFromBoxedFunction<&refuse>());
}

TORCH_LIBRARY_IMPL(vae_fused, SparseCPU, m) { register_in(m); }
TORCH_LIBRARY_IMPL(vae_fused, SparseCsrCPU, m) { register_in(m); }
TORCH_LIBRARY_IMPL(vae_fused, SparseCUDA, m) { register_in(m); }
TORCH_LIBRARY_IMPL(vae_fused, SparseCsrCUDA, m) { register_in(m); }

}  // namespace
}  // namespace vae_fused
