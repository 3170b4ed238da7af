"""The losses of other projects, as their sources have them: the yardstick of the presets and of the table of peers."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def _kl_of_items(mu: Tensor, logvar: Tensor) -> Tensor:
    return -0.5 * (1 + logvar - mu.pow(2) - logvar.exp()).flatten(1).sum(1)


def pythae_mse(recon: Tensor, x: Tensor, mu: Tensor, logvar: Tensor, beta: float = 1.0) -> Tensor:
    """clementchadebec/benchmark_VAE, pythae/models/vae/vae_model.py, reconstruction_loss="mse"; beta_vae_model.py."""
    squared = F.mse_loss(recon.flatten(1), x.flatten(1), reduction="none")
    return (0.5 * squared.sum(-1) + beta * _kl_of_items(mu, logvar)).mean(0)


def pytorch_vae(recon: Tensor, x: Tensor, mu: Tensor, logvar: Tensor, beta: float = 0.00025) -> Tensor:
    """AntixK/PyTorch-VAE, models/vanilla_vae.py; kld_weight of configs/vae.yaml."""
    return F.mse_loss(recon, x) + beta * torch.mean(_kl_of_items(mu, logvar), dim=0)


def lightning_bolts(recon: Tensor, x: Tensor, mu: Tensor, logvar: Tensor, beta: float = 0.1) -> Tensor:
    """Lightning-Universe/lightning-bolts, pl_bolts/models/autoencoders/basic_vae/basic_vae_module.py."""
    p = torch.distributions.Normal(torch.zeros_like(mu), torch.ones_like(logvar))
    q = torch.distributions.Normal(mu, torch.exp(logvar / 2))
    return beta * torch.distributions.kl_divergence(q, p).mean() + F.mse_loss(recon, x, reduction="mean")


def disentangling_vae_mse(recon: Tensor, x: Tensor, mu: Tensor, logvar: Tensor, beta: float = 4.0) -> Tensor:
    """YannDubs/disentangling-vae, disvae/models/losses.py: BetaHLoss with rec_dist="gaussian"."""
    reconstruction = F.mse_loss(recon * 255, x * 255, reduction="sum") / 255 / len(x)
    by_dimension = 0.5 * (-1 - logvar + mu.pow(2) + logvar.exp()).mean(dim=0)
    return reconstruction + beta * by_dimension.sum()


def stable_audio_mse(recon: Tensor, x: Tensor, mu: Tensor, logvar: Tensor, beta: float = 1e-4) -> Tensor:
    """Stability-AI/stable-audio-tools, models/bottleneck.py, training/losses/losses.py, stable_audio_2_0_vae.json."""
    var = torch.exp(logvar)
    return F.mse_loss(x, recon, reduction="none").mean() + beta * (mu * mu + var - logvar - 1).sum(1).mean()


# By the name of the preset and the reconstruction loss.
LOSSES: dict[tuple[str, str], Callable[..., Tensor]] = {
    ("pythae", "mse"): pythae_mse,
    ("pytorch-vae", "mse"): pytorch_vae,
    ("lightning-bolts", "mse"): lightning_bolts,
    ("disentangling-vae", "mse"): disentangling_vae_mse,
    ("stable-audio", "mse"): stable_audio_mse,
}
