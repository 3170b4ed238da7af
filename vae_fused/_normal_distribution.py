"""A normal distribution of ``torch.distributions`` with fused sampling and KL."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import register_kl
from torch.types import _size

from vae_fused import _checks as checks
from vae_fused import functional
from vae_fused._arguments import accumulation_dtype
from vae_fused._transforms import inside_transform

__all__ = ["Normal"]


class Normal(torch.distributions.Normal):
    r"""``torch.distributions.Normal`` whose samples and whose KL come from the kernels.

    A drop-in: the same parameters, attributes, ``log_prob``, ``cdf`` and ``entropy``. Samples take a generator or a
    key, the noise is generated again in the backward instead of stored, and :func:`torch.distributions.kl_divergence`
    finds the fused Gaussian KL wherever this class meets a normal distribution, inside ``Independent`` too. That KL
    does not cancel near zero, and it is float32 for half-precision parameters, whose own range it would leave.

    Args:
        loc: the mean, a float or a tensor of float16, bfloat16, float32 or float64.
        scale: the standard deviation, positive; broadcasts against ``loc``.
        validate_args: as for every distribution of PyTorch.

    Raises:
        ValueError: parameters that cannot be broadcast, or, with validation, a scale that is not positive or a NaN.

    Example:
        >>> posterior = Normal(torch.zeros(8, 2), torch.ones(8, 2))
        >>> posterior.rsample((3,)).shape
        torch.Size([3, 8, 2])
        >>> torch.distributions.kl_divergence(posterior, Normal(0.0, 1.0)).sum()
        tensor(0.)

    Source: Kingma and Welling 2013 (arXiv:1312.6114), section 2.4 and appendix B.
    """

    def rsample(
        self,
        sample_shape: _size = torch.Size(),  # noqa: B008  the signature of torch.distributions
        generator: torch.Generator | None = None,
        key: Tensor | None = None,
    ) -> Tensor:
        """Reparameterized samples, loc + scale * noise, differentiable in ``loc`` and ``scale``.

        Args:
            sample_shape: the shape of independent draws, in front of the shape of the parameters.
            generator: where the noise comes from; by default the device's default generator.
            key: the noise as a function of a uint64 key ``(seed, offset)``, shape ``(2,)``; or one key for each item of
                dimension 0 of the parameters, ``(B, 2)``. Not together with ``generator``.

        Returns:
            ``[*sample_shape, *batch_shape]`` in the dtype of the parameters.

        Raises:
            TypeError: parameters of another dtype than the four or of two dtypes, a generator that is none, or a key
                that is not uint64.
            ValueError: both ``generator`` and ``key``, or one that does not fit the parameters.
        """
        checks.check_floating("loc", self.loc)
        if self.scale.dtype != self.loc.dtype:
            raise TypeError(f"scale must have the dtype of loc, {self.loc.dtype}, got {self.scale.dtype}")
        shape = self._extended_shape(sample_shape)
        draws = math.prod(shape[: len(shape) - self.loc.dim()])
        if draws == 0:
            return self.loc.new_empty(shape)
        # The kernels want a batch dimension.
        loc, scale = (self.loc, self.scale) if self.loc.dim() else (self.loc.view(1), self.scale.view(1))
        return _sample(loc, scale, draws if sample_shape else None, generator, key).reshape(shape)

    @torch.no_grad()
    def sample(
        self,
        sample_shape: _size = torch.Size(),  # noqa: B008
        generator: torch.Generator | None = None,
        key: Tensor | None = None,
    ) -> Tensor:
        """As :meth:`rsample`, without a gradient."""
        return self.rsample(sample_shape, generator, key)


def _sample(
    loc: Tensor, scale: Tensor, num_samples: int | None, generator: torch.Generator | None, key: Tensor | None
) -> Tensor:
    """Draws of shape ``[*loc.shape]``, or ``[num_samples, *loc.shape]``, in the dtype of ``loc``."""
    return functional.reparameterize(
        loc, scale, num_samples=num_samples, generator=generator, key=key, parameterization="std"
    )


def _kl_elements(p: torch.distributions.Normal, q: torch.distributions.Normal) -> Tensor:
    """KL(p || q) of every element of the shape that both broadcast to, ``[*shape]``, float32 or float64."""
    shape = torch.broadcast_shapes(p.loc.shape, q.loc.shape)
    dtype = accumulation_dtype(p.loc.dtype, q.loc.dtype)
    # A distribution of two floats is on the CPU and meets one on any device, as for PyTorch's operators.
    device = p.loc.device if p.loc.dim() else q.loc.device
    mu, std = (value.expand(shape or (1,)) for value in _parameters(p, dtype, device))
    if not _is_standard(q):
        # In units of the prior, which is N(0, 1) there: its log-variance, which the kernels would take, does not have
        # the digits of its scale, and 1 / variance overflows long before a scale does.
        prior_mu, prior_std = _parameters(q, dtype, device)
        mu, std = (mu - prior_mu) / prior_std, std / prior_std
    return functional.kl_divergence(mu, std, reduction="none", parameterization="std").reshape(shape)


def _parameters(normal: torch.distributions.Normal, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation in ``dtype``; those of a single normal distribution on ``device``."""
    on = normal.loc.device if normal.loc.dim() else device
    return normal.loc.to(on, dtype), normal.scale.to(on, dtype)


def _is_standard(normal: torch.distributions.Normal) -> bool:
    """Whether this is N(0, 1), as far as that can be known without waiting for a device or breaking a trace."""
    loc, scale = normal.loc, normal.scale
    if torch.compiler.is_compiling() or inside_transform() or type(loc) is not Tensor or type(scale) is not Tensor:
        return False
    if loc.dim() or loc.device.type != "cpu" or loc.requires_grad or scale.requires_grad:
        return False
    return float(loc) == 0.0 and float(scale) == 1.0


register_kl(Normal, Normal)(_kl_elements)
register_kl(Normal, torch.distributions.Normal)(_kl_elements)
register_kl(torch.distributions.Normal, Normal)(_kl_elements)
