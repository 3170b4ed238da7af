"""The functions inside the transforms of ``torch.func`` and in forward-mode AD, where C++ autograd Functions fail.

Same signatures and errors as :mod:`vae_fused.functional`. Values and gradients come from the kernels, through two
Python autograd Functions that know ``jvp`` and ``vmap``; tangents and second derivatives from formulas. A scale that is
not stored as its log-variance, a temperature and a mask are plain PyTorch around them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vae_fused import _arguments as arguments
from vae_fused._arguments import accumulation_dtype
from vae_fused._arguments_posterior import check_mask, check_temperature
from vae_fused._arguments_reconstruction import check_term
from vae_fused._functorch_functions import Value
from vae_fused._functorch_terms import KLDivergence, Noise, Sample, SquaredError, sum_of
from vae_fused._philox import draw_key
from vae_fused._reference_terms import reconstruction_elements, squared_error_of_batch, term_dtype
from vae_fused._scale_form import ScaleForm
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
    parameterization: str = "logvar",
    epsilon: float = 0.0,
    logvar_clamp: Sequence[float] | None = None,
    clamp: str = "hard",
    temperature: float = 1.0,
) -> Tensor:
    """See :func:`vae_fused.reparameterize`."""
    arguments.check_sampling(mu, logvar, num_samples, generator, key)
    form = ScaleForm.of(parameterization, epsilon, logvar_clamp, clamp, mu.dtype)
    check_temperature(temperature)
    key = draw_key(mu.device, generator) if key is None else key
    if form.is_logvar and temperature == 1.0:
        return _sample(mu, logvar, key, num_samples)
    dtype = accumulation_dtype(mu.dtype)
    # The sample of mean 0 and log-variance 0 is the noise itself, in the shape of z.
    zero = torch.zeros_like(mu, dtype=dtype)
    noise = _sample(zero, zero, key, num_samples)
    return (mu.to(dtype) + temperature * form.std(logvar, dtype) * noise).to(mu.dtype)


def reparameterize_with_kl(
    mu: Tensor,
    logvar: Tensor,
    *,
    generator: torch.Generator | None = None,
    key: Tensor | None = None,
    mask: Tensor | None = None,
    parameterization: str = "logvar",
    epsilon: float = 0.0,
    logvar_clamp: Sequence[float] | None = None,
    clamp: str = "hard",
) -> tuple[Tensor, Tensor]:
    """See :func:`vae_fused.reparameterize_with_kl`."""
    arguments.check_sampling(mu, logvar, None, generator, key)
    check_mask(mask, mu)
    z = reparameterize(
        mu,
        logvar,
        generator=generator,
        key=key,
        parameterization=parameterization,
        epsilon=epsilon,
        logvar_clamp=logvar_clamp,
        clamp=clamp,
    )
    kl = kl_divergence(
        mu,
        logvar,
        reduction="sample",
        mask=mask,
        parameterization=parameterization,
        epsilon=epsilon,
        logvar_clamp=logvar_clamp,
        clamp=clamp,
    )
    return z, kl


def kl_divergence(
    mu: Tensor,
    logvar: Tensor,
    prior_mu: Tensor | None = None,
    prior_logvar: Tensor | None = None,
    *,
    reduction: str = "batchmean",
    mask: Tensor | None = None,
    parameterization: str = "logvar",
    epsilon: float = 0.0,
    logvar_clamp: Sequence[float] | None = None,
    clamp: str = "hard",
) -> Tensor:
    """See :func:`vae_fused.kl_divergence`."""
    arguments.check_kl_divergence(mu, logvar, prior_mu, prior_logvar, reduction)
    form = ScaleForm.of(parameterization, epsilon, logvar_clamp, clamp, mu.dtype)
    check_mask(mask, mu)
    if not form.is_logvar:
        dtype = accumulation_dtype(mu.dtype)
        mu, logvar = mu.to(dtype), form.logvar(logvar, dtype)
        prior_mu, prior_logvar = (prior if prior is None else prior.to(dtype) for prior in (prior_mu, prior_logvar))
    # Expanded here, so that autograd sums the gradient of a prior that is shared between elements.
    priors = (prior if prior is None else prior.expand(mu.shape) for prior in (prior_mu, prior_logvar))
    if mask is None:
        total = _kl_divergence(mu, logvar, *priors, reduction if reduction in ("sample", "none") else "sum")
        return _averaged(total, mu, reduction)
    elements = _kl_divergence(mu, logvar, *priors, "none")
    elements = elements * mask.to(elements.dtype)
    if reduction == "none":
        return elements
    if reduction == "sample":
        total = elements.flatten(1).sum(1, dtype=torch.float64) if mu.dim() > 1 else elements
    else:
        total = _averaged(elements.sum(dtype=torch.float64), mu, reduction)
    return total.to(elements.dtype)


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
        log_sigma, log_sigma_floor, lambda: squared_error_of_batch(recon, target, weight), recon, weight
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
