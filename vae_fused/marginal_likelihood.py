"""Estimates of log p(x) by importance sampling, exact in their number of samples and independent of their chunks."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from vae_fused import _arguments as arguments
from vae_fused import _checks as checks
from vae_fused import functional
from vae_fused._philox import draw_key
from vae_fused.bounds import log_density_ratios, log_likelihoods
from vae_fused.distributions import DiagonalGaussian
from vae_fused.likelihoods import SQUARED_ERROR, Likelihood

__all__ = ["Autoencoder", "log_likelihood"]

# Data elements that one call of the decoder stands for, where chunk= does not say.
_CHUNK_ELEMENTS = 2**22
# Counters of the noise that each item has for itself: 2**34 float32 normals.
_LOG2_COUNTERS_OF_ITEM = 32


class Autoencoder(Protocol):
    """What is asked of a model: a diagonal Gaussian posterior in the latents, and a decoder."""

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor] | DiagonalGaussian:
        """Mean and log-variance, ``[B, ...]`` each, of data ``[B, ...]``, or a :class:`DiagonalGaussian` of them."""

    def decode(self, z: Tensor) -> Tensor:
        """What the likelihood takes, ``[N, ...]``, of latents ``[N, ...]``."""


class PosteriorSamples(NamedTuple):
    """Some of the samples of each item, with what they weigh: C samples of B items.

    Attributes:
        z: the latents, ``[C, B, ...]``.
        log_likelihood: log p(x | z), float64 ``[C, B]``.
        log_ratio: log p(z) - log q(z | x), float64 ``[C, B]``.
    """

    z: Tensor
    log_likelihood: Tensor
    log_ratio: Tensor


@contextmanager
def evaluation_mode(model: Autoencoder) -> Iterator[None]:
    """Without gradients, and with every submodule in eval mode until the end."""
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    training = [module.training for module in modules]
    try:
        for module in modules:
            module.training = False
        with torch.no_grad():
            yield
    finally:
        for module, mode in zip(modules, training, strict=True):
            module.training = mode


def item_keys(key: Tensor, first: int, count: int) -> Tensor:
    """Keys of the items ``first`` to ``first + count`` of a data set, ``[count, 2]``: a range of counters each."""
    seed, offset = key.view(torch.int64).unbind()
    items = torch.arange(first, first + count, dtype=torch.int64, device=key.device)
    offsets = offset + (items << _LOG2_COUNTERS_OF_ITEM)
    return torch.stack([seed.expand(count), offsets], dim=1).view(torch.uint64)


def posterior_samples(
    model: Autoencoder,
    likelihood: Likelihood,
    x: Tensor,
    mu: Tensor,
    logvar: Tensor,
    keys: Tensor,
    num_samples: int,
    chunk: int | None,
) -> Iterator[PosteriorSamples]:
    """The samples of a batch, ``chunk`` of each item at a time; sample k of item i is a function of key i and k."""
    batch = x.shape[0]
    if chunk is None:
        chunk = max(1, _CHUNK_ELEMENTS // max(1, x.numel()))
    lanes = 2 if mu.dtype == torch.float64 else 4
    counters = -(-math.prod(mu.shape[1:]) // lanes)
    seeds, offsets = keys.view(torch.int64).unbind(1)
    for first in range(0, num_samples, chunk):
        samples = torch.arange(first, min(first + chunk, num_samples), dtype=torch.int64, device=keys.device)
        count = len(samples)
        # A key for each sample: where its noise begins must not depend on which samples it is drawn together with.
        of_samples = torch.stack([seeds.expand(count, batch), offsets + counters * samples.unsqueeze(1)], dim=-1)
        rows_keys = of_samples.flatten(0, 1).view(torch.uint64)
        rows_mu, rows_logvar = (t.expand(count, *t.shape).flatten(0, 1) for t in (mu, logvar))
        rows_z = functional.reparameterize(rows_mu, rows_logvar, key=rows_keys)
        noise_dtype = arguments.accumulation_dtype(mu.dtype)
        noise = functional.standard_normal(rows_keys, rows_z.shape, dtype=noise_dtype).unflatten(0, (count, batch))
        z = rows_z.unflatten(0, (count, batch))
        yield PosteriorSamples(
            z, log_likelihoods(model.decode, likelihood, x, z).double(), log_density_ratios(z, noise, logvar)
        )


def check_model(model: object) -> None:
    """Raise ``TypeError`` unless the model has what :class:`Autoencoder` asks for."""
    if isinstance(model, type):
        raise TypeError(f"model must be an instance, got the class {model.__name__}")
    for name in ("encode", "decode"):
        if not callable(getattr(model, name, None)):
            raise TypeError(f"model must have a method {name}, got {type(model).__name__}")


def posterior_of(model: Autoencoder, x: Tensor) -> tuple[Tensor, Tensor]:
    """What the model's encoder gives for a batch; raise unless it is a mean and a log-variance of that batch."""
    posterior: object = model.encode(x)
    if isinstance(posterior, DiagonalGaussian):
        if posterior.deterministic:
            raise ValueError("model.encode must give a posterior with a density, got a deterministic DiagonalGaussian")
        posterior = posterior.mean, posterior.logvar
    if not isinstance(posterior, (tuple, list)) or len(posterior) != 2:
        got = checks.type_name(posterior) + (f" of {len(posterior)}" if isinstance(posterior, (tuple, list)) else "")
        raise TypeError(f"model.encode must give (mu, logvar) or a DiagonalGaussian, got {got}")
    mu, logvar = posterior
    arguments.check_latent_pair(mu, logvar)
    if mu.shape[0] != x.shape[0]:
        raise ValueError(f"mu must have the batch size of x, {x.shape[0]}, got {mu.shape[0]}")
    return mu, logvar


