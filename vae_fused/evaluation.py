"""Evaluation of a model on held-out data: the same numbers whatever the batch size."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vae_fused import _checks as checks
from vae_fused import functional
from vae_fused._batches import batches_of
from vae_fused.likelihoods import SQUARED_ERROR, Likelihood
from vae_fused.marginal_likelihood import (
    Autoencoder,
    check_model,
    evaluation_mode,
    item_keys,
    posterior_of,
    posterior_samples,
)

__all__ = ["Evaluation", "evaluate"]

_ACTIVE_VARIANCE = 0.01
# Items of which the mutual information is taken: it compares each with every other.
_MUTUAL_INFORMATION_ITEMS = 10_000
# Elements of latents in one piece of those comparisons.
_COMPARED_ELEMENTS = 2**22


@dataclass(frozen=True)
class Evaluation:
    r"""What :func:`evaluate` found. Figures of one item are means over the items, in nats.

    Attributes:
        num_items: N.
        num_samples: K, posterior samples of each item.
        dimensions: data elements of an item.
        elbo: the evidence lower bound, ``-(reconstruction + kl)``.
        reconstruction: :math:`-\mathbb E_q \log p(x \mid z)`, over the K samples.
        kl: KL of the posterior from the unit prior, in closed form.
        nll: :math:`-\log p(x)` by importance sampling, see :func:`vae_fused.log_likelihood`.
        nll_standard_error: standard deviation of the items' estimates over √N: what another draw of data and noise
            would change. NaN for one item.
        nll_sampling_error: the part of it that is importance sampling, by the delta method; it falls with K. NaN
            for one sample.
        active_units: number of latents with ``variance_of_means`` above 0.01.
        mutual_information: of data and latents under the encoder, see :func:`evaluate`; None beyond 10,000 items.
        kl_per_dimension: the KL of each latent, float64, in the shape of an item's latents, on the CPU.
        variance_of_means: variance over the items of each latent's posterior mean, likewise.

    Example:
        >>> result = evaluate(mlp_vae(6, latent_dim=2, hidden_dims=(8,)), torch.rand(50, 6), num_samples=10)
        >>> result.nll_bits_per_dimension == result.nll / (6 * math.log(2.0))
        True
    """

    num_items: int
    num_samples: int
    dimensions: int
    elbo: float
    reconstruction: float
    kl: float
    nll: float
    nll_standard_error: float
    nll_sampling_error: float
    active_units: int
    mutual_information: float | None
    kl_per_dimension: Tensor
    variance_of_means: Tensor

    @property
    def elbo_bits_per_dimension(self) -> float:
        """The negative ELBO in bits for each data element."""
        return -self.elbo / (self.dimensions * math.log(2.0))

    @property
    def nll_bits_per_dimension(self) -> float:
        """The importance-sampled negative log-likelihood in bits for each data element."""
        return self.nll / (self.dimensions * math.log(2.0))


class _Totals:
    """Sums of a pass over the data: numbers of each item in their order, and sums over the items of each latent."""

    def __init__(self) -> None:
        self.items: list[Tensor] = []  # each [4, B]: log p, its relative variance, reconstruction, KL
        self.posteriors: list[Tensor] = []  # each [3, B, latents]: z, mu, logvar
        self.num_items = 0

    def add(self, mu: Tensor, logvar: Tensor, z: Tensor, log_likelihood: Tensor, log_ratio: Tensor) -> None:
        """One batch: the posterior and its first sample ``[B, ...]``; all samples' weights, float64 ``[K, B]``."""
        kl = functional.kl_divergence(mu, logvar, reduction="none").double()
        weights = log_likelihood + log_ratio
        count = weights.shape[0]
        distance = weights.softmax(0) - 1.0 / count
        variance = distance.square().sum(0) * (count / (count - 1.0)) if count > 1 else distance[0] * math.nan
        log_p = torch.logsumexp(weights, 0) - math.log(count)
        per_item = [log_p, variance, -log_likelihood.mean(0), kl.flatten(1).sum(1) if kl.dim() > 1 else kl]
        self.items.append(torch.stack(per_item).cpu())
        if self.num_items == 0:
            # Means are taken relative to one of them, so that their variance does not cancel.
            self.origin = mu[0].double()
            self.kl_sum = torch.zeros_like(self.origin)
            self.mean_sum, self.square_sum = torch.zeros_like(self.origin), torch.zeros_like(self.origin)
        centered = mu.double() - self.origin
        self.kl_sum += kl.sum(0)
        self.mean_sum += centered.sum(0)
        self.square_sum += centered.square().sum(0)
        self.num_items += mu.shape[0]
        if self.num_items > _MUTUAL_INFORMATION_ITEMS:
            self.posteriors.clear()
        else:
            posterior = torch.stack([z, mu, logvar]).double()
            self.posteriors.append(posterior.flatten(2) if posterior.dim() > 2 else posterior.unsqueeze(2))

    def evaluation(self, num_samples: int, dimensions: int) -> Evaluation:
        count = self.num_items
        log_p, variance, reconstruction, kl = torch.cat(self.items, dim=1).unbind()
        variance_of_means = (self.square_sum / count - (self.mean_sum / count).square()).cpu()
        reconstruction_mean, kl_mean = reconstruction.mean().item(), kl.mean().item()
        information = _mutual_information(*torch.cat(self.posteriors, dim=1)) if self.posteriors else None
        return Evaluation(
            num_items=count,
            num_samples=num_samples,
            dimensions=dimensions,
            elbo=-(reconstruction_mean + kl_mean),
            reconstruction=reconstruction_mean,
            kl=kl_mean,
            nll=-log_p.mean().item(),
            nll_standard_error=(log_p.std() / math.sqrt(count)).item() if count > 1 else math.nan,
            nll_sampling_error=variance.sum().sqrt().item() / count,
            active_units=int((variance_of_means > _ACTIVE_VARIANCE).sum()),
            mutual_information=information,
            kl_per_dimension=(self.kl_sum / count).cpu(),
            variance_of_means=variance_of_means,
        )


