"""The losses of other projects, as their sources have them: the yardstick of the presets and of the table of peers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def _kl_of_items(mu: Tensor, logvar: Tensor) -> Tensor:
    return -0.5 * (1 + logvar - mu.pow(2) - logvar.exp()).flatten(1).sum(1)


def pytorch_examples(recon: Tensor, x: Tensor, mu: Tensor, logvar: Tensor, beta: float = 1.0) -> Tensor:
    """pytorch/examples, vae/main.py; it has no beta."""
    cross_entropy = F.binary_cross_entropy(recon, x, reduction="sum")
    return cross_entropy + beta * (-0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp()))


def pythae_mse(recon: Tensor, x: Tensor, mu: Tensor, logvar: Tensor, beta: float = 1.0) -> Tensor:
    """clementchadebec/benchmark_VAE, pythae/models/vae/vae_model.py, reconstruction_loss="mse"; beta_vae_model.py."""
    squared = F.mse_loss(recon.flatten(1), x.flatten(1), reduction="none")
    return (0.5 * squared.sum(-1) + beta * _kl_of_items(mu, logvar)).mean(0)


def pythae_bce(recon: Tensor, x: Tensor, mu: Tensor, logvar: Tensor, beta: float = 1.0) -> Tensor:
    """The same with reconstruction_loss="bce"."""
    cross_entropy = F.binary_cross_entropy(recon.flatten(1), x.flatten(1), reduction="none")
    return (cross_entropy.sum(-1) + beta * _kl_of_items(mu, logvar)).mean(0)


def pytorch_vae(recon: Tensor, x: Tensor, mu: Tensor, logvar: Tensor, beta: float = 0.00025) -> Tensor:
    """AntixK/PyTorch-VAE, models/vanilla_vae.py; kld_weight of configs/vae.yaml."""
    return F.mse_loss(recon, x) + beta * torch.mean(_kl_of_items(mu, logvar), dim=0)


def latent_diffusion(
    recon: Tensor, x: Tensor, mu: Tensor, logvar: Tensor, beta: float = 1e-6, log_sigma: Tensor | None = None
) -> Tensor:
    """CompVis/latent-diffusion, ldm/modules/losses/contperceptual.py, without its perceptual and adversarial terms.

    ``log_sigma`` is the parameter that it calls logvar, 0 at first; ``beta`` is kl_weight of its autoencoders' configs.
    """
    log_sigma = torch.zeros((), dtype=x.dtype) if log_sigma is None else log_sigma
    rec_loss = torch.abs(x.contiguous() - recon.contiguous())
    nll_loss = rec_loss / torch.exp(log_sigma) + log_sigma
    kl_loss = _kl_of_items(mu, logvar)
    return torch.sum(nll_loss) / nll_loss.shape[0] + beta * torch.sum(kl_loss) / kl_loss.shape[0]


def lightning_bolts(recon: Tensor, x: Tensor, mu: Tensor, logvar: Tensor, beta: float = 0.1) -> Tensor:
    """Lightning-Universe/lightning-bolts, pl_bolts/models/autoencoders/basic_vae/basic_vae_module.py."""
    p = torch.distributions.Normal(torch.zeros_like(mu), torch.ones_like(logvar))
    q = torch.distributions.Normal(mu, torch.exp(logvar / 2))
    return beta * torch.distributions.kl_divergence(q, p).mean() + F.mse_loss(recon, x, reduction="mean")


def disentangling_vae_bce(recon: Tensor, x: Tensor, mu: Tensor, logvar: Tensor, beta: float = 4.0) -> Tensor:
    """YannDubs/disentangling-vae, disvae/models/losses.py: BetaHLoss with rec_dist="bernoulli", its default."""
    reconstruction = F.binary_cross_entropy(recon, x, reduction="sum") / len(x)
    by_dimension = 0.5 * (-1 - logvar + mu.pow(2) + logvar.exp()).mean(dim=0)
    return reconstruction + beta * by_dimension.sum()


def disentangling_vae_l1(recon: Tensor, x: Tensor, mu: Tensor, logvar: Tensor, beta: float = 4.0) -> Tensor:
    """The same with rec_dist="laplace"."""
    reconstruction = F.l1_loss(recon, x, reduction="sum") * 3 / len(x)
    by_dimension = 0.5 * (-1 - logvar + mu.pow(2) + logvar.exp()).mean(dim=0)
    return reconstruction + beta * by_dimension.sum()


def disentangling_vae_mse(recon: Tensor, x: Tensor, mu: Tensor, logvar: Tensor, beta: float = 4.0) -> Tensor:
    """The same with rec_dist="gaussian"."""
    reconstruction = F.mse_loss(recon * 255, x * 255, reduction="sum") / 255 / len(x)
    by_dimension = 0.5 * (-1 - logvar + mu.pow(2) + logvar.exp()).mean(dim=0)
    return reconstruction + beta * by_dimension.sum()


def sigma_vae(recon: Tensor, x: Tensor, mu: Tensor, logvar: Tensor, beta: float = 1.0) -> Tensor:
    """orybkin/sigma-vae-pytorch, model.py, model="optimal_sigma_vae"; it has no beta."""
    log_sigma = ((x - recon) ** 2).mean().sqrt().log()
    log_sigma = -6 + F.softplus(log_sigma + 6)
    nll = 0.5 * torch.pow((x - recon) / log_sigma.exp(), 2) + log_sigma + 0.5 * np.log(2 * np.pi)
    return nll.sum() + beta * (-0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp()))


def stable_audio_l1(recon: Tensor, x: Tensor, mu: Tensor, logvar: Tensor, beta: float = 1e-4) -> Tensor:
    """Stability-AI/stable-audio-tools, models/bottleneck.py, training/losses/losses.py, stable_audio_2_0_vae.json."""
    var = torch.exp(logvar)
    return F.l1_loss(x, recon, reduction="none").mean() + beta * (mu * mu + var - logvar - 1).sum(1).mean()


def stable_audio_mse(recon: Tensor, x: Tensor, mu: Tensor, logvar: Tensor, beta: float = 1e-4) -> Tensor:
    """The same with its squared error."""
    var = torch.exp(logvar)
    return F.mse_loss(x, recon, reduction="none").mean() + beta * (mu * mu + var - logvar - 1).sum(1).mean()


# By the name of the preset and the reconstruction loss.
LOSSES: dict[tuple[str, str], Callable[..., Tensor]] = {
    ("pytorch-examples", "bce"): pytorch_examples,
    ("pythae", "mse"): pythae_mse,
    ("pythae", "bce"): pythae_bce,
    ("pytorch-vae", "mse"): pytorch_vae,
    ("latent-diffusion", "laplace_nll"): latent_diffusion,
    ("lightning-bolts", "mse"): lightning_bolts,
    ("disentangling-vae", "bce"): disentangling_vae_bce,
    ("disentangling-vae", "mse"): disentangling_vae_mse,
    ("disentangling-vae", "l1"): disentangling_vae_l1,
    ("sigma-vae", "gaussian_nll"): sigma_vae,
    ("stable-audio", "l1"): stable_audio_l1,
    ("stable-audio", "mse"): stable_audio_mse,
}
