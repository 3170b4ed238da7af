"""Posteriors as objects: packed in one tensor, as encoders give them, and as ``torch.distributions`` has them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vae_fused import _arguments as arguments
from vae_fused import _checks as checks
from vae_fused._arguments import accumulation_dtype
from vae_fused._arguments_posterior import clamp_bounds
from vae_fused._generators import check_noise_sources, noise_of
from vae_fused._library import calls_operators, ops
from vae_fused._normal_distribution import Normal
from vae_fused._packed_moments import check_moments, check_sample, checked_dims
from vae_fused.functional import kl_divergence, reparameterize

__all__ = ["DiagonalGaussian", "Normal"]


class _KLOfSample(NamedTuple):
    """The divergence that a sample brought along, and which moments it is of, with their version if that is known."""

    kl: Tensor
    moments: Tensor
    version: int | None


class DiagonalGaussian:
    r"""A diagonal Gaussian over packed moments: an encoder output whose halves are the mean and the log-variance.

    The kernels read the halves where they are and write one gradient of the shape of ``moments``; nothing is split,
    copied or put together. It takes the calls of diffusers' ``DiagonalGaussianDistribution``, and its KL and
    likelihood are right for latents of any rank.

    Args:
        moments: ``[B, ..., 2C, ...]``, mean and log-variance as the halves of dimension ``dim``; float16, bfloat16,
            float32 or float64, any strides, at least two dimensions.
        dim: the dimension that holds both; negative counts from the back. Not the batch dimension 0.
        logvar_clamp: bounds of the log-variance. As with ``torch.clamp`` the gradient passes at a bound and is zero
            beyond it, and at NaN. None leaves the log-variance as it is.
        deterministic: the point mass at the mean: ``std`` and ``var`` are zero, :meth:`sample` gives the mean, and
            :meth:`kl` and :meth:`nll` are zero.

    Attributes:
        parameters: the moments as they were given (the name is diffusers').
        dim: ``dim``, counted from the front.
        deterministic: as given.

    Raises:
        TypeError: an argument of a wrong type or dtype.
        ValueError: fewer than two dimensions, a ``dim`` that is 0 or out of range, an odd size in it, bounds that are
            no pair or not in order.

    Example:
        >>> posterior = DiagonalGaussian(torch.zeros(2, 8, 4, 4))
        >>> posterior.sample().shape
        torch.Size([2, 4, 4, 4])
        >>> posterior.kl()
        tensor([0., 0.])

    Source: Kingma and Welling 2013 (arXiv:1312.6114), section 2.4 and appendix B.
    """

    def __init__(
        self,
        moments: Tensor,
        dim: int = 1,
        logvar_clamp: Sequence[float] | None = (-30.0, 20.0),
        deterministic: bool = False,
    ) -> None:
        checks.check_tensor("moments", moments)
        low, high = clamp_bounds(logvar_clamp)
        check_moments("moments", moments, dim, low, high)
        checks.check_bool("deterministic", deterministic)
        self.parameters = moments
        self.dim = dim % moments.dim()
        self.deterministic = deterministic
        self._low, self._high = low, high
        self._of_sample: _KLOfSample | None = None

    def __repr__(self) -> str:
        clamp = None if self._unclamped else (self._low, self._high)
        return (
            f"DiagonalGaussian(moments={list(self.parameters.shape)}, dim={self.dim}, logvar_clamp={clamp}, "
            f"deterministic={self.deterministic})"
        )

    @property
    def mean(self) -> Tensor:
        """The mean, ``[B, ..., C, ...]``: a view of the moments."""
        return self.parameters.narrow(self.dim, 0, self._size)

    @property
    def logvar(self) -> Tensor:
        """The log-variance, clamped, in the shape of the mean and the dtype of the moments."""
        return self._clamped(self.parameters.narrow(self.dim, self._size, self._size))

    @property
    def std(self) -> Tensor:
        """The standard deviation, in the shape of the mean and the dtype of the moments; zero if deterministic."""
        return torch.zeros_like(self.mean) if self.deterministic else torch.exp(0.5 * self.logvar)

    @property
    def var(self) -> Tensor:
        """The variance, in the shape of the mean and the dtype of the moments; zero if deterministic."""
        return torch.zeros_like(self.mean) if self.deterministic else torch.exp(self.logvar)

    def mode(self) -> Tensor:
        """The mean, ``[B, ..., C, ...]``: a view of the moments."""
        return self.mean

    def sample(
        self, generator: torch.Generator | Sequence[torch.Generator] | None = None, key: Tensor | None = None
    ) -> Tensor:
        """A reparameterized sample, differentiable in the moments; every call draws fresh noise.

        The same pass computes the divergence from the unit prior, which the next :meth:`kl` gives without another.
        Both are parts of one graph then: take their gradients in one backward, or keep the graph. Inside a compiled
        graph the moments must not change in place between the two.

        Args:
            generator: where the noise comes from: one generator, or a list with one for each item, whose noise then
                depends on its generator alone, not on the batch. On the device of the moments or on the CPU. By
                default the device's default generator.
            key: the noise as a function of a uint64 key ``(seed, offset)``, shape ``(2,)``, or ``(B, 2)`` for one key
                per item. Not together with ``generator``.

        Returns:
            z, ``[B, ..., C, ...]``, in the dtype of the moments.

        Raises:
            TypeError: a generator that is none, or a key that is not uint64.
            ValueError: both ``generator`` and ``key``, a list of another length than B, a generator or a key on the
                wrong device, a key of another shape.
        """
        moments = self.parameters
        generators = check_noise_sources(generator, key, moments.shape[0], moments.device)
        if self.deterministic:
            return self.mean.clone()
        single, key = (None, key) if generators is None else noise_of(generators, self.mean)
        if not calls_operators(moments):
            return reparameterize(self.mean, self.logvar, generator=single, key=key)
        packing = {"dim": self.dim, "logvar_min": self._low, "logvar_max": self._high}
        if key is not None:
            z, kl = ops.packed_reparameterize_with_kl.default(moments, key, **packing)
        else:
            z, kl, _ = ops.packed_reparameterize_with_kl.generator(moments, **packing, generator=single)
        self._keep(kl)
        return z

    def kl(self, other: DiagonalGaussian | None = None) -> Tensor:
        """KL divergence from the unit prior or from ``other``, in nats: one value per item, summed over all events.

        Args:
            other: the prior; its mean has the shape of this one or broadcasts to it, in the same dtype.

        Returns:
            ``[B]``, float32 (float64 for float64), differentiable in both moments. Zero if this one is deterministic,
            else infinite if ``other`` is.

        Raises:
            TypeError: ``other`` is no DiagonalGaussian, or of another dtype.
            ValueError: its shape or its device does not fit.
        """
        moments = self.parameters
        if other is not None:
            if not isinstance(other, DiagonalGaussian):
                raise TypeError(f"other must be a DiagonalGaussian, got {type(other).__name__}")
            arguments.check_prior("other", other.mean, self.mean, "the mean")
        if self.deterministic or (other is not None and other.deterministic):
            value = 0.0 if self.deterministic else math.inf
            return moments.new_full(moments.shape[:1], value, dtype=accumulation_dtype(moments.dtype))
        if other is None:
            kept = self._kept()
            if kept is not None:
                return kept
            if calls_operators(moments):
                return ops.packed_kl_divergence.default(moments, None, *self._packing, *self._packing)
            return kl_divergence(self.mean, self.logvar, reduction="sample")
        if calls_operators(moments) and other.mean.shape == self.mean.shape:
            return ops.packed_kl_divergence.default(moments, other.parameters, *self._packing, *other._packing)
        return kl_divergence(self.mean, self.logvar, other.mean, other.logvar, reduction="sample")

    def nll(self, sample: Tensor, dims: int | Sequence[int] | None = None) -> Tensor:
        r"""Negative log-likelihood of a sample, :math:`\tfrac12\sum(\log 2\pi + \lambda + (x-\mu)^2 e^{-\lambda})`.

        Args:
            sample: broadcastable against the mean.
            dims: the dimensions to sum over; by default those of an event, where diffusers has ``(1, 2, 3)`` whatever
                the rank.

        Returns:
            Nats, ``[B]`` with the default ``dims``, or ``[K, B]`` of K samples; float32 (float64 if an operand is),
            differentiable in the sample and in the moments. Zero if deterministic.

        Raises:
            TypeError: ``sample`` is no floating tensor, or ``dims`` are no integers.
            ValueError: a sample on another device or that cannot be broadcast, or a dimension that is not there.
        """
        check_sample(sample, self.mean)
        shape = torch.broadcast_shapes(sample.shape, self.mean.shape)
        events = range(len(shape) - self.mean.dim() + 1, len(shape))
        dims = tuple(events if dims is None else checked_dims(dims, len(shape)))
        dtype = accumulation_dtype(self.parameters.dtype, sample.dtype)
        if self.deterministic:
            elements = sample.new_zeros((), dtype=dtype).expand(shape)
        else:
            # One chunk, because its backward writes one packed gradient and two narrow views would add up two.
            mean, logvar = self.parameters.chunk(2, dim=self.dim)
            logvar = self._clamped(logvar).to(dtype)
            distance = (sample.to(dtype) - mean.to(dtype)).square() * torch.exp(-logvar)
            elements = 0.5 * (math.log(2.0 * math.pi) + logvar + distance)
        return elements.sum(dim=dims) if dims else elements

    # ---- the two halves --------------------------------------------------------------------------------------------

    @property
    def _size(self) -> int:
        return self.parameters.shape[self.dim] // 2

    @property
    def _packing(self) -> tuple[int, float, float]:
        return self.dim, self._low, self._high

    @property
    def _unclamped(self) -> bool:
        return self._low == -math.inf and self._high == math.inf

    def _clamped(self, logvar: Tensor) -> Tensor:
        if self._unclamped:
            return logvar
        # A bound that the dtype cannot hold is infinite, as in the kernels; torch.clamp refuses it.
        largest = torch.finfo(logvar.dtype).max
        low = self._low if self._low >= -largest else -math.inf
        high = self._high if self._high <= largest else math.inf
        return logvar.clamp(low, high)

    # ---- the divergence that a sample brought along ----------------------------------------------------------------

    def _keep(self, kl: Tensor) -> None:
        moments = self.parameters
        if torch.compiler.is_compiling():  # which cannot tell a version
            self._of_sample = _KLOfSample(kl, moments, None)
        elif not (kl.is_inference() or moments.is_inference()):  # no part in a backward, no version
            self._of_sample = _KLOfSample(kl, moments, moments._version)

    def _kept(self) -> Tensor | None:
        """The KL of the last sample, where it is still that of the moments and autograd would record the same.

        Given once: it belongs to the caller then, who may change it or hang hooks on it.
        """
        kept, self._of_sample = self._of_sample, None
        moments = self.parameters
        if kept is None or kept.moments is not moments:
            return None
        recording = torch.is_grad_enabled() and moments.requires_grad
        version = None if torch.compiler.is_compiling() else moments._version
        return kept.kl if kept.version == version and kept.kl.requires_grad == recording else None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_of_sample": None}
