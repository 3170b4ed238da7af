"""The formulas as people write them in PyTorch: the truth when fed float64, the yardstick in any other dtype."""

from __future__ import annotations

import torch
from torch import Tensor

REDUCTIONS = ("batchmean", "sum", "sample", "mean")


def reduce(elements: Tensor, reduction: str) -> Tensor:
    if reduction == "none":
        return elements
    if reduction == "sample":
        return elements.flatten(1).sum(1) if elements.dim() > 1 else elements
    if reduction == "batchmean":
        return elements.sum() / elements.shape[0]
    return elements.mean() if reduction == "mean" else elements.sum()


def kl_elements(
    mu: Tensor, logvar: Tensor, prior_mu: Tensor | None = None, prior_logvar: Tensor | None = None
) -> Tensor:
    prior_mu = torch.zeros_like(mu) if prior_mu is None else prior_mu
    prior_logvar = torch.zeros_like(mu) if prior_logvar is None else prior_logvar
    distance = (mu - prior_mu).pow(2)
    return 0.5 * (prior_logvar - logvar - 1 + (logvar - prior_logvar).exp() + distance * (-prior_logvar).exp())


def kl_divergence(
    mu: Tensor,
    logvar: Tensor,
    prior_mu: Tensor | None = None,
    prior_logvar: Tensor | None = None,
    reduction: str = "batchmean",
) -> Tensor:
    return reduce(kl_elements(mu, logvar, prior_mu, prior_logvar), reduction)


def elbo_terms(
    recon: Tensor, target: Tensor, mu: Tensor, logvar: Tensor, beta: float | Tensor = 1.0, reduction: str = "batchmean"
) -> tuple[Tensor, Tensor, Tensor]:
    reconstruction = reduce((recon - target).pow(2), reduction)
    kl = kl_divergence(mu, logvar, reduction=reduction)
    return reconstruction + beta * kl, reconstruction, kl


def reparameterize(mu: Tensor, logvar: Tensor, noise: Tensor) -> Tensor:
    return mu + torch.exp(0.5 * logvar) * noise


def leaves(*tensors: Tensor, dtype: torch.dtype | None = None) -> list[Tensor]:
    """Copies that require grad, strides kept; float64 ones are exact."""
    return [(t.detach().clone() if dtype is None else t.detach().to(dtype).clone()).requires_grad_() for t in tensors]
