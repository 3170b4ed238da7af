"""The forms in which a posterior's scale is stored, as people write them in PyTorch: the truth when fed float64."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.nn.functional import softplus

from helpers import eager

CLAMP = (-1.5, 1.0)  # exact in every dtype
STANDARD_DEVIATIONS = {
    "log_std": torch.exp,
    "std": lambda x: x,
    "exp_std": torch.exp,
    "softplus_std": softplus,
}
VARIANCES = {
    "logvar": torch.exp,
    "var": lambda x: x,
    "exp_var": torch.exp,
    "softplus_var": softplus,
}
PARAMETERIZATIONS = (*STANDARD_DEVIATIONS, *VARIANCES)
CLAMPS = ("hard", "soft", "straight_through")


def clamped(logvar: Tensor, bounds: tuple[float, float], clamp: str) -> Tensor:
    low, high = bounds
    if clamp == "soft":
        middle, half = (low + high) / 2, (high - low) / 2
        return middle + half * torch.tanh((logvar - middle) / half)
    bounded = logvar.clamp(low, high)
    return bounded if clamp == "hard" else logvar + (bounded - logvar).detach()


class Form(NamedTuple):
    """The arguments that say how a scale is stored."""

    parameterization: str = "logvar"
    epsilon: float = 0.0
    logvar_clamp: tuple[float, float] | None = None
    clamp: str = "hard"

    def __str__(self) -> str:
        clamp = "" if self.logvar_clamp is None else f" {self.clamp}"
        return f"{self.parameterization}{clamp}{'' if self.epsilon == 0 else f' + {self.epsilon}'}"

    @property
    def arguments(self) -> dict[str, Any]:
        return self._asdict()

    @property
    def for_operator(self) -> dict[str, Any]:
        low, high = self.logvar_clamp or (None, None)
        return {
            "parameterization": self.parameterization,
            "epsilon": self.epsilon,
            "logvar_min": low,
            "logvar_max": high,
            "clamp": self.clamp,
        }

    @property
    def of_positive(self) -> bool:
        return self.parameterization in ("std", "var")

    def raw(self, shape: tuple[int, ...], dtype: torch.dtype = torch.float64, device: Any = "cpu") -> Tensor:
        """Numbers of this form, some of them well beyond the bounds of ``CLAMP``."""
        values = torch.randn(shape, dtype=torch.float64)
        return (values.exp() if self.of_positive else 1.2 * values).to(device, dtype)

    def std(self, raw: Tensor) -> Tensor:
        of_std = self.parameterization in STANDARD_DEVIATIONS
        value = (STANDARD_DEVIATIONS if of_std else VARIANCES)[self.parameterization](raw)
        order = 2 if of_std else 1
        if self.logvar_clamp is not None:
            value = torch.exp(clamped(order * torch.log(value), self.logvar_clamp, self.clamp) / order)
        value = value + self.epsilon
        return value if of_std else value.sqrt()

    def kl(
        self,
        mu: Tensor,
        raw: Tensor,
        prior_mu: Tensor | None = None,
        prior_logvar: Tensor | None = None,
        mask: Tensor | None = None,
        reduction: str = "none",
    ) -> Tensor:
        elements = eager.kl_elements(mu, 2 * torch.log(self.std(raw)), prior_mu, prior_logvar)
        return eager.reduce(elements if mask is None else elements * mask, reduction)

    def sample(self, mu: Tensor, raw: Tensor, noise: Tensor, temperature: float = 1.0) -> Tensor:
        return mu + temperature * self.std(raw) * noise


FORMS = [
    Form(parameterization, epsilon, bounds, clamp)
    for parameterization in PARAMETERIZATIONS
    for epsilon in (0.0, 0.01)
    for bounds, clamp in [(None, "hard"), *((CLAMP, clamp) for clamp in CLAMPS)]
]
on_forms = pytest.mark.parametrize("form", FORMS, ids=str)
# Of each map one, and each clamp once.
SOME_FORMS = [
    Form("logvar", 0.0, CLAMP),
    Form("log_std", 0.0, (-10.0, 10.0), "soft"),
    Form("std", 0.0, CLAMP, "straight_through"),
    Form("var", 1e-4),
    Form("softplus_std", 1e-4),
    Form("exp_var", 1e-4, CLAMP, "soft"),
]
on_some_forms = pytest.mark.parametrize("form", SOME_FORMS, ids=str)


def mask_of(shape: tuple[int, ...], kind: str, device: Any = "cpu") -> Tensor | None:
    """No mask, weights of every element, or a bool that is shared by dimension 1."""
    if kind == "none":
        return None
    if kind == "weights":
        return (1.5 * torch.rand(shape, dtype=torch.float64)).to(device, torch.float32)
    return (torch.rand((shape[0], 1, *shape[2:])) < 0.7).to(device)


on_masks = pytest.mark.parametrize("masked", ["none", "weights", "bool"])
