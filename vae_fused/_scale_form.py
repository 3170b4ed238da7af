"""How the scale of a posterior is stored, in plain PyTorch: ``csrc/core/scale_form.h``, value for value.

The number that is stored goes through a map, which gives a standard deviation or a variance; its log-variance is
clamped; epsilon is added.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vae_fused._arguments_posterior import check_scale

_EXPONENTIAL = ("logvar", "log_std", "exp_std", "exp_var")
_OF_STD = ("log_std", "std", "exp_std", "softplus_std")


def operator_arguments(
    parameterization: str, epsilon: float, logvar_clamp: Sequence[float] | None, clamp: str, dtype: torch.dtype
) -> dict[str, Any]:
    """Checked arguments of a call as the operators take them: nothing where all are the defaults."""
    plain = type(parameterization) is type(clamp) is str and type(epsilon) in (int, float)
    if plain and parameterization == "logvar" and epsilon == 0 and logvar_clamp is None and clamp == "hard":
        return {}  # by far the most frequent call, and the one whose overhead counts
    check_scale(parameterization, epsilon, logvar_clamp, clamp, dtype)
    arguments = {"parameterization": parameterization, "epsilon": float(epsilon), "clamp": clamp}
    if logvar_clamp is None:
        return arguments
    return {**arguments, "logvar_min": float(logvar_clamp[0]), "logvar_max": float(logvar_clamp[1])}


class ScaleForm(NamedTuple):
    """The checked arguments of a call."""

    parameterization: str = "logvar"
    epsilon: float = 0.0
    logvar_clamp: tuple[float, float] | None = None
    clamp: str = "hard"

    @classmethod
    def of(
        cls, parameterization: str, epsilon: float, logvar_clamp: Sequence[float] | None, clamp: str, dtype: torch.dtype
    ) -> ScaleForm:
        """From arguments, after their check for a scale of this dtype."""
        check_scale(parameterization, epsilon, logvar_clamp, clamp, dtype)
        bounds = None if logvar_clamp is None else (float(logvar_clamp[0]), float(logvar_clamp[1]))
        return cls(parameterization, float(epsilon), bounds, clamp)

    @property
    def is_logvar(self) -> bool:
        """Whether the log-variance is stored as it is, and not clamped."""
        return self.parameterization == "logvar" and self.epsilon == 0.0 and self.logvar_clamp is None

    def _bounds(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """The bounds as the dtype of ``raw`` holds them, in float64."""
        assert self.logvar_clamp is not None
        low, high = (torch.full((), bound, dtype=torch.float64, device=raw.device) for bound in self.logvar_clamp)
        return low.to(raw.dtype).double(), high.to(raw.dtype).double()

    def _clamped_logvar(self, logvar: Tensor, raw: Tensor) -> Tensor:
        low, high = (bound.to(logvar.dtype) for bound in self._bounds(raw))
        if self.clamp == "soft":
            middle, half = 0.5 * (low + high), 0.5 * (high - low)
            return middle + half * torch.tanh((logvar - middle) / half)
        bounded = torch.clamp(logvar, low, high)
        return bounded if self.clamp == "hard" else logvar + (bounded - logvar).detach()

    def _clamped_value(self, value: Tensor, order: float, raw: Tensor) -> Tensor:
        low, high = (torch.exp(bound / order).to(value.dtype) for bound in self._bounds(raw))
        bounded = torch.clamp(value, low, high)
        # Straight-through, the clamp is a constant factor: the derivative of the logarithm is what it was.
        return bounded if self.clamp == "hard" else bounded.detach() * (value / value.detach())

    def _logvar_or_value(self, raw: Tensor, dtype: torch.dtype) -> tuple[Tensor, bool]:
        """The log-variance, and True; or the standard deviation or variance, where that is known first, and False."""
        wide = raw.to(dtype)
        order = 2.0 if self.parameterization in _OF_STD else 1.0
        value = wide
        if self.parameterization.startswith("softplus"):
            value = torch.nn.functional.softplus(wide, threshold=40.0)
        if self.parameterization in _EXPONENTIAL:
            logvar = order * wide
        elif self.clamp == "soft":
            logvar = order * torch.log(value)
        else:
            if self.logvar_clamp is not None:
                value = self._clamped_value(value, order, raw)
            return value + self.epsilon, False
        if self.logvar_clamp is not None:
            logvar = self._clamped_logvar(logvar, raw)
        return (logvar, True) if self.epsilon == 0.0 else (torch.exp(logvar / order) + self.epsilon, False)

    def std(self, raw: Tensor, dtype: torch.dtype) -> Tensor:
        """The standard deviation, in ``dtype``."""
        value, is_logvar = self._logvar_or_value(raw, dtype)
        if is_logvar:
            return torch.exp(0.5 * value)
        return value if self.parameterization in _OF_STD else torch.sqrt(value)

    def logvar(self, raw: Tensor, dtype: torch.dtype) -> Tensor:
        """The log-variance, in ``dtype``."""
        value, is_logvar = self._logvar_or_value(raw, dtype)
        if is_logvar:
            return value
        return 2.0 * torch.log(value) if self.parameterization in _OF_STD else torch.log(value)
