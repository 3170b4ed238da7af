"""Sampling: the reparameterized posterior, alone or with its KL, and the noise itself."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vae_fused import _arguments as arguments
from vae_fused import _checks as checks
from vae_fused._arguments_posterior import check_mask, check_temperature
from vae_fused._library import calls_operators, ops
from vae_fused._otherwise import otherwise
from vae_fused._scale_form import operator_arguments

__all__ = ["reparameterize", "reparameterize_with_kl", "standard_normal"]


def standard_normal(
    key: Tensor,
    size: Sequence[int],
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> Tensor:
    """The noise of a key: standard normals that depend on the key and the index of the element alone.

    The layout is the one of PyTorch's stateless generator (``torch.func._random``): element ``i`` in row-major order
    is lane ``i % 4`` of the Philox4x32-10 block with key ``seed`` and counter ``(offset + i // 4) mod 2**64``, turned
    into normals by Box-Muller; float64 has two lanes a block. The integer words are the same on every device; the
    normals agree within the error of log, sin and cos.

    Args:
        key: uint64, ``(seed, offset)`` of shape ``(2,)``; or one key per item, ``(size[0], 2)``. Keys of one seed whose
            offsets are closer than the blocks of a call share normals.
        size: shape of the result.
        dtype: float16, bfloat16, float32 or float64; half types are float32 normals, rounded once.
        device: device of the result; by default that of the key.

    Returns:
        Noise of shape ``size``.

    Raises:
        TypeError: the key is not uint64, or ``dtype`` is not one of the four.
        ValueError: the key has another shape, or ``size`` is negative or does not begin with the number of keys.

    Example:
        >>> standard_normal(torch.tensor([42, 0], dtype=torch.uint64), (4,))
        tensor([-0.9702,  0.1940, -1.2356,  1.9239])

    Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011; Box and Muller 1958.
    """
    arguments.check_normal_request(key, size, dtype)
    if device is not None:
        key = key.to(device)
    if not calls_operators(key):
        return otherwise(key).standard_normal(key, size, dtype=dtype)
    return ops.standard_normal.default(key, size, dtype=dtype)


def reparameterize(
    mu: Tensor,
    logvar: Tensor,
    *,
    num_samples: int | None = None,
    generator: torch.Generator | None = None,
    key: Tensor | None = None,
    parameterization: str = "logvar",
    epsilon: float = 0,  # not 0.0: see target_scale of elbo_loss
    logvar_clamp: Sequence[float] | None = None,
    clamp: str = "hard",
    temperature: float = 1,
) -> Tensor:
    r"""Sample the posterior, :math:`z = \mu + t\,\sigma\,\varepsilon` with :math:`\sigma = e^{\lambda/2}`.

    Args:
        mu: posterior mean, ``[B, ...]``; float16, bfloat16, float32 or float64, any strides.
        logvar: log-variance :math:`\lambda = \log\sigma^2`, same shape, dtype and device; or what
            ``parameterization`` says.
        num_samples: draw K samples per item; the result has shape ``[K, B, ...]``.
        generator: where the noise comes from; by default the device's default generator.
        key: the noise as a function of a uint64 key ``(seed, offset)``, shape ``(2,)``, or ``(B, 2)`` for one key per
            item: item i's noise then depends on key i alone, not on the batch. Not together with ``generator``.
        parameterization: what ``logvar`` holds: the ``"logvar"``, the ``"log_std"``, the ``"std"``, the ``"var"``, or
            x with a standard deviation or variance of :math:`e^x` (``"exp_std"``, ``"exp_var"``, which with
            ``epsilon=0`` are the logarithms by another name) or :math:`\log(1+e^x)` (``"softplus_std"``,
            ``"softplus_var"``). A negative standard deviation or variance makes the KL NaN; nothing checks for it.
        epsilon: added to the standard deviation or the variance, whichever the parameterization is of; 0 or more.
        logvar_clamp: bounds ``(low, high)`` of the log-variance, before ``epsilon``; None leaves it as it is.
        clamp: how: ``"hard"``, as ``torch.clamp``, whose gradient is zero beyond the bounds; ``"soft"``,
            :math:`m + h\tanh((\lambda - m)/h)` with m the middle and h half the distance of the bounds;
            ``"straight_through"``, the value of ``"hard"`` with the gradient of no clamp.
        temperature: :math:`t`, a factor of the standard deviation in the sample alone, 0 or more.

    Returns:
        z in the dtype of ``mu``, shape ``[B, ...]`` or ``[K, B, ...]``; the arithmetic is in float32 or wider, rounded
        once. Differentiable in ``mu`` and ``logvar``; the noise is generated again in the backward, never stored.

    Raises:
        TypeError: an argument of a wrong type or dtype.
        ValueError: shapes or devices that differ, ``num_samples < 1``, both ``generator`` and ``key``, an unknown
            ``parameterization`` or ``clamp``, bounds that are no ordered pair, a negative ``epsilon`` or
            ``temperature``.

    Example:
        >>> z = reparameterize(torch.zeros(8, 2), torch.zeros(8, 2), num_samples=3)
        >>> z.shape
        torch.Size([3, 8, 2])

    Source: Kingma and Welling 2013 (arXiv:1312.6114), section 2.4; soft clamp: Vahdat and Kautz 2020
    (arXiv:2007.03898), whose code clamps with 5 tanh(x/5); straight-through: Bengio et al. 2013 (arXiv:1308.3432).
    """
    checks.check_tensor("mu", mu)
    checks.check_tensor("logvar", logvar)
    if not calls_operators(mu):
        return otherwise(mu).reparameterize(
            mu,
            logvar,
            num_samples=num_samples,
            generator=generator,
            key=key,
            parameterization=parameterization,
            epsilon=epsilon,
            logvar_clamp=logvar_clamp,
            clamp=clamp,
            temperature=temperature,
        )
    if num_samples is not None:
        checks.check_count("num_samples", num_samples, optional=True)
    arguments.check_noise_source(generator, key, mu.device)
    scale = operator_arguments(parameterization, epsilon, logvar_clamp, clamp, mu.dtype)
    if type(temperature) not in (int, float) or temperature != 1:
        check_temperature(temperature)
        scale["temperature"] = float(temperature)
    if key is not None:
        checks.check_tensor("key", key)
        return ops.reparameterize.default(mu, logvar, key, num_samples=num_samples, **scale)
    return ops.reparameterize.generator(mu, logvar, generator=generator, num_samples=num_samples, **scale)[0]


def reparameterize_with_kl(
    mu: Tensor,
    logvar: Tensor,
    *,
    generator: torch.Generator | None = None,
    key: Tensor | None = None,
    mask: Tensor | None = None,
    parameterization: str = "logvar",
    epsilon: float = 0,  # not 0.0: see target_scale of elbo_loss
    logvar_clamp: Sequence[float] | None = None,
    clamp: str = "hard",
) -> tuple[Tensor, Tensor]:
    r"""Sample the posterior and score it against the unit prior in one pass over ``mu`` and ``logvar``.

    Equal to ``reparameterize(mu, logvar)`` and ``kl_divergence(mu, logvar, reduction="sample")`` with the same noise,
    at the memory traffic of the first; both gradient paths meet in one backward kernel.

    Args:
        mu: posterior mean, ``[B, ...]``; float16, bfloat16, float32 or float64, any strides.
        logvar: log-variance, same shape, dtype and device; or what ``parameterization`` says.
        generator: as for :func:`reparameterize`.
        key: as for :func:`reparameterize`.
        mask: a factor of the KL of each element, broadcastable to ``mu``: bool or floating, without a gradient. The
            sample does not depend on it.
        parameterization: as for :func:`reparameterize`.
        epsilon: as for :func:`reparameterize`.
        logvar_clamp: as for :func:`reparameterize`.
        clamp: as for :func:`reparameterize`.

    Returns:
        ``(z, kl)``: z as ``mu``; kl in nats, ``[B]``, float32 (float64 for float64), for ``elbo_loss(..., kl=kl)``.

    Raises:
        TypeError: an argument of a wrong type or dtype.
        ValueError: as for :func:`reparameterize`; or a mask that does not fit or requires a gradient.

    Example:
        >>> z, kl = reparameterize_with_kl(torch.zeros(8, 2), torch.zeros(8, 2))
        >>> kl.sum()
        tensor(0.)

    Source: Kingma and Welling 2013 (arXiv:1312.6114), section 2.4 and appendix B.
    """
    checks.check_tensor("mu", mu)
    checks.check_tensor("logvar", logvar)
    if not calls_operators(mu):
        return otherwise(mu).reparameterize_with_kl(
            mu,
            logvar,
            generator=generator,
            key=key,
            mask=mask,
            parameterization=parameterization,
            epsilon=epsilon,
            logvar_clamp=logvar_clamp,
            clamp=clamp,
        )
    arguments.check_noise_source(generator, key, mu.device)
    scale = operator_arguments(parameterization, epsilon, logvar_clamp, clamp, mu.dtype)
    if mask is not None:
        check_mask(mask, mu)
        scale["mask"] = mask
    if key is not None:
        checks.check_tensor("key", key)
        return ops.reparameterize_with_kl.default(mu, logvar, key, **scale)
    return ops.reparameterize_with_kl.generator(mu, logvar, generator=generator, **scale)[:2]
