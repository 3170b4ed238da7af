"""The package's functions in plain PyTorch: the oracle of the tests, and the path of devices without kernels.

Same signatures, shapes, dtypes, errors and noise as :mod:`vae_fused.functional`; autograd does the backward. With the
same key both give the same samples to rounding, on any device.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vae_fused import _arguments as arguments
from vae_fused._arguments import accumulation_dtype
from vae_fused._arguments_linear import check_linear_elbo_loss
from vae_fused._arguments_posterior import check_mask, check_temperature
from vae_fused._arguments_reconstruction import check_term
from vae_fused._philox import draw_key, normals_of_shape
from vae_fused._reference_terms import reconstruction_elements, squared_error_of_batch
from vae_fused._scale_form import ScaleForm
from vae_fused._sigma import resolved_log_sigma
from vae_fused._terms import ELBOTerms

__all__ = [
    "elbo_loss",
    "kl_divergence",
    "linear_elbo_loss",
    "reparameterize",
    "reparameterize_with_kl",
    "standard_normal",
]


def standard_normal(
    key: Tensor,
    size: Sequence[int],
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> Tensor:
    """See :func:`vae_fused.standard_normal`."""
    arguments.check_normal_request(key, size, dtype)
    noise = normals_of_shape(key.to(device or key.device), size, accumulation_dtype(dtype))
    return noise.to(dtype)


def _noise_like(mu: Tensor, num_samples: int | None, key: Tensor) -> Tensor:
    dtype = accumulation_dtype(mu.dtype)
    if num_samples is None:
        return normals_of_shape(key, mu.shape, dtype)
    if key.dim() == 1:
        return normals_of_shape(key, (num_samples, *mu.shape), dtype)
    # One key per item: item i's noise has the shape of z[:, i].
    return normals_of_shape(key, (mu.shape[0], num_samples, *mu.shape[1:]), dtype).movedim(0, 1)


def _sample(
    mu: Tensor, logvar: Tensor, num_samples: int | None, key: Tensor, form: ScaleForm, temperature: float
) -> Tensor:
    noise = _noise_like(mu, num_samples, key)
    sigma = form.std(logvar, noise.dtype)
    return (mu.to(noise.dtype) + temperature * sigma * noise).to(mu.dtype)


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
    return _sample(mu, logvar, num_samples, key, form, temperature)


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
    form = ScaleForm.of(parameterization, epsilon, logvar_clamp, clamp, mu.dtype)
    check_mask(mask, mu)
    z = _sample(mu, logvar, None, draw_key(mu.device, generator) if key is None else key, form, 1.0)
    elements = _kl_of_form(mu, logvar, None, None, form, mask)
    return z, _reduce(elements, "sample").to(elements.dtype)


def _reduce(elements: Tensor, reduction: str) -> Tensor:
    if reduction == "none":
        return elements
    if reduction == "sample":
        return elements.flatten(1).sum(1, dtype=torch.float64) if elements.dim() > 1 else elements.double()
    total = elements.sum(dtype=torch.float64)  # an empty batch: 0, or 0 / 0 = NaN, as torch's sum and mean
    if reduction == "batchmean":
        return total / elements.shape[0]
    if reduction == "mean":
        return total / elements.numel()
    return total


def _kl_elements(mu: Tensor, logvar: Tensor, prior_mu: Tensor | None, prior_logvar: Tensor | None) -> Tensor:
    # ½(λ₂ − λ₁ − 1 + e^{λ₁−λ₂} + (μ₁−μ₂)² e^{−λ₂}), with expm1 because e^δ − 1 − δ cancels for small δ.
    dtype = accumulation_dtype(mu.dtype)
    difference, log_ratio, precision = mu.to(dtype), logvar.to(dtype), None
    if prior_mu is not None:
        difference = difference - prior_mu.to(dtype)
    if prior_logvar is not None:
        log_ratio = log_ratio - prior_logvar.to(dtype)
        precision = torch.exp(-prior_logvar.to(dtype))
    distance = difference.square() if precision is None else difference.square() * precision
    return 0.5 * (distance + torch.expm1(log_ratio) - log_ratio)


def _kl_of_form(
    mu: Tensor,
    logvar: Tensor,
    prior_mu: Tensor | None,
    prior_logvar: Tensor | None,
    form: ScaleForm,
    mask: Tensor | None,
) -> Tensor:
    dtype = accumulation_dtype(mu.dtype)
    elements = _kl_elements(mu.to(dtype), form.logvar(logvar, dtype), prior_mu, prior_logvar)
    return elements if mask is None else elements * mask.to(dtype)


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
    elements = _kl_of_form(mu, logvar, prior_mu, prior_logvar, form, mask)
    return _reduce(elements, reduction).to(elements.dtype)


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
    """See :func:`vae_fused.elbo_loss`. Nothing is overwritten; ``inplace`` is only checked."""
    arguments.check_elbo_loss(recon, target, mu, logvar, kl, beta, recon_loss, reduction, target_scale, target_shift)
    arguments.check_inplace(inplace, reduction)
    check_term(recon, recon_loss, weight, log_sigma, log_sigma_floor, recon_weight, full, smooth_l1_beta, inplace)
    if target.dtype == torch.uint8:
        target = target.to(accumulation_dtype(recon.dtype)) * target_scale + target_shift
    sigma = resolved_log_sigma(
        log_sigma, log_sigma_floor, lambda: squared_error_of_batch(recon, target, weight), recon, weight
    )
    elements = reconstruction_elements(recon, target, recon_loss, weight, sigma, full, smooth_l1_beta)
    reconstruction = _reduce(elements, reduction)
    if recon_weight != 1:
        reconstruction = reconstruction * recon_weight
    if kl is not None:
        latent_dtype = kl.dtype
        kl_term = _reduce(kl, reduction)
    else:
        assert mu is not None and logvar is not None  # established by check_elbo_loss
        latent_dtype = mu.dtype
        kl_term = _reduce(_kl_elements(mu, logvar, None, None), reduction)
    factor = beta.to(device=recon.device, dtype=torch.float64) if isinstance(beta, Tensor) else beta
    dtype = accumulation_dtype(elements.dtype, latent_dtype)
    loss = (reconstruction + factor * kl_term).to(dtype)
    if not return_terms:
        return loss
    return ELBOTerms(loss, reconstruction.detach().to(dtype), kl_term.detach().to(dtype))


def linear_elbo_loss(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    mu: Tensor | None = None,
    logvar: Tensor | None = None,
    *,
    kl: Tensor | None = None,
    beta: float | Tensor = 1.0,
    recon_loss: str = "mse",
    reduction: str = "batchmean",
    return_terms: bool = False,
    chunk: int | None = None,
) -> Tensor | ELBOTerms:
    """See :func:`vae_fused.linear_elbo_loss`. The reconstruction is made as a whole; ``chunk`` is only checked."""
    check_linear_elbo_loss(hidden, weight, bias, target, mu, logvar, kl, beta, recon_loss, reduction, chunk)
    recon = torch.nn.functional.linear(hidden, weight, bias)
    return elbo_loss(
        recon,
        target,
        mu,
        logvar,
        kl=kl,
        beta=beta,
        recon_loss=recon_loss,
        reduction=reduction,
        return_terms=return_terms,
    )
