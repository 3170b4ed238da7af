"""The linear-Gaussian model whose ELBO and log p(x) are known in closed form."""

from __future__ import annotations

import math

import torch

import vae_fused as vf

LATENT, DATA, BATCH = 5, 12, 7
# The squared error over 2 s2 is the log-likelihood, so both sides are divided by sqrt(2 s2).
VARIANCE = 0.3
SCALE = 1.0 / math.sqrt(2.0 * VARIANCE)
TOLERANCE = 1e-10


class LinearGaussian:
    def __init__(self, device):
        def draw(*shape):
            return torch.randn(*shape, dtype=torch.float64).to(device)

        columns = torch.linalg.qr(draw(DATA, LATENT)).Q
        self.norms = torch.linspace(0.3, 2.0, LATENT, dtype=torch.float64, device=device)
        self.weight, self.bias = columns * self.norms, draw(DATA)
        noise = math.sqrt(VARIANCE) * draw(BATCH, DATA)
        self.x = draw(BATCH, LATENT) @ self.weight.T + self.bias + noise

    def decode(self, z):
        return z @ self.weight.T + self.bias

    def encode(self, x):
        """The true posterior."""
        precision = 1.0 + self.norms**2 / VARIANCE
        mu = (x - self.bias) @ self.weight / (VARIANCE * precision)
        return mu, (-precision.log()).expand_as(mu)

    def posterior(self):
        return self.encode(self.x)

    def log_evidence(self):
        covariance = self.weight @ self.weight.T + VARIANCE * torch.eye(DATA, dtype=torch.float64).to(self.x.device)
        return torch.distributions.MultivariateNormal(self.bias, covariance).log_prob(self.x)

    def normalizer(self):
        return 0.5 * DATA * math.log(2 * math.pi * VARIANCE)

    def expected_recon(self, mu, logvar):
        """Expectation of the squared error in closed form: that of the mean, and the trace of the spread."""
        spread = (logvar.exp() * self.norms**2).sum(1) / (2 * VARIANCE)
        return (
            vf.elbo_loss(
                SCALE * self.decode(mu), SCALE * self.x, torch.zeros_like(mu), torch.zeros_like(mu), reduction="sample"
            )
            + spread
        )
