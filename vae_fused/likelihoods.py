"""Log-likelihoods of data given a decoder's output: normalized, in nats, one number for each item."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from vae_fused import _arguments as arguments
from vae_fused import _checks as checks
from vae_fused import functional
from vae_fused._arguments import accumulation_dtype

__all__ = ["BernoulliLikelihood", "GaussianLikelihood", "LaplaceLikelihood", "Likelihood"]

# likelihood(recon, target): the decoder's output and the data, both [N, ...], to log p(x | z) in nats, [N].
Likelihood = Callable[[Tensor, Tensor], Tensor]


def _sums_of_items(recon: Tensor, target: Tensor, recon_loss: str) -> Tensor:
    """A reconstruction term of each item, ``[N]``, float32 (float64 if an operand is)."""
    arguments.check_reconstruction(recon, target)
    no_kl = recon.new_zeros(recon.shape[:1], dtype=accumulation_dtype(recon.dtype))
    return functional.elbo_loss(recon, target, kl=no_kl, recon_loss=recon_loss, reduction="sample")


def _check_positive(name: str, value: float) -> None:
    checks.check_number(name, value)
    if not 0.0 < value < math.inf:
        raise ValueError(f"{name} must be positive and finite, got {value}")


@dataclass(frozen=True)
class GaussianLikelihood:
    r"""A Gaussian around the decoder's output, of one fixed standard deviation.

    :math:`-\sum (x - \hat x)^2 / (2\sigma^2) - D \log\sigma - \tfrac D2 \log 2\pi`, from the fused squared error.

    Args:
        sigma: the standard deviation. The default :math:`\sqrt{1/2}` makes the squared error, as ``recon_loss="mse"``
            sums it, the negative log-likelihood up to the constant :math:`\tfrac D2 \log\pi`: it scores a model that
            was trained with this package's default loss by the model that it was trained as.

    Raises:
        TypeError: ``sigma`` is not a number.
        ValueError: ``sigma`` is not positive and finite.

    Example:
        >>> GaussianLikelihood(sigma=1.0)(torch.zeros(2, 3), torch.zeros(2, 3))
        tensor([-2.7568, -2.7568])
    """

    sigma: float = math.sqrt(0.5)

    def __post_init__(self) -> None:
        _check_positive("sigma", self.sigma)

    def __call__(self, recon: Tensor, target: Tensor) -> Tensor:
        """Log p(x | z), ``[N]``, float32 (float64 if an operand is), differentiable in both.

        Raises:
            TypeError: an operand that is not floating.
            ValueError: shapes or devices that differ.
        """
        squared_error = _sums_of_items(recon, target, "mse")
        constant = math.prod(recon.shape[1:]) * (math.log(self.sigma) + 0.5 * math.log(2.0 * math.pi))
        return squared_error * (-0.5 / self.sigma**2) - constant


SQUARED_ERROR = GaussianLikelihood()


@dataclass(frozen=True)
class LaplaceLikelihood:
    r"""A Laplace distribution around the decoder's output, of one fixed scale.

    :math:`-\sum |x - \hat x| / b - D \log 2b`, from the fused absolute error.

    Args:
        scale: :math:`b`, the mean absolute deviation. The default 1 makes the absolute error, as ``recon_loss="l1"``
            sums it, the negative log-likelihood up to the constant :math:`D \log 2`.

    Raises:
        TypeError: ``scale`` is not a number.
        ValueError: ``scale`` is not positive and finite.

    Example:
        >>> LaplaceLikelihood(scale=0.5)(torch.zeros(2, 3), torch.ones(2, 3))
        tensor([-6., -6.])
    """

    scale: float = 1.0

    def __post_init__(self) -> None:
        _check_positive("scale", self.scale)

    def __call__(self, recon: Tensor, target: Tensor) -> Tensor:
        """Log p(x | z), ``[N]``, float32 (float64 if an operand is), differentiable in both.

        Raises:
            TypeError: an operand that is not floating.
            ValueError: shapes or devices that differ.
        """
        absolute_error = _sums_of_items(recon, target, "l1")
        return absolute_error * (-1.0 / self.scale) - math.prod(recon.shape[1:]) * math.log(2.0 * self.scale)


@dataclass(frozen=True)
class BernoulliLikelihood:
    r"""Independent Bernoulli pixels, :math:`\sum x \log p + (1 - x) \log(1 - p)`.

    Args:
        logits: the decoder gives logits (default), or, with False, probabilities; their logarithms are then bounded
            below by -100, as in ``torch.nn.functional.binary_cross_entropy``.

    Raises:
        TypeError: ``logits`` is not a bool.

    Example:
        >>> BernoulliLikelihood()(torch.zeros(1, 3), torch.tensor([[0.0, 1.0, 1.0]]))
        tensor([-2.0794])
    """

    logits: bool = True

    def __post_init__(self) -> None:
        checks.check_bool("logits", self.logits)

    def __call__(self, recon: Tensor, target: Tensor) -> Tensor:
        """Log p(x | z), ``[N]``, float32 (float64 if an operand is), differentiable in both.

        Raises:
            TypeError: an operand that is not floating.
            ValueError: shapes or devices that differ.
        """
        return -_sums_of_items(recon, target, "bce_with_logits" if self.logits else "bce")
