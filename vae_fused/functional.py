"""The functional API: one call, one fused kernel.

Dimension 0 is the batch and every other dimension is an event dimension, whatever the rank. A call goes to the
compiled operator ``torch.ops.vae_fused.<name>`` when its device has kernels; inside a transform of ``torch.func`` by
way of :mod:`vae_fused._functorch`. Else it goes to the function of the same name in :mod:`vae_fused.reference`, which
is right on every device, only slower.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vae_fused import _arguments as arguments
from vae_fused._library import calls_operators, ops
from vae_fused._otherwise import otherwise
from vae_fused.objective import elbo_loss

__all__ = ["elbo_loss", "kl_divergence", "reparameterize", "reparameterize_with_kl", "standard_normal"]


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
        key: uint64, ``(seed, offset)`` of shape ``(2,)``; or one key per item, ``(size[0], 2)``.
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
) -> Tensor:
    r"""Sample the posterior, :math:`z = \mu + e^{\lambda/2}\,\varepsilon` with :math:`\lambda = \log\sigma^2`.

    Args:
        mu: posterior mean, ``[B, ...]``; float16, bfloat16, float32 or float64, any strides.
        logvar: log-variance, same shape, dtype and device.
        num_samples: draw K samples per item; the result has shape ``[K, B, ...]``.
        generator: where the noise comes from; by default the device's default generator.
        key: the noise as a function of a uint64 key ``(seed, offset)``, shape ``(2,)``, or ``(B, 2)`` for one key per
            item: item i's noise then depends on key i alone, not on the batch. Not together with ``generator``.

    Returns:
        z in the dtype of ``mu``, shape ``[B, ...]`` or ``[K, B, ...]``; the arithmetic is in float32 or wider, rounded
        once. Differentiable in ``mu`` and ``logvar``; the noise is generated again in the backward, never stored.

    Raises:
        TypeError: an argument of a wrong type or dtype.
        ValueError: shapes or devices that differ, ``num_samples < 1``, or both ``generator`` and ``key``.

    Example:
        >>> z = reparameterize(torch.zeros(8, 2), torch.zeros(8, 2), num_samples=3)
        >>> z.shape
        torch.Size([3, 8, 2])

    Source: Kingma and Welling 2013 (arXiv:1312.6114), section 2.4.
    """
    arguments.check_tensor("mu", mu)
    arguments.check_tensor("logvar", logvar)
    if not calls_operators(mu):
        return otherwise(mu).reparameterize(mu, logvar, num_samples=num_samples, generator=generator, key=key)
    arguments.check_num_samples(num_samples)
    arguments.check_noise_source(generator, key, mu.device)
    if key is not None:
        arguments.check_tensor("key", key)
        return ops.reparameterize.default(mu, logvar, key, num_samples=num_samples)
    return ops.reparameterize.generator(mu, logvar, generator=generator, num_samples=num_samples)[0]


def reparameterize_with_kl(
    mu: Tensor, logvar: Tensor, *, generator: torch.Generator | None = None, key: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    r"""Sample the posterior and score it against the unit prior in one pass over ``mu`` and ``logvar``.

    Equal to ``reparameterize(mu, logvar)`` and ``kl_divergence(mu, logvar, reduction="sample")`` with the same noise,
    at the memory traffic of the first; both gradient paths meet in one backward kernel.

    Args:
        mu: posterior mean, ``[B, ...]``; float16, bfloat16, float32 or float64, any strides.
        logvar: log-variance, same shape, dtype and device.
        generator: as for :func:`reparameterize`.
        key: as for :func:`reparameterize`.

    Returns:
        ``(z, kl)``: z as ``mu``; kl in nats, ``[B]``, float32 (float64 for float64), for ``elbo_loss(..., kl=kl)``.

    Raises:
        TypeError: an argument of a wrong type or dtype.
        ValueError: shapes or devices that differ, or both ``generator`` and ``key``.

    Example:
        >>> z, kl = reparameterize_with_kl(torch.zeros(8, 2), torch.zeros(8, 2))
        >>> kl.sum()
        tensor(0.)

    Source: Kingma and Welling 2013 (arXiv:1312.6114), section 2.4 and appendix B.
    """
    arguments.check_tensor("mu", mu)
    arguments.check_tensor("logvar", logvar)
    if not calls_operators(mu):
        return otherwise(mu).reparameterize_with_kl(mu, logvar, generator=generator, key=key)
    arguments.check_noise_source(generator, key, mu.device)
    if key is not None:
        arguments.check_tensor("key", key)
        return ops.reparameterize_with_kl.default(mu, logvar, key)
    return ops.reparameterize_with_kl.generator(mu, logvar, generator=generator)[:2]


def kl_divergence(
    mu: Tensor,
    logvar: Tensor,
    prior_mu: Tensor | None = None,
    prior_logvar: Tensor | None = None,
    *,
    reduction: str = "batchmean",
) -> Tensor:
    r"""KL divergence of a diagonal Gaussian posterior from a diagonal Gaussian prior, in nats.

    Per element, with :math:`\delta = \lambda_1 - \lambda_2`:
    :math:`\tfrac12\left(e^{\delta} - 1 - \delta + (\mu_1 - \mu_2)^2 e^{-\lambda_2}\right)`, evaluated without
    cancellation: never negative, and right to rounding near zero.

    Args:
        mu: posterior mean, ``[B, ...]``; float16, bfloat16, float32 or float64, any strides.
        logvar: posterior log-variance, same shape, dtype and device.
        prior_mu: prior mean, broadcastable to ``mu``; 0 by default.
        prior_logvar: prior log-variance, broadcastable to ``mu``; 0 by default.
        reduction: ``"batchmean"`` (sum over events, mean over the batch), ``"sum"``, ``"sample"`` (``[B]``),
            ``"mean"`` (over the elements) or ``"none"`` (elementwise, the shape of ``mu``).

    Returns:
        The divergence, float32 (float64 for float64), differentiable in all four parameters.

    Raises:
        TypeError: an argument of a wrong type or dtype.
        ValueError: shapes or devices that do not fit, or an unknown reduction.

    Example:
        >>> kl_divergence(torch.full((1, 1), 2.0), torch.zeros(1, 1))
        tensor(2.)

    Source: Kingma and Welling 2013 (arXiv:1312.6114), appendix B.
    """
    arguments.check_tensor("mu", mu)
    arguments.check_tensor("logvar", logvar)
    if not calls_operators(mu):
        return otherwise(mu).kl_divergence(mu, logvar, prior_mu, prior_logvar, reduction=reduction)
    for name, prior in (("prior_mu", prior_mu), ("prior_logvar", prior_logvar)):
        arguments.check_prior(name, prior, mu)  # before autograd expands it
    arguments.check_choice("reduction", reduction, (*arguments.REDUCTIONS, "none"))
    return ops.kl_divergence.default(mu, logvar, prior_mu, prior_logvar, reduction)
