"""The reconstruction terms as PyTorch has them: the truth when fed float64, the yardstick in any other dtype."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from helpers.eager import kl_divergence, reduce

LATENTS = 4


@dataclass(frozen=True)
class TermCase:
    """A term with its settings; ``sigma`` says which log sigma it has."""

    recon_loss: str
    sigma: str = ""
    settings: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        settings = "".join(f" {name}={value}" for name, value in self.settings.items())
        return self.recon_loss + (f" {self.sigma}" if self.sigma else "") + settings


SIGMAS = ("number", "scalar", "channel", "element")
TERMS = (
    TermCase("mse"),
    TermCase("l1"),
    TermCase("smooth_l1"),
    TermCase("smooth_l1", settings={"smooth_l1_beta": 0.3}),
    TermCase("bce_with_logits"),
    TermCase("bce"),
    *(TermCase("gaussian_nll", sigma) for sigma in SIGMAS),
    *(TermCase("laplace_nll", sigma) for sigma in SIGMAS),
    TermCase("gaussian_nll", "scalar", {"full": True}),
    TermCase("gaussian_nll", "element", {"full": True}),
    TermCase("laplace_nll", "number", {"full": True}),
    TermCase("laplace_nll", "channel", {"full": True}),
)
# One of each formula and of each way of its log sigma.
on_terms = pytest.mark.parametrize("term", TERMS, ids=str)
on_formulas = pytest.mark.parametrize("term", [term for term in TERMS if not term.settings], ids=str)


def sigma_shape(kind: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    if kind == "channel":
        return (shape[1], *[1] * (len(shape) - 2)) if len(shape) > 1 else (1,)
    return shape if kind == "element" else ()


@dataclass
class Operands:
    """What a call takes, on one device in one dtype."""

    recon: Tensor
    target: Tensor
    mu: Tensor
    logvar: Tensor
    settings: dict[str, Any]

    @property
    def leaves(self) -> list[Tensor]:
        log_sigma = self.settings.get("log_sigma")
        found = [self.recon, self.target, self.mu, self.logvar, log_sigma]
        return [tensor for tensor in found if isinstance(tensor, Tensor) and tensor.requires_grad]

    def to(self, dtype: torch.dtype) -> Operands:
        """The same numbers in another dtype, as leaves of their own."""

        def moved(value: Any) -> Any:
            if not isinstance(value, Tensor) or not value.is_floating_point():
                return value
            return value.detach().to(dtype, copy=True).requires_grad_(value.requires_grad)

        settings = {name: moved(value) for name, value in self.settings.items()}
        return Operands(moved(self.recon), moved(self.target), moved(self.mu), moved(self.logvar), settings)


def operands_of(
    term: TermCase,
    shape: tuple[int, ...] = (3, 2, 5),
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    weight: tuple[int, ...] | None = None,
    target_grad: bool = False,
) -> Operands:
    """Random operands that the term makes sense of; ``weight`` is the shape of one."""
    target = torch.rand(shape, dtype=torch.float64)
    recon = target + 0.7 * torch.randn(shape, dtype=torch.float64)
    if term.recon_loss == "bce":
        recon = torch.rand(shape, dtype=torch.float64) * 0.96 + 0.02
    elif term.recon_loss == "bce_with_logits":
        recon = 3.0 * torch.randn(shape, dtype=torch.float64)
    settings: dict[str, Any] = {"recon_loss": term.recon_loss, **term.settings}

    def leaf(tensor: Tensor, requires_grad: bool = True) -> Tensor:
        return tensor.to(device, dtype).requires_grad_(requires_grad)

    if term.sigma == "number":
        settings["log_sigma"] = -0.4
    elif term.sigma:
        settings["log_sigma"] = leaf(torch.randn(sigma_shape(term.sigma, shape), dtype=torch.float64) * 0.5)
    if weight is not None:
        settings["weight"] = (2.0 * torch.rand(weight, dtype=torch.float64)).to(device, dtype)
    latents = torch.randn(2, shape[0], LATENTS, dtype=torch.float64)
    return Operands(leaf(recon), leaf(target, target_grad), leaf(latents[0]), leaf(latents[1]), settings)


def elements(
    recon: Tensor,
    target: Tensor,
    recon_loss: str,
    log_sigma: float | Tensor | None = None,
    weight: Tensor | None = None,
    full: bool = False,
    smooth_l1_beta: float = 1.0,
) -> Tensor:
    if recon_loss == "mse":
        values = F.mse_loss(recon, target, reduction="none")
    elif recon_loss == "l1":
        values = F.l1_loss(recon, target, reduction="none")
    elif recon_loss == "smooth_l1":
        values = F.smooth_l1_loss(recon, target, reduction="none", beta=smooth_l1_beta)
    elif recon_loss == "bce_with_logits":
        values = F.binary_cross_entropy_with_logits(recon, target, reduction="none")
    elif recon_loss == "bce":
        values = F.binary_cross_entropy(recon, target, reduction="none")
    else:
        scale = torch.as_tensor(log_sigma, dtype=recon.dtype, device=recon.device).exp().expand(recon.shape)
        if recon_loss == "gaussian_nll":
            values = F.gaussian_nll_loss(recon, target, scale.square(), full=full, eps=1e-300, reduction="none")
        else:
            constant = 0.0 if full else math.log(2)
            values = -torch.distributions.Laplace(recon, scale).log_prob(target) - constant
    return values if weight is None else values * weight


def eager_terms(
    operands: Operands, beta: float | Tensor = 1.0, reduction: str = "batchmean", recon_weight: float = 1.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, reconstruction and KL."""
    settings = dict(operands.settings)
    values = elements(operands.recon, operands.target, **settings)
    reconstruction = recon_weight * reduce(values, reduction)
    kl = kl_divergence(operands.mu, operands.logvar, reduction=reduction)
    return reconstruction + beta * kl, reconstruction, kl
