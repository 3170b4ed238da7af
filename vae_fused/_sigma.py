"""Where log sigma comes from: given, softly bounded below, or the one that is best for the batch."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from vae_fused._arguments import accumulation_dtype
from vae_fused._arguments_reconstruction import OPTIMAL, LogSigma

# Below it training becomes unstable, and the source stays above it.
OPTIMAL_FLOOR = -6.0


def softly_above(value: float | Tensor, floor: float | None, recon: Tensor) -> float | Tensor:
    """``floor + softplus(value - floor)``: close to ``value`` well above the floor, and never below it."""
    if floor is None or floor == -math.inf:
        return value
    if isinstance(value, Tensor):
        # ln(e^value + e^floor), which is the same, does not lose a value far above the floor in the difference.
        value = value.to(accumulation_dtype(value.dtype, recon.dtype))
        return torch.logaddexp(value, value.new_full((), floor))
    value, floor = float(value), float(floor)  # constants of a compiled graph
    above = value - floor
    return floor + max(above, 0.0) + math.log1p(math.exp(-abs(above)))


def resolved_log_sigma(
    log_sigma: LogSigma, floor: float | None, squared_error: Callable[[], Tensor], recon: Tensor, weight: Tensor | None
) -> float | Tensor | None:
    r"""The log sigma that the likelihood is evaluated with.

    Args:
        log_sigma: as for :func:`vae_fused.elbo_loss`, checked.
        floor: as for :func:`vae_fused.elbo_loss`, checked.
        squared_error: gives the weighted sum of :math:`(x - \hat x)^2` over the batch, differentiable.
        recon: the reconstruction.
        weight: the weight of its elements.

    Source of the optimal one: Rybkin, Daniilidis and Levine 2021 (arXiv:2006.13202):
    :math:`\sigma^2` is the mean squared error of the batch.
    """
    if log_sigma is None or not isinstance(log_sigma, str):
        return None if log_sigma is None else softly_above(log_sigma, floor, recon)
    assert log_sigma == OPTIMAL  # established by check_log_sigma
    total = squared_error()
    count = recon.numel() if weight is None else weight.expand(recon.shape).sum(dtype=total.dtype)
    # The smallest normal number instead of 0, whose logarithm has no gradient.
    variance = (total / count).clamp_min(torch.finfo(total.dtype).tiny)
    return softly_above(0.5 * variance.log(), OPTIMAL_FLOOR if floor is None else floor, recon)