def _mutual_information(z: Tensor, mu: Tensor, logvar: Tensor) -> float:
    """Mean of log q(z_i | x_i) - log of the mean over j of q(z_i | x_j), of latents ``[N, D]``."""
    count, precision = len(z), torch.exp(-logvar)
    log_determinant = logvar.sum(1)
    own = -0.5 * ((z - mu).square() * precision + logvar).sum(1)
    rows = max(1, _COMPARED_ELEMENTS // max(1, z.numel()))
    aggregated = [
        torch.logsumexp(-0.5 * (((part.unsqueeze(1) - mu).square() * precision).sum(2) + log_determinant), 1)
        for part in z.split(rows)
    ]
    return (own - torch.cat(aggregated) + math.log(count)).mean().item()


def _check_seed(seed: object) -> None:
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise TypeError(f"seed must be an integer, got {type(seed).__name__}")
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed must be from 0 to 2**64 - 1, got {seed}")


def evaluate(
    model: Autoencoder,
    data: Tensor | Iterable[object],
    *,
    num_samples: int = 100,
    batch_size: int = 128,
    likelihood: Likelihood = SQUARED_ERROR,
    seed: int = 0,
    chunk: int | None = None,
    progress: bool = False,
) -> Evaluation:
    r"""Evaluate a model: ELBO, log-likelihood, and what its latents hold.

    The noise of an item is a function of the seed and of its place in the data, and sums are in float64: another
    batch size, or another ``chunk``, changes a result by no more than the rounding of the model's own layers.

    The mutual information of data and latents is that of Hoffman and Johnson under the encoder,
    :math:`\frac1N \sum_i \left(\log q(z_i \mid x_i) - \log \frac1N \sum_j q(z_i \mid x_j)\right)`, with one sample of
    each item and all N posteriors: no minibatch stands for the aggregated posterior. It is at most log N, and
    ``kl - mutual_information`` estimates the KL of the aggregated posterior from the prior. It takes N² D
    operations, and is left out beyond 10,000 items.

    Args:
        model: has ``encode(x) -> (mu, logvar)`` and ``decode(z)``, as :class:`vae_fused.VAE` has; in eval mode
            meanwhile.
        data: the items, ``[N, ...]``; or an iterable of batches ``[B, ...]`` such as a DataLoader, where a tuple
            counts with its first entry. Moved to the device of the model's parameters batch by batch.
        num_samples: K, posterior samples of each item.
        batch_size: items encoded at once, of a tensor; an iterable has its own.
        likelihood: log p(x | z), as for :func:`vae_fused.log_weights`.
        seed: of the noise, from 0 to 2**64 - 1.
        chunk: samples of each item decoded at once, as for :func:`vae_fused.log_likelihood`.
        progress: show a progress bar on the standard error; needs the extra ``train``.

    Returns:
        An :class:`Evaluation`.

    Raises:
        TypeError: an argument of a wrong type, data that are not floating tensors, or a model whose ``encode`` gives no
            pair of tensors.
        ValueError: no items, or ``num_samples``, ``batch_size``, ``chunk`` or ``seed`` out of range.
        ImportError: ``progress`` without the package for it.

    Example:
        >>> model = mlp_vae(6, latent_dim=2, hidden_dims=(8,))
        >>> result = evaluate(model, torch.rand(50, 6), num_samples=10)
        >>> result.num_items, result.kl_per_dimension.shape
        (50, torch.Size([2]))

    Source: Burda et al. 2015 (arXiv:1509.00519), section 5, for the log-likelihood and active units; Hoffman and
    Johnson 2016, "ELBO surgery", for the mutual information.
    """
    check_model(model)
    checks.check_count("num_samples", num_samples)
    checks.check_count("batch_size", batch_size)
    checks.check_callable("likelihood", likelihood)
    checks.check_count("chunk", chunk, optional=True)
    _check_seed(seed)
    parameter = next(model.parameters(), None) if isinstance(model, nn.Module) else None
    batches = batches_of(data, batch_size, None if parameter is None else parameter.device, progress)
    totals, dimensions = _Totals(), 0
    with evaluation_mode(model):
        for x in batches:
            dimensions = math.prod(x.shape[1:])
            key = torch.tensor([seed, 0], dtype=torch.uint64, device=x.device)
            keys = item_keys(key, totals.num_items, len(x))
            mu, logvar = posterior_of(model, x)
            likelihoods: list[Tensor] = []
            ratios: list[Tensor] = []
            first_z = mu
            for samples in posterior_samples(model, likelihood, x, mu, logvar, keys, num_samples, chunk):
                if not ratios:
                    first_z = samples.z[0]
                likelihoods.append(samples.log_likelihood)
                ratios.append(samples.log_ratio)
            totals.add(mu, logvar, first_z, torch.cat(likelihoods), torch.cat(ratios))
    if not totals.num_items:
        raise ValueError("data must hold at least one item, got none")
    return totals.evaluation(num_samples, dimensions)
