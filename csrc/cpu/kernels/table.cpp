// The kernel table of one instruction set.
#include "cpu/kernels/kernels.h"

#define VAE_FUSED_STRING_OF(name) #name
#define VAE_FUSED_STRING(name) VAE_FUSED_STRING_OF(name)

namespace vae_fused {
namespace VAE_FUSED_ISA {

const KernelTable kTable = {
    VAE_FUSED_STRING(VAE_FUSED_ISA),
    standard_normal,
    reparameterize,
    reparameterize_backward,
    kl_divergence,
    reconstruction,
    reconstruction_term,
};

}  // namespace VAE_FUSED_ISA
}  // namespace vae_fused
