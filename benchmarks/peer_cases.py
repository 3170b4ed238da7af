"""What is compared with the peers: one number of each, and the step that is timed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version

import diffusers
import pyro.distributions
import torch
from diffusers.models.autoencoders import autoencoder_kl
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor
from torch.distributions import Normal, kl_divergence

import vae_fused as vf
from peer_losses import LOSSES
from vae_fused.integrations import diffusers as integration
from vae_fused.integrations.pyro import Normal as PyroNormal


@dataclass(frozen=True)
class PeerCase:
    """A quantity, and a training step that it is part of.

    ``values`` and ``steps`` are the peer's and ours. A step is run and differentiated with respect to ``leaves``.
    """

    peer: str
    version: str
    quantity: str
    values: tuple[Callable[[], Tensor], Callable[[], Tensor]]
    steps: tuple[Callable[[], Tensor], Callable[[], Tensor]]
    step: str
    leaves: Sequence[Tensor]
    note: str = ""


def _moments(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape).mul(0.5).to(dtype).requires_grad_()


def _posterior(shape: tuple[int, ...], name: str, note: str = "", dtype: torch.dtype = torch.float32) -> PeerCase:
    moments = _moments(*shape, dtype=dtype)

    def step(posterior: type) -> Callable[[], Tensor]:
        def run() -> Tensor:
            q = posterior(moments)
            return q.sample().sum(dtype=torch.float32) + q.kl().sum(dtype=torch.float32)

        return run

    classes = DiagonalGaussianDistribution, integration.DiagonalGaussianDistribution
    theirs, ours = (lambda posterior=posterior: posterior(moments).kl().mean() for posterior in classes)
    size = "x".join(map(str, shape))
    return PeerCase(
        "diffusers", version("diffusers"), f"`posterior.kl().mean()`, {name}", (theirs, ours),
        (step(classes[0]), step(classes[1])), f"sample and KL of {size} moments", [moments], note,
    )  # fmt: skip


def _autoencoder() -> PeerCase:
    blocks = {"down_block_types": ("DownEncoderBlock2D",), "up_block_types": ("UpDecoderBlock2D",)}
    settings = {"layers_per_block": 1, "norm_num_groups": 4, "mid_block_add_attention": False}
    model = diffusers.AutoencoderKL(block_out_channels=(8,), latent_channels=16, **blocks, **settings)
    x = torch.randn(16, 3, 64, 64)

    def step() -> Tensor:
        posterior = model.encode(x).latent_dist
        return posterior.sample().square().sum() + posterior.kl().sum()

    def value() -> Tensor:
        return model.encode(x).latent_dist.kl().mean()

    def patched(function: Callable[[], Tensor]) -> Callable[[], Tensor]:
        def run() -> Tensor:
            # As patch() does it, but in one module: looking through all of them is done once, not in every step.
            autoencoder_kl.DiagonalGaussianDistribution = integration.DiagonalGaussianDistribution
            try:
                return function()
            finally:
                autoencoder_kl.DiagonalGaussianDistribution = DiagonalGaussianDistribution

        return run

    return PeerCase(
        "diffusers", version("diffusers"), "`posterior.kl().mean()`, a shallow `AutoencoderKL`, patched",
        (value, patched(value)), (step, patched(step)), "encode, sample and KL of 16x3x64x64 images",
        list(model.encoder.parameters()),
    )  # fmt: skip


def _loss(name: str, recon_loss: str, library: str | None = None) -> PeerCase:
    data, latent = ((64, 2, 4096), (64, 64, 16)) if name == "stable-audio" else ((64, 3, 64, 64), (64, 128))
    x = torch.rand(data)
    recon = torch.randn(data).sigmoid().requires_grad_()  # probabilities, which suit every loss
    mu, logvar = torch.randn(latent).requires_grad_(), torch.randn(latent).requires_grad_()
    peer, criterion = LOSSES[name, recon_loss], vf.FusedELBOLoss.like(name, recon_loss=recon_loss)
    functions = (lambda: peer(recon, x, mu, logvar)), (lambda: criterion(recon, x, mu, logvar))
    size = "x".join(map(str, data))
    return PeerCase(
        name, version(library) if library else "source", f"loss, {recon_loss}", functions, functions,
        f"loss of {size} data", [recon, mu, logvar, *criterion.parameters()],
    )  # fmt: skip


def _normal(peer: str, library: str, classes: tuple[type, type]) -> PeerCase:
    loc = torch.randn(1024, 512).requires_grad_()
    scale = torch.randn(1024, 512).mul(0.3).exp().requires_grad_()
    prior = Normal(torch.zeros(()), torch.ones(()))

    def value(normal: type) -> Callable[[], Tensor]:
        return lambda: kl_divergence(normal(loc, scale, validate_args=False), prior).mean()

    def step(normal: type) -> Callable[[], Tensor]:
        def run() -> Tensor:
            q = normal(loc, scale, validate_args=False)
            return q.rsample().sum() + kl_divergence(q, prior).sum()

        return run

    theirs, ours = classes
    return PeerCase(
        peer, version(library), "`kl_divergence(Normal, Normal(0, 1)).mean()`", (value(theirs), value(ours)),
        (step(theirs), step(ours)), "rsample and KL of 1024x512", [loc, scale],
    )  # fmt: skip


_BUILDERS: list[Callable[[], PeerCase]] = [
    lambda: _posterior((16, 8, 64, 64), "image"),
    _autoencoder,
    lambda: _posterior((2, 32, 5, 30, 45), "video", "the peer sums over C, T and H and leaves W: too small by W = 45"),
    lambda: _posterior((2, 64, 128, 128), "image, float16", "the peer's sum overflows", torch.float16),
    lambda: _loss("pytorch-examples", "bce"),
    lambda: _loss("pythae", "mse", "pythae"),
    lambda: _loss("pythae", "bce", "pythae"),
    lambda: _loss("pytorch-vae", "mse"),
    lambda: _loss("latent-diffusion", "laplace_nll"),
    lambda: _loss("lightning-bolts", "mse"),
    lambda: _loss("disentangling-vae", "bce"),
    lambda: _loss("disentangling-vae", "mse"),
    lambda: _loss("disentangling-vae", "l1"),
    lambda: _loss("sigma-vae", "gaussian_nll"),
    lambda: _loss("stable-audio", "l1"),
    lambda: _loss("stable-audio", "mse"),
    lambda: _normal("torch.distributions", "torch", (Normal, vf.Normal)),
    lambda: _normal("pyro", "pyro-ppl", (pyro.distributions.Normal, PyroNormal)),
]


def peer_cases() -> Iterator[PeerCase]:
    """All comparisons, each on random inputs of the same seed."""
    for build in _BUILDERS:
        torch.manual_seed(0)
        yield build()
