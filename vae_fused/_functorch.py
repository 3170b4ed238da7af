"""The functions inside the transforms of ``torch.func`` and in forward-mode AD, where C++ autograd Functions fail.

Same signatures and errors as :mod:`vae_fused.functional`. Values and gradients come from the kernels, through two
Python autograd Functions that know ``jvp`` and ``vmap``; tangents and second derivatives from formulas.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vae_fused import _arguments as arguments
from vae_fused._arguments import accumulation_dtype
from vae_fused._arguments_reconstruction import check_term
from vae_fused._functorch_functions import Value
from vae_fused._functorch_terms import KLDivergence, Noise, Sample, SquaredError, sum_of
from vae_fused._philox import draw_key
from vae_fused._reference_terms import reconstruction_elements, term_dtype
from vae_fused._sigma import resolved_log_sigma
from vae_fused._terms import ELBOTerms

__all__ = ["elbo_loss", "kl_divergence", "reparameterize", "reparameterize_with_kl", "standard_normal"]


# Dynamo does not look into a Function with a jvp or a vmap: it takes these calls into its graph as they are, and the
# tracing below it sees the operators.


@torch.compiler.allow_in_graph
def _squared_error(recon: Tensor, target: Tensor, by_item: bool) -> Tensor:
    return Value.apply(SquaredError(by_item), recon, target)


@torch.compiler.allow_in_graph
def _kl_divergence(
    mu: Tensor, logvar: Tensor, prior_mu: Tensor | None, prior_logvar: Tensor | None, reduction: str
) -> Tensor:
    return Value.apply(KLDivergence(reduction), mu, logvar, prior_mu, prior_logvar)


@torch.compiler.allow_in_graph
def _noise(key: Tensor, size: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return Value.apply(Noise(tuple(size), dtype), key)


@torch.compiler.allow_in_graph
def _sample(mu: Tensor, logvar: Tensor, key: Tensor, num_samples: int | None) -> Tensor:
    return Value.apply(Sample(num_samples, _noise), mu, logvar, key)


def _averaged(total: Tensor, over: Tensor, reduction: str) -> Tensor:
    if reduction == "batchmean":
        return total / over.shape[0]
    return total / over.numel() if reduction == "mean" else total


def standard_normal(
    key: Tensor,
    size: Sequence[int],
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> Tensor:
    """See :func:`vae_fused.standard_normal`."""
    arguments.check_normal_request(key, size, dtype)
    return _noise(key.to(device or key.device), tuple(size), dtype)


def reparameterize(
    mu: Tensor,
    logvar: Tensor,
    *,
    num_samples: int | None = None,
    generator: torch.Generator | None = None,
    key: Tensor | None = None,
) -> Tensor:
    """See :func:`vae_fused.reparameterize`."""
    arguments.check_sampling(mu, logvar, num_samples, generator, key)
    return _sample(mu, logvar, draw_key(mu.device, generator) if key is None else key, num_samples)


def reparameterize_with_kl(
    mu: Tensor, logvar: Tensor, *, generator: torch.Generator | None = None, key: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """See :func:`vae_fused.reparameterize_with_kl`."""
    return reparameterize(mu, logvar, generator=generator, key=key), kl_divergence(mu, logvar, reduction="sample")


def kl_divergence(
    mu: Tensor,
    logvar: Tensor,
    prior_mu: Tensor | None = None,
    prior_logvar: Tensor | None = None,
    *,
    reduction: str = "batchmean",
) -> Tensor:
    """See :func:`vae_fused.kl_divergence`."""
    arguments.check_kl_divergence(mu, logvar, prior_mu, prior_logvar, reduction)
    # Expanded here, so that autograd sums the gradient of a prior that is shared between elements.
    priors = (prior if prior is None else prior.expand(mu.shape) for prior in (prior_mu, prior_logvar))
    total = _kl_divergence(mu, logvar, *priors, reduction if reduction in ("sample", "none") else "sum")
    return _averaged(total, mu, reduction)


def elbo_loss(
    recon: Tensor,
    target: Tensor,
    mu: Tensor | None = None,
    logvar: Tensor | None = None,
    *,
    kl: Tensor | None = None,
    beta: float | Tensor = 1.0,
    recon_loss: str = "mse",
    reduction: str = "batchmean",
    return_terms: bool = False,
    target_scale: float = 1.0,
    target_shift: float = 0.0,
    inplace: bool = False,
    weight: Tensor | None = None,
    log_sigma: float | Tensor | str | None = None,
    recon_weight: float = 1.0,
    full: bool = False,
    smooth_l1_beta: float = 1.0,
    log_sigma_floor: float | None = None,
) -> Tensor | ELBOTerms:
    """See :func:`vae_fused.elbo_loss`.

    The terms are two launches here, not one: each is then folded as its own operands are mapped, and beta, which may be
    mapped too, stays outside the kernels. ``inplace`` is only checked. Reconstruction terms other than the squared
    error without weights are the reference's formulas.
    """
    arguments.check_elbo_loss(recon, target, mu, logvar, kl, beta, recon_loss, reduction, target_scale, target_shift)
    arguments.check_inplace(inplace, reduction)
    check_term(recon, recon_loss, weight, log_sigma, log_sigma_floor, recon_weight, full, smooth_l1_beta, inplace)
    if target.dtype == torch.uint8:  # formulas need numbers
        target = target.to(accumulation_dtype(recon.dtype)) * target_scale + target_shift
    sigma = resolved_log_sigma(
        log_sigma,
        log_sigma_floor,
        lambda: reconstruction_elements(recon, target, "mse", weight).sum(dtype=torch.float64),
        recon,
        weight,
    )
    if recon_loss == "mse" and weight is None:
        total = _squared_error(recon, target, reduction == "sample").double()
    else:
        elements = reconstruction_elements(recon, target, recon_loss, weight, sigma, full, smooth_l1_beta)
        total = sum_of(elements.double(), reduction == "sample")
    reconstruction = recon_weight * _averaged(total, recon, reduction)
    if kl is not None:
        latent_dtype = kl.dtype
        kl_term = _averaged(kl.double() if reduction == "sample" else kl.sum(dtype=torch.float64), kl, reduction)
    else:
        assert mu is not None and logvar is not None  # established by check_elbo_loss
        latent_dtype = mu.dtype
        kl_term = kl_divergence(mu, logvar, reduction=reduction).double()
    factor = beta.to(device=recon.device, dtype=torch.float64) if isinstance(beta, Tensor) else beta
    dtype = accumulation_dtype(term_dtype(recon, target, weight, sigma), latent_dtype)
    loss = (reconstruction + factor * kl_term).to(dtype)
    if not return_terms:
        return loss
    return ELBOTerms(loss, reconstruction.detach().to(dtype), kl_term.detach().to(dtype))
