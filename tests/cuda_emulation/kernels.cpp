// Every kernel of csrc/cuda and its launcher, compiled for the host.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#define __CUDACC__  // core/ takes its device branches; the headers above must not

#include "cuda/elbo_loss.cu"
#include "cuda/elbo_loss_term.cu"
#include "cuda/kl_divergence.cu"
#include "cuda/reparameterize.cu"
#include "cuda/scale_gradients.cu"
#include "cuda/standard_normal.cu"
