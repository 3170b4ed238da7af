"""Shapes, dtypes and strides of the objective's results, for tracing; see :mod:`vae_fused._fake`.

Each operator has its own arguments first, then those of the objective, which :func:`_elbo_loss` lists.
"""

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


def _gradients(
    output_mask: Sequence[bool], operands: Sequence[Tensor | None], recon: Tensor, log_sigma: Tensor | None
) -> tuple[Tensor | None, ...]:
    """Gradients of the operands, and of log_sigma, which is the last that the mask speaks of."""
    *wanted, wants_log_sigma = output_mask
    of_operands = (like_if(wants, of) for wants, of in zip(wanted, operands, strict=True))
    return (*of_operands, _grad_log_sigma(wants_log_sigma, log_sigma, recon))


def _elbo_loss_with_gradients(
    output_mask: Sequence[bool], recon: Tensor, *objective: Any, **term: Any
) -> tuple[Tensor | None, ...]:
    terms = _elbo_loss(recon, *objective, **term)
    _, *latents = objective[:4]
    return (*terms, *_gradients(output_mask, (recon, *latents), recon, term.get("log_sigma")))


def _elbo_loss_(output_mask: Sequence[bool], recon: Tensor, *objective: Any, **term: Any) -> tuple[Tensor | None, ...]:
    terms = _elbo_loss(recon, *objective, **term)
    _, *latents = objective[:4]
    arguments.check_inplace(True, objective[-1])
    return (*terms, *_gradients(output_mask, latents, recon, term.get("log_sigma")))


def _elbo_loss_backward(
    grad_loss: Tensor, output_mask: Sequence[bool], recon: Tensor, *objective: Any, **term: Any
) -> tuple[Tensor | None, ...]:
    target, *latents = objective[:4]
    operands = (recon, target if target.is_floating_point() else None, *latents)  # bytes have no gradient
    *gradients, to_log_sigma = _gradients(output_mask, operands, recon, term.get("log_sigma"))
    return (*gradients, to_log_sigma if to_log_sigma is None else to_log_sigma.to(term["log_sigma"].dtype))


def _elbo_loss_backward_(grad_loss: Tensor, *buffers_and_objective: Any, **term: Any) -> None:
    return None


OBJECTIVE_FAKES: dict[str, Callable[..., Any]] = {
    "elbo_loss": _elbo_loss,
    "elbo_loss_with_gradients": _elbo_loss_with_gradients,
    "elbo_loss_": _elbo_loss_,
    "elbo_loss_backward": _elbo_loss_backward,
    "elbo_loss_backward_": _elbo_loss_backward_,
}
