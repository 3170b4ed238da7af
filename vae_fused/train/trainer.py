"""The training loop: epochs of Adam steps on the fused objective, each followed by a pass over the held-out items."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from vae_fused._terms import ELBOTerms
from vae_fused.models import VAE
from vae_fused.train.data import Split
from vae_fused.train.errors import TrainingError
from vae_fused.train.noise import Stream, item_keys
from vae_fused.train.settings import Settings


@dataclass(frozen=True)
class EpochMetrics:
    """One row of the metrics: averages over the items, in nats.

    ``*_loss`` is the negative ELBO, reconstruction + beta * KL. The training figures are means over the epoch, so they
    belong to weights that still moved; the held-out figures belong to the weights at its end.
    """

    epoch: int
    train_loss: float
    train_reconstruction: float
    train_kl: float
    held_out_loss: float
    held_out_reconstruction: float
    held_out_kl: float
    seconds: float


def train_epochs(model: VAE, split: Split, settings: Settings) -> Iterator[EpochMetrics]:
    """Train ``model`` in place, one epoch for each item of the iterator.

    On one CPU, with one thread count, the same settings give the same weights bit for bit.

    Args:
        model: the model, on its device.
        split: the data, on the same device.
        settings: epochs, batch size, beta, learning rate and seed.

    Yields:
        The metrics of each epoch.

    Raises:
        TrainingError: the loss is no longer finite.
    """
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.lr)
    shuffler = torch.Generator().manual_seed(settings.seed)
    for epoch in range(settings.epochs):
        start = time.perf_counter()
        order = torch.randperm(len(split.train), generator=shuffler).to(split.train.device)
        train = _train_epoch(model, optimizer, split.train, order, epoch, settings)
        held_out = evaluate(model, split.held_out, settings)
        if not (math.isfinite(train[0]) and math.isfinite(held_out[0])):
            raise TrainingError(
                f"the loss is not finite after epoch {epoch + 1}: try a smaller --lr than {settings.lr:g}"
            )
        yield EpochMetrics(epoch + 1, *train, *held_out, seconds=time.perf_counter() - start)


def _train_epoch(
    model: VAE, optimizer: torch.optim.Optimizer, data: Tensor, order: Tensor, epoch: int, settings: Settings
) -> tuple[float, float, float]:
    model.train()
    totals = torch.zeros(3, dtype=torch.float64, device=data.device)
    for items in order.split(settings.batch_size):
        keys = item_keys(Stream.TRAINING, settings.seed, epoch, items, len(data), model.latent_dim)
        terms = model.loss(data[items], beta=settings.beta, key=keys)
        optimizer.zero_grad()
        terms.loss.backward()
        optimizer.step()
        totals += _stack(terms) * len(items)
    return _averages(totals, len(data))


@torch.no_grad()
def evaluate(model: VAE, data: Tensor, settings: Settings) -> tuple[float, float, float]:
    """Loss (the negative ELBO), reconstruction and KL of ``data``, averages over the items, in nats.

    The posterior is sampled, as the ELBO asks, with the noise of a fixed key, so that epochs compare.
    """
    model.eval()
    totals = torch.zeros(3, dtype=torch.float64, device=data.device)
    for items in torch.arange(len(data), device=data.device).split(settings.batch_size):
        keys = item_keys(Stream.HELD_OUT, settings.seed, 0, items, len(data), model.latent_dim)
        totals += _stack(model.loss(data[items], beta=settings.beta, reduction="sum", sample=True, key=keys))
    return _averages(totals, len(data))


def _stack(terms: ELBOTerms) -> Tensor:
    return torch.stack([terms.loss.detach(), terms.reconstruction, terms.kl]).double()


def _averages(totals: Tensor, count: int) -> tuple[float, float, float]:
    # One transfer from the device for an epoch, not one a step.
    loss, reconstruction, kl = (totals / count).tolist()
    return loss, reconstruction, kl
