"""Shapes, dtypes and strides of the objective's results, for tracing; see :mod:`vae_fused._fake`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from vae_fused import _arguments as arguments
from vae_fused._arguments import accumulation_dtype
from vae_fused._arguments_reconstruction import check_term
from vae_fused._fake_results import like_if, reduced
from vae_fused._reference_terms import term_dtype


def _elbo_loss(
    recon: Tensor,
    target: Tensor,
    mu: Tensor | None,
    logvar: Tensor | None,
    kl: Tensor | None,
    beta: float,
    beta_tensor: Tensor | None,
    recon_loss: str,
    reduction: str,
    *,
    target_scale: float = 1.0,
    target_shift: float = 0.0,
    weight: Tensor | None = None,
    log_sigma: Tensor | None = None,
    log_sigma_value: float | None = None,
    recon_weight: float = 1.0,
    full: bool = False,
    smooth_l1_beta: float = 1.0,
) -> tuple[Tensor, Tensor, Tensor]:
    factor = beta if beta_tensor is None else beta_tensor
    arguments.check_elbo_loss(recon, target, mu, logvar, kl, factor, recon_loss, reduction, target_scale, target_shift)
    sigma = log_sigma_value if log_sigma is None else log_sigma
    check_term(recon, recon_loss, weight, sigma, None, recon_weight, full, smooth_l1_beta, False)
    latent = mu if kl is None else kl
    assert latent is not None  # established by check_elbo_loss
    dtype = accumulation_dtype(term_dtype(recon, target, weight, sigma), latent.dtype)
    return reduced(recon, reduction, dtype), reduced(recon, reduction, dtype), reduced(recon, reduction, dtype)


def _grad_log_sigma(wanted: bool, log_sigma: Tensor | None, recon: Tensor) -> Tensor | None:
    # That of a shared one is a sum, which is not rounded yet.
    if not wanted or log_sigma is None:
        return None
    if log_sigma.shape == recon.shape and log_sigma.numel() != 1:
        return like_if(True, log_sigma)
    return log_sigma.new_empty(log_sigma.shape, dtype=accumulation_dtype(log_sigma.dtype))


def _elbo_loss_with_gradients(
    recon: Tensor,
    target: Tensor,
    mu: Tensor | None,
    logvar: Tensor | None,
    kl: Tensor | None,
    beta: float,
    beta_tensor: Tensor | None,
    recon_loss: str,
    reduction: str,
    output_mask: Sequence[bool],
    **term: Any,
) -> tuple[Tensor | None, ...]:
    terms = _elbo_loss(recon, target, mu, logvar, kl, beta, beta_tensor, recon_loss, reduction, **term)
    gradients = (like_if(wanted, of) for wanted, of in zip(output_mask[:3], (recon, mu, logvar), strict=True))
    return (*terms, *gradients, _grad_log_sigma(output_mask[3], term.get("log_sigma"), recon))


def _elbo_loss_(
    recon: Tensor,
    target: Tensor,
    mu: Tensor | None,
    logvar: Tensor | None,
    kl: Tensor | None,
    beta: float,
    beta_tensor: Tensor | None,
    recon_loss: str,
    reduction: str,
    output_mask: Sequence[bool],
    **term: Any,
) -> tuple[Tensor | None, ...]:
    terms = _elbo_loss(recon, target, mu, logvar, kl, beta, beta_tensor, recon_loss, reduction, **term)
    arguments.check_inplace(True, reduction)
    gradients = (like_if(wanted, of) for wanted, of in zip(output_mask[:2], (mu, logvar), strict=True))
    return (*terms, *gradients, _grad_log_sigma(output_mask[2], term.get("log_sigma"), recon))


def _elbo_loss_backward(
    grad_loss: Tensor,
    recon: Tensor,
    target: Tensor,
    mu: Tensor | None,
    logvar: Tensor | None,
    kl: Tensor | None,
    beta: float,
    beta_tensor: Tensor | None,
    recon_loss: str,
    reduction: str,
    output_mask: Sequence[bool],
    **term: Any,
) -> tuple[Tensor | None, ...]:
    operands = (recon, target if target.is_floating_point() else None, mu, logvar, kl)  # bytes have no gradient
    gradients = (like_if(wanted, of) for wanted, of in zip(output_mask[:5], operands, strict=True))
    to_log_sigma = _grad_log_sigma(output_mask[5], term.get("log_sigma"), recon)
    return (*gradients, to_log_sigma if to_log_sigma is None else to_log_sigma.to(term["log_sigma"].dtype))


def _elbo_loss_backward_(
    grad_loss: Tensor,
    recon: Tensor,
    target: Tensor,
    mu: Tensor | None,
    logvar: Tensor | None,
    kl: Tensor | None,
    beta: float,
    beta_tensor: Tensor | None,
    recon_loss: str,
    reduction: str,
    grad_recon: Tensor | None,
    grad_mu: Tensor | None,
    grad_logvar: Tensor | None,
    **term: Any,
) -> None:
    return None


OBJECTIVE_FAKES: dict[str, Callable[..., Any]] = {
    "elbo_loss": _elbo_loss,
    "elbo_loss_with_gradients": _elbo_loss_with_gradients,
    "elbo_loss_": _elbo_loss_,
    "elbo_loss_backward": _elbo_loss_backward,
    "elbo_loss_backward_": _elbo_loss_backward_,
}
