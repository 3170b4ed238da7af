"""A VAE in pyro with our normal distribution in its guide: the line that changed is marked.

python examples/pyro_guide.py
"""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, TraceMeanField_ELBO
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader

from vae_fused.integrations.pyro import Normal  # was: from pyro.distributions import Normal


class VAE(nn.Module):
    """A model and a guide for 8×8 digits."""

    def __init__(self, latent_dim: int = 8) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.encoder = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 2 * latent_dim))
        self.decoder = nn.Sequential(nn.Linear(latent_dim, 128), nn.ReLU(), nn.Linear(128, 64))

    def model(self, x: Tensor) -> None:
        """A standard normal latent, and pixels around the decoder's output."""
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("latent", Normal(x.new_zeros(len(x), self.latent_dim), 1.0).to_event(1))
            pyro.sample("pixels", dist.Normal(self.decoder(z), 0.3).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        """The posterior."""
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", len(x)):
            loc, log_scale = self.encoder(x).chunk(2, dim=1)
            pyro.sample("latent", Normal(loc, log_scale.exp()).to_event(1))


def main(epochs: int = 3) -> list[float]:
    """Train; the average negative ELBO of every epoch, in nats."""
    torch.manual_seed(1)
    pyro.clear_param_store()
    pixels = torch.tensor(load_digits().data / 16.0, dtype=torch.float32)
    loader = DataLoader(pixels, batch_size=128, shuffle=True)
    vae = VAE()
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-3}), loss=TraceMeanField_ELBO())
    losses = []
    for epoch in range(1, epochs + 1):
        losses.append(sum(svi.step(x) for x in loader) / len(pixels))
        print(f"epoch {epoch}: negative ELBO {losses[-1]:.4f}")
    return losses


if __name__ == "__main__":
    main()
