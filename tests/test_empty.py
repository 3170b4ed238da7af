"""Empty batches, empty events and single elements: sums of nothing are 0, means of nothing NaN, as in torch."""

from __future__ import annotations

import pytest
import torch
from helpers import eager
from helpers.inputs import key_of, keys_of

import vae_fused as vf

SHAPES = [(0,), (0, 5), (0, 3, 4), (3, 0), (3, 0, 4), (2, 3, 0), (0, 0)]
DTYPES = [torch.float16, torch.float32, torch.float64]
BOTH = pytest.mark.parametrize("api", [vf, vf.reference], ids=["kernel", "reference"])
everywhere = [
    BOTH,
    pytest.mark.parametrize("shape", SHAPES, ids=str),
    pytest.mark.parametrize("dtype", DTYPES, ids=str),
]


def on_empty(test):
    for mark in everywhere:
        test = mark(test)
    return test


def same(actual, expected):
    assert actual.shape == expected.shape
    torch.testing.assert_close(actual.cpu().double(), expected.double(), rtol=0, atol=0, equal_nan=True)


def zeros(shape, dtype, device):
    return torch.zeros(shape, dtype=dtype, device=device, requires_grad=True)


@on_empty
@pytest.mark.parametrize("reduction", [*eager.REDUCTIONS, "none"])
def test_kl_divergence(device, api, shape, dtype, reduction):
    mu, logvar, prior_mu, prior_logvar = (zeros(shape, dtype, device) for _ in range(4))
    if reduction == "sample":
        expected = torch.zeros(shape[0])
    elif reduction == "none":
        expected = torch.zeros(shape)
    else:
        expected = torch.tensor({"sum": 0.0, "mean": float("nan")}.get(reduction, 0.0 if shape[0] else float("nan")))
    same(api.kl_divergence(mu, logvar, reduction=reduction), expected)
    loss = api.kl_divergence(mu, logvar, prior_mu, prior_logvar, reduction=reduction)
    same(loss, expected)
    loss.sum().backward()
    assert all(t.grad.shape == shape for t in (mu, logvar, prior_mu, prior_logvar))


@on_empty
@pytest.mark.parametrize("reduction", eager.REDUCTIONS)
def test_elbo_loss(device, api, shape, dtype, reduction):
    operands = [zeros(shape, dtype, device) for _ in range(4)]
    loss, reconstruction, kl = api.elbo_loss(*operands, reduction=reduction, return_terms=True)
    expected = eager.reduce(torch.zeros(shape), reduction)
    for term in (loss, reconstruction, kl):
        same(term, expected)
    loss.sum().backward()
    assert all(t.grad.shape == shape for t in operands)


@BOTH
@pytest.mark.parametrize("reduction", ["batchmean", "sum", "sample"])
def test_elbo_loss_of_an_empty_batch_with_given_kl(device, api, reduction):
    recon, target, kl = (
        zeros((0, 3), torch.float32, device),
        zeros((0, 3), torch.float32, device),
        zeros(0, None, device),
    )
    loss = api.elbo_loss(recon, target, kl=kl, reduction=reduction)
    same(loss, {"batchmean": torch.tensor(float("nan")), "sum": torch.tensor(0.0), "sample": torch.zeros(0)}[reduction])
    loss.sum().backward()
    assert kl.grad.shape == (0,)


@BOTH
@pytest.mark.parametrize("shape", [(0, 3), (3, 0)])
@pytest.mark.parametrize("reduction", ["batchmean", "mean", "sum", "sample"])
def test_a_learned_sigma_of_no_elements_has_no_gradient(device, api, shape, reduction):
    data, latent = torch.zeros(shape, device=device), torch.ones(shape[0], 2, device=device)
    for log_sigma in (torch.zeros((), device=device), torch.zeros(shape[1:], device=device)):
        loss = api.elbo_loss(
            data.requires_grad_(), data.detach(), latent, latent,
            reduction=reduction, recon_loss="gaussian_nll", log_sigma=log_sigma.requires_grad_(),
        )  # fmt: skip
        assert (torch.autograd.grad(loss.sum(), log_sigma)[0] == 0).all()


@BOTH
def test_one_side_of_the_objective_is_empty(device, api):
    data, latent = torch.rand(3, 4, device=device), torch.rand(3, 2, device=device)
    no_data, no_latent = torch.zeros(3, 0, device=device), torch.zeros(3, 0, device=device)
    for reduction in ("batchmean", "sum", "sample"):
        terms = api.elbo_loss(no_data, no_data, latent, latent, reduction=reduction, return_terms=True)
        assert (terms.reconstruction == 0).all()
        torch.testing.assert_close(terms.loss, api.kl_divergence(latent, latent, reduction=reduction))
        terms = api.elbo_loss(data, data + 1, no_latent, no_latent, reduction=reduction, return_terms=True)
        assert (terms.kl == 0).all()
        assert (terms.loss > 0).all()


@on_empty
@pytest.mark.parametrize("num_samples", [None, 2])
def test_reparameterize(device, api, shape, dtype, num_samples):
    for source in (
        {"key": key_of(1, 1, device)},
        {
            "key": keys_of(list(range(shape[0])), device)
            if shape[0]
            else torch.empty(0, 2, dtype=torch.uint64).to(device)
        },
        {"generator": torch.Generator(device)},
        {},
    ):
        mu, logvar = zeros(shape, dtype, device), zeros(shape, dtype, device)
        z = api.reparameterize(mu, logvar, num_samples=num_samples, **source)
        assert z.shape == (shape if num_samples is None else (num_samples, *shape))
        assert z.dtype == dtype
        z.sum().backward()
        assert mu.grad.shape == logvar.grad.shape == shape


@on_empty
def test_reparameterize_with_kl(device, api, shape, dtype):
    mu, logvar = zeros(shape, dtype, device), zeros(shape, dtype, device)
    z, kl = api.reparameterize_with_kl(mu, logvar, key=key_of(1, 1, device))
    assert z.shape == shape
    same(kl, torch.zeros(shape[0]))
    (z.sum() + kl.sum()).backward()
    assert mu.grad.shape == logvar.grad.shape == shape


@BOTH
@pytest.mark.parametrize("size", [(0,), (0, 3), (3, 0)])
def test_standard_normal(device, api, size):
    assert api.standard_normal(key_of(1, 1, device), size).shape == size
    keys = torch.ones(size[0], 2, dtype=torch.uint64, device=device)
    assert api.standard_normal(keys, size).shape == size


@BOTH
def test_a_single_element(device, api):
    one = torch.ones(1, device=device)
    assert api.elbo_loss(one, 0 * one, one, 0 * one).item() == 1.5
    assert api.kl_divergence(one, 0 * one, reduction="sample").tolist() == [0.5]
    assert api.standard_normal(key_of(42, 0, device), ()).shape == ()
    assert api.standard_normal(key_of(42, 0, device), ()).item() == pytest.approx(-0.9702, abs=1e-4)
