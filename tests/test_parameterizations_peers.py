"""The formulas of other projects, written out as they have them, and the arguments that give them."""

from __future__ import annotations

import pytest
import torch
from helpers.inputs import key_of
from torch.distributions import Normal, kl_divergence
from torch.nn.functional import softplus

import vae_fused as vf

F64 = torch.float64
SHAPE = (3, 4, 17)


@pytest.fixture
def stored(device):
    return tuple(torch.randn(SHAPE, dtype=F64).to(device) for _ in range(2))


def noise(key):
    return vf.standard_normal(key, SHAPE, dtype=F64)


def close(ours, expected):
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)


def test_stable_audio(device, stored):
    mean, scale = stored
    key = key_of(1, 2, device)
    stdev = softplus(scale) + 1e-4
    latents = noise(key) * stdev + mean
    var = stdev * stdev
    kl = (mean * mean + var - torch.log(var) - 1).sum(1).mean()

    form = {"parameterization": "softplus_std", "epsilon": 1e-4}
    close(vf.reparameterize(mean, scale, key=key, **form), latents)
    # Without the factor 1/2, summed over channels and averaged over everything else.
    close(2 * SHAPE[1] * vf.kl_divergence(mean, scale, reduction="mean", **form), kl)


def test_scvi(device, stored):
    mean, raw = stored
    key = key_of(1, 2, device)
    variance = torch.exp(raw) + 1e-4
    posterior = Normal(mean, variance.sqrt())
    latents = mean + variance.sqrt() * noise(key)
    kl = kl_divergence(posterior, Normal(torch.zeros_like(mean), torch.ones_like(mean))).flatten(1).sum(1)

    form = {"parameterization": "exp_var", "epsilon": 1e-4}
    z, ours = vf.reparameterize_with_kl(mean, raw, key=key, **form)
    close(z, latents)
    close(ours, kl)


def test_nvae(device, stored):
    mu, raw = stored[0], 8 * stored[1]
    prior_mu, prior_raw = torch.randn(2, *SHAPE, dtype=F64).to(device)
    key = key_of(1, 2, device)

    def soft_clamp5(x):
        return x.div(5.0).tanh().mul(5.0)

    def sigma_of(log_sigma):
        return torch.exp(soft_clamp5(log_sigma)) + 1e-2

    sigma, prior_sigma, temperature = sigma_of(raw), sigma_of(prior_raw), 0.7
    latents = noise(key) * (sigma * temperature) + mu
    term1, term2 = (mu - prior_mu) / prior_sigma, sigma / prior_sigma
    kl = 0.5 * (term1 * term1 + term2 * term2) - 0.5 - torch.log(term2)

    form = {"parameterization": "log_std", "logvar_clamp": (-10, 10), "clamp": "soft", "epsilon": 1e-2}
    close(vf.reparameterize(mu, raw, key=key, temperature=temperature, **form), latents)
    close(vf.kl_divergence(mu, raw, prior_mu, 2 * prior_sigma.log(), reduction="none", **form), kl)


def test_vits(device, stored):
    m, logs = stored
    prior_m, prior_logs = torch.randn(2, *SHAPE, dtype=F64).to(device)
    x_mask = (torch.arange(17, device=device) < torch.tensor([[17], [9], [4]], device=device)).unsqueeze(1).double()
    key = key_of(1, 2, device)
    z = (m + noise(key) * torch.exp(logs)) * x_mask
    ours = vf.reparameterize(m, logs, key=key, parameterization="log_std") * x_mask
    close(ours, z)

    # The expectation of its one-sample estimate, logs_p - logs_q - 1/2 + (z_p - m_p)^2 exp(-2 logs_p) / 2.
    kl = prior_logs - logs - 0.5 + 0.5 * ((2 * logs).exp() + (m - prior_m) ** 2) * torch.exp(-2.0 * prior_logs)
    loss = torch.sum(kl * x_mask) / torch.sum(x_mask)
    total = vf.kl_divergence(m, logs, prior_m, 2 * prior_logs, mask=x_mask, reduction="sum", parameterization="log_std")
    close(total / x_mask.sum(), loss)


def test_torch_distributions(device, stored):
    loc, raw = stored
    scale = raw.exp()
    key = key_of(1, 2, device)
    unit = Normal(torch.zeros_like(loc), torch.ones_like(loc))
    close(vf.reparameterize(loc, scale, key=key, parameterization="std"), loc + noise(key) * scale)
    ours = vf.kl_divergence(loc, scale, reduction="none", parameterization="std")
    close(ours, kl_divergence(Normal(loc, scale), unit))


def test_diffusers_clamp(device, stored):
    mean, raw = stored[0], 20 * stored[1]
    logvar = torch.clamp(raw, -30.0, 20.0)
    key = key_of(1, 2, device)
    z, kl = vf.reparameterize_with_kl(mean, raw, key=key, logvar_clamp=(-30.0, 20.0))
    close(z, mean + torch.exp(0.5 * logvar) * noise(key))
    close(kl, 0.5 * torch.sum(mean.pow(2) + logvar.exp() - 1.0 - logvar, dim=[1, 2]))
    packed = vf.DiagonalGaussian(torch.cat([mean, raw], dim=1))
    assert torch.equal(packed.sample(key=key), z)
    close(packed.kl(), kl)