def log_likelihood(
    model: Autoencoder,
    x: Tensor,
    num_samples: int,
    *,
    chunk: int | None = None,
    likelihood: Likelihood = SQUARED_ERROR,
    key: Tensor | None = None,
) -> Tensor:
    r"""Estimate log p(x) of each item by importance sampling from the posterior, without gradients.

    :math:`\log \frac1K \sum_k p(x \mid z_k) p(z_k) / q(z_k \mid x)`: a lower bound in expectation, which rises to
    log p(x) with K. Sample k of item i is a function of the item's key and of k, so every result belongs to exactly K
    samples and does not depend on ``chunk`` or on the other items; what remains is the rounding of a decoder whose
    arithmetic depends on the size of its batch. Sums are in float64. The model is in eval mode meanwhile.

    Args:
        model: has ``encode(x) -> (mu, logvar)`` and ``decode(z)``, as :class:`vae_fused.VAE` has.
        x: the data, ``[B, ...]``, floating.
        num_samples: K.
        chunk: samples of each item that are decoded at once; by default as many as make 2**22 elements of data. It
            bounds the memory; 8 bytes for each of the K * B weights come on top.
        likelihood: log p(x | z), as for :func:`vae_fused.log_weights`.
        key: uint64, ``(seed, offset)``, shape ``(2,)``: item i has the key ``(seed, offset + i * 2**32)``; or one key
            per item, ``(B, 2)``. By default a fresh one from the device's default generator.

    Returns:
        Nats, float64 ``[B]``.

    Raises:
        TypeError: an argument of a wrong type or dtype, or a model whose ``encode`` gives no pair of tensors.
        ValueError: ``num_samples`` or ``chunk`` below 1, a key of another shape or device, or a posterior of another
            batch size.

    Example:
        >>> model = mlp_vae(6, latent_dim=2, hidden_dims=(8,))
        >>> log_likelihood(model, torch.rand(4, 6), num_samples=100).shape
        torch.Size([4])

    Source: Burda et al. 2015 (arXiv:1509.00519), section 5, which takes K = 5000.
    """
    check_model(model)
    checks.check_batched("x", x)
    checks.check_count("num_samples", num_samples)
    checks.check_count("chunk", chunk, optional=True)
    checks.check_callable("likelihood", likelihood)
    if key is not None:
        arguments.check_key_for(key, x.shape[0], x.device)
    if key is None:
        key = draw_key(x.device, None)
    keys = item_keys(key, 0, x.shape[0]) if key.dim() == 1 else key
    with evaluation_mode(model):
        mu, logvar = posterior_of(model, x)
        weights = [
            samples.log_likelihood + samples.log_ratio
            for samples in posterior_samples(model, likelihood, x, mu, logvar, keys, num_samples, chunk)
        ]
        # All at once, so that the sum is the same for every chunk.
        return torch.logsumexp(torch.cat(weights), 0) - math.log(num_samples)
