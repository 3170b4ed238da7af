"""diffusers' autoencoders with the fused posterior, without a change of their code.

    import vae_fused as vf

    with vf.integrations.diffusers.patch():
        posterior = autoencoder.encode(images).latent_dist  # a DiagonalGaussianDistribution, fused
    vf.integrations.diffusers.patch()  # for good

diffusers' encoders end in ``DiagonalGaussianDistribution(moments)``. The class here takes its place: the same calls
and attributes, with the kernels of :class:`vae_fused.DiagonalGaussian` behind them and its KL, which is right for
latents of any rank. What differs is listed in docs/diagonal-gaussian.md.
"""

from __future__ import annotations

import sys
from types import ModuleType, TracebackType
from typing import Any

from torch import Tensor

from vae_fused.distributions import DiagonalGaussian
from vae_fused.integrations._libraries import DIFFUSERS, require

__all__ = ["DiagonalGaussianDistribution", "Patch", "is_patched", "patch", "unpatch"]

_diffusers = require("diffusers", DIFFUSERS)
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution as _Original  # noqa: E402

_uses = 0  # calls of patch() that have not been taken back


class DiagonalGaussianDistribution(DiagonalGaussian, _Original):
    """:class:`vae_fused.DiagonalGaussian` with the constructor of diffusers' class, and an instance of that class too.

    Args:
        parameters: the moments, ``[B, 2C, ...]``, mean and log-variance as the halves of dimension 1; float16,
            bfloat16, float32 or float64. The log-variance is clamped to [-30, 20].
        deterministic: the point mass at the mean.

    Raises:
        TypeError: an argument of a wrong type or dtype.
        ValueError: fewer than two dimensions, or an odd number of channels.

    Example:
        >>> DiagonalGaussianDistribution(torch.zeros(1, 8, 4, 4)).kl()
        tensor([0.])
    """

    def __init__(self, parameters: Tensor, deterministic: bool = False) -> None:
        super().__init__(parameters, dim=1, deterministic=deterministic)

    def kl(self, other: Any = None) -> Tensor:
        """As :meth:`vae_fused.DiagonalGaussian.kl`; ``other`` may be an instance of diffusers' own class."""
        if isinstance(other, _Original) and not isinstance(other, DiagonalGaussian):
            other = DiagonalGaussianDistribution(other.parameters, other.deterministic)
        return super().kl(other)


class Patch:
    """What :func:`patch` returns: leaving its ``with`` block takes the patch back."""

    def __enter__(self) -> Patch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        global _uses
        if _uses > 0:
            _uses -= 1
            if _uses == 0:
                _replace(DiagonalGaussianDistribution, _Original)


def patch() -> Patch:
    """Let diffusers' autoencoders make the fused posterior: for good, or for a ``with`` block.

    The name ``DiagonalGaussianDistribution`` is replaced in the module that defines it and in every module of diffusers
    that has imported it, for the whole process; modules of diffusers that are imported later get the fused class from
    there. Posteriors that exist already stay what they are, and so do the weights and the code of every model.

    Returns:
        A context manager that takes this call back at the end of its block. Blocks nest.

    Example:
        >>> with patch():  # doctest: +SKIP
        ...     z = autoencoder.encode(images).latent_dist.sample()
    """
    global _uses
    _uses += 1
    _replace(_Original, DiagonalGaussianDistribution)
    return Patch()


def unpatch() -> None:
    """Give diffusers its own class back, however often :func:`patch` was called; without effect if it was not."""
    global _uses
    _uses = 0
    _replace(DiagonalGaussianDistribution, _Original)


def is_patched() -> bool:
    """Whether diffusers' autoencoders make the fused posterior now."""
    return _uses > 0


def _replace(old: type, new: type) -> None:
    # Modules hold the class under its own name, or under another one after "import ... as".
    for module in _modules():
        for name, value in list(vars(module).items()):
            if value is old:
                setattr(module, name, new)


def _modules() -> list[ModuleType]:
    # A copy: another thread may import something meanwhile. Entries may be None, or objects that are no modules.
    found = [module for name, module in sys.modules.copy().items() if name.split(".")[0] == _diffusers.__name__]
    return [module for module in found if isinstance(module, ModuleType)]
