"""Pyro's own normal against ours: in a trace, in a guide, and in the objective that pyro makes of them."""

from __future__ import annotations

import pytest
import torch
from helpers.peers import need

need("pyro")

import pyro
import pyro.distributions as dist
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from torch.distributions import kl_divergence

import vae_fused as vf
from vae_fused.integrations.pyro import Normal

F64 = torch.float64


@pytest.fixture(autouse=True)
def empty_store():
    pyro.clear_param_store()
    yield
    pyro.clear_param_store()


def test_it_is_a_distribution_of_pyro():
    loc, scale = torch.randn(5, 3), torch.rand(5, 3) + 0.5
    ours, theirs = Normal(loc, scale).to_event(1), dist.Normal(loc, scale).to_event(1)
    z = ours()
    assert z.shape == (5, 3)
    torch.testing.assert_close(ours.log_prob(z), theirs.log_prob(z))
    assert type(Normal(loc, scale).expand_by((4,))) is Normal
    assert Normal(loc, scale).expand_by((4,))().shape == (4, 5, 3)
    assert Normal(loc, scale).mask(torch.arange(3) > 0).log_prob(z)[:, 0].eq(0).all()


def test_kl_of_independents():
    p, q = (torch.randn(5, 3, dtype=F64), torch.rand(5, 3, dtype=F64) + 0.5), (torch.zeros(3), torch.ones(3))
    expected = kl_divergence(dist.Normal(*p).to_event(1), dist.Normal(*q).expand((5, 3)).to_event(1))
    for prior in (Normal(*q), vf.Normal(*q), dist.Normal(*q)):
        prior = torch.distributions.Independent(prior.expand((5, 3)), 1)
        torch.testing.assert_close(kl_divergence(Normal(*p).to_event(1), prior), expected)


def step(normal: type, objective: type, monkeypatch: pytest.MonkeyPatch) -> tuple[float, dict[str, torch.Tensor]]:
    """One step of a VAE with a linear decoder, the noise of a fixed key in both: the loss and the gradients."""
    key = torch.tensor([3, 0], dtype=torch.uint64)

    def rsample(self, sample_shape=(), **_):
        noise = vf.standard_normal(key, self._extended_shape(sample_shape), dtype=self.loc.dtype)
        return self.loc + self.scale * noise

    if normal is dist.Normal:
        monkeypatch.setattr(dist.Normal, "rsample", rsample)
    else:
        original = vf.Normal.rsample
        monkeypatch.setattr(Normal, "rsample", lambda self, shape=(): original(self, shape, key=key))

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(16, 8, generator=generator, dtype=F64)
    weight = torch.randn(8, 3, generator=generator, dtype=F64)
    inverse = torch.randn(3, 8, generator=generator, dtype=F64)
    pyro.clear_param_store()

    def model() -> None:
        decoder = pyro.param("decoder", weight.clone())
        with pyro.plate("data", 16):
            z = pyro.sample("latent", normal(torch.zeros(16, 3, dtype=F64), torch.ones(16, 3, dtype=F64)).to_event(1))
            pyro.sample("x", dist.Normal(z @ decoder.T, 1.0).to_event(1), obs=x)

    def guide() -> None:
        encoder, log_scale = pyro.param("encoder", inverse.clone()), pyro.param("log_scale", torch.zeros(3, dtype=F64))
        with pyro.plate("data", 16):
            pyro.sample("latent", normal(x @ encoder.T, log_scale.exp().expand(16, 3)).to_event(1))

    svi = SVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), loss=objective())
    loss = svi.loss_and_grads(model, guide)
    return loss, {name: pyro.param(name).grad for name in ("decoder", "encoder", "log_scale")}


@pytest.mark.parametrize("objective", [Trace_ELBO, TraceMeanField_ELBO])
def test_elbo_and_gradients_are_those_of_pyro(objective, monkeypatch):
    with monkeypatch.context() as context:
        loss, gradients = step(Normal, objective, context)
    with monkeypatch.context() as context:
        expected_loss, expected = step(dist.Normal, objective, context)
    assert loss == pytest.approx(expected_loss, rel=1e-10)
    for name, value in expected.items():
        torch.testing.assert_close(gradients[name], value, rtol=1e-9, atol=1e-9)
