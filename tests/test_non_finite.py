"""NaN and infinity propagate as in the formula, and stay inside their own batch item."""

from __future__ import annotations

import math

import pytest
import torch
from helpers import eager
from helpers.inputs import images, key_of, latents
from helpers.tolerances import DTYPES

import vae_fused as vf

VALUES = [math.nan, math.inf, -math.inf]
BAD_ITEM = 2
# Items shorter than a vector, of about a tile, and of several tiles of the CPU kernels.
EVENTS = [(1,), (5,), (3, 7), (1024,), (2500,)]
on_values = pytest.mark.parametrize("value", VALUES)
on_events = pytest.mark.parametrize("event", EVENTS, ids=str)
on_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def poisoned(tensor, value):
    bad = tensor.clone()
    bad[BAD_ITEM].view(-1)[-1] = value
    return bad


def clean_items(tensor, dim=0):
    kept = [i for i in range(tensor.shape[dim]) if i != BAD_ITEM]
    return tensor.index_select(dim, torch.tensor(kept, device=tensor.device))


def same_kind(ours, truth):
    """Finite where the formula is finite, and otherwise NaN, +inf or -inf where it is."""
    truth = truth.to(ours.dtype)
    assert torch.equal(ours.isnan(), truth.isnan())
    assert torch.equal(ours.isposinf(), truth.isposinf())
    assert torch.equal(ours.isneginf(), truth.isneginf())


@on_values
@on_events
@on_dtypes
@pytest.mark.parametrize("operand", range(4), ids=["recon", "target", "mu", "logvar"])
def test_elbo_loss(device, value, event, dtype, operand):
    clean = [*images((5, *event), dtype, device), *latents((5, *event), dtype, device)]
    bad = list(clean)
    bad[operand] = poisoned(clean[operand], value)

    expected = vf.elbo_loss(*clean, reduction="sample")
    ours = vf.elbo_loss(*bad, reduction="sample")
    assert torch.equal(clean_items(ours), clean_items(expected))
    same_kind(ours, eager.elbo_terms(*(t.double() for t in bad), reduction="sample")[0])
    for reduction in ("batchmean", "sum", "mean"):
        truth = eager.elbo_terms(*(t.double() for t in bad), reduction=reduction)[0]
        same_kind(vf.elbo_loss(*bad, reduction=reduction), truth)

    leaves, clean_leaves, true_leaves = (
        eager.leaves(*bad),
        eager.leaves(*clean),
        eager.leaves(*bad, dtype=torch.float64),
    )
    gradients = torch.autograd.grad(vf.elbo_loss(*leaves, reduction="sample").sum(), leaves)
    clean_gradients = torch.autograd.grad(vf.elbo_loss(*clean_leaves, reduction="sample").sum(), clean_leaves)
    truth = torch.autograd.grad(eager.elbo_terms(*true_leaves, reduction="sample")[0].sum(), true_leaves)
    for mine, unspoiled, true in zip(gradients, clean_gradients, truth, strict=True):
        assert torch.equal(clean_items(mine), clean_items(unspoiled))
        same_kind(mine, true)


@on_values
@on_events
@on_dtypes
@pytest.mark.parametrize("operand", range(2), ids=["mu", "logvar"])
def test_sampling(device, value, event, dtype, operand):
    clean = list(latents((5, *event), dtype, device))
    bad = list(clean)
    bad[operand] = poisoned(clean[operand], value)
    key = key_of(3, 0, device)

    z, kl = vf.reparameterize_with_kl(*bad, key=key)
    clean_z, clean_kl = vf.reparameterize_with_kl(*clean, key=key)
    assert torch.equal(clean_items(z), clean_items(clean_z))
    assert torch.equal(clean_items(kl), clean_items(clean_kl))
    same_kind(kl, eager.kl_divergence(*(t.double() for t in bad), reduction="sample"))
    noise = vf.reference.standard_normal(
        key, clean[0].shape, dtype=torch.float64 if dtype == torch.float64 else torch.float32
    )
    same_kind(z, eager.reparameterize(*(t.double() for t in bad), noise.double()))

    samples = vf.reparameterize(*bad, num_samples=3, key=key)
    assert torch.equal(clean_items(samples, 1), clean_items(vf.reparameterize(*clean, num_samples=3, key=key), 1))

    leaves, clean_leaves = eager.leaves(*bad), eager.leaves(*clean)
    gradients = torch.autograd.grad(sum(o.sum() for o in vf.reparameterize_with_kl(*leaves, key=key)), leaves)
    unspoiled = torch.autograd.grad(
        sum(o.sum() for o in vf.reparameterize_with_kl(*clean_leaves, key=key)), clean_leaves
    )
    for mine, other in zip(gradients, unspoiled, strict=True):
        assert torch.equal(clean_items(mine), clean_items(other))
    assert not gradients[operand][BAD_ITEM].view(-1)[-1].isfinite() or (operand == 1 and value == -math.inf)


@on_values
@on_dtypes
@pytest.mark.parametrize("operand", range(4), ids=["mu", "logvar", "prior_mu", "prior_logvar"])
def test_kl_divergence_from_a_prior(device, value, dtype, operand):
    operands = [*latents((5, 37), dtype, device), *latents((5, 37), dtype, device)]
    bad = list(operands)
    bad[operand] = poisoned(operands[operand], value)
    ours = vf.kl_divergence(*bad, reduction="none")
    changed = torch.zeros_like(ours, dtype=torch.bool)
    changed[BAD_ITEM, -1] = True
    assert not ours[changed].isfinite().any()
    assert torch.equal(ours[~changed], vf.kl_divergence(*operands, reduction="none")[~changed])
    if math.isnan(value):
        assert ours[changed].isnan().all()


@pytest.mark.parametrize("value", VALUES)
def test_noise_gradient_of_bad_incoming_gradient_stays_in_its_item(device, value):
    leaves = eager.leaves(*latents((5, 37), torch.float32, device))
    incoming = torch.ones(5, 37, device=device)
    incoming[BAD_ITEM] = value
    for gradient in torch.autograd.grad(vf.reparameterize(*leaves), leaves, incoming):
        assert clean_items(gradient).isfinite().all()
        assert not gradient[BAD_ITEM].isfinite().any()
