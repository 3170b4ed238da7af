"""The reconstruction terms, element by element, in plain PyTorch: differentiable, and inside any transform."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from vae_fused._arguments import accumulation_dtype

_CONSTANTS = {"gaussian_nll": 0.5 * math.log(2 * math.pi), "laplace_nll": math.log(2)}
# Of torch's binary_cross_entropy: the least logarithm, and the least that its gradient divides by.
_LEAST_LOGARITHM, _LEAST_VARIANCE = -100.0, 1e-12


def term_dtype(recon: Tensor, target: Tensor, weight: Tensor | None, log_sigma: float | Tensor | None) -> torch.dtype:
    """The dtype of the arithmetic: float64 if any operand is float64, else float32."""
    operands = (recon, target, weight, log_sigma)
    return accumulation_dtype(*(operand.dtype for operand in operands if isinstance(operand, Tensor)))


def _binary_cross_entropy(recon: Tensor, target: Tensor) -> Tensor:
    # torch's own refuses NaN, and what the logarithm's floor does to derivatives is not what torch's formula says:
    # where the gradient's divisor has its floor, a parabola has that gradient and the value is a constant.
    variance = recon * (1 - recon)
    inside = (variance >= _LEAST_VARIANCE) | variance.isnan()
    probability = torch.where(inside, recon, 0.5)
    regular = -target * probability.log() - (1 - target) * torch.log1p(-probability)
    fixed, fixed_target = recon.detach(), target.detach()
    logs = (fixed.log().clamp(min=_LEAST_LOGARITHM), torch.log1p(-fixed).clamp(min=_LEAST_LOGARITHM))
    parabola = ((recon - fixed_target).square() - (fixed - fixed_target).square()) / (2 * _LEAST_VARIANCE)
    return torch.where(inside, regular, parabola - target * logs[0] - (1 - target) * logs[1])


def reconstruction_elements(
    recon: Tensor,
    target: Tensor,
    recon_loss: str,
    weight: Tensor | None = None,
    log_sigma: float | Tensor | None = None,
    full: bool = False,
    smooth_l1_beta: float = 1.0,
) -> Tensor:
    """The weighted elements of the reconstruction term, of the shape of ``recon``, in float32 or wider."""
    dtype = term_dtype(recon, target, weight, log_sigma)
    recon, target = recon.to(dtype), target.to(dtype)
    difference = recon - target
    if recon_loss == "mse":
        elements = difference.square()
    elif recon_loss == "l1":
        elements = difference.abs()
    elif recon_loss == "smooth_l1":
        elements = F.smooth_l1_loss(recon, target, reduction="none", beta=smooth_l1_beta)
    elif recon_loss == "bce_with_logits":
        # torch's own cancels where the logit is large and right.
        of_positive = recon * (1 - target) + F.softplus(-recon)
        elements = torch.where(recon > 0, of_positive, F.softplus(recon) - recon * target)
    elif recon_loss == "bce":
        elements = _binary_cross_entropy(recon, target)
    else:
        assert log_sigma is not None  # established by check_log_sigma
        log_sigma = log_sigma.to(dtype) if isinstance(log_sigma, Tensor) else recon.new_tensor(log_sigma)
        # No difference is no error, however small sigma is: 0 times an infinite 1 / sigma would be NaN.
        largest = math.floor(math.log(torch.finfo(dtype).max))
        lost = (difference == 0) & (-log_sigma > largest)
        score = difference * torch.exp(torch.where(lost, largest, -log_sigma))
        elements = (0.5 * score.square() if recon_loss == "gaussian_nll" else score.abs()) + log_sigma
        if full:
            elements = elements + _CONSTANTS[recon_loss]
    return elements if weight is None else elements * weight.to(dtype)


def squared_error_of_batch(recon: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
    """The weighted sum of the squared error, summed in float64, in the dtype of its elements."""
    elements = reconstruction_elements(recon, target, "mse", weight)
    return elements.sum(dtype=torch.float64).to(elements.dtype)
