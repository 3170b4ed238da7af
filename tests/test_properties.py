"""Hypothesis over shape, strides, dtype and reduction: the kernels against the reference in float64."""

from __future__ import annotations

import torch
from helpers import eager
from helpers.strategies import dtypes, keys, operands, shapes
from helpers.tolerances import ROUNDING, UNDERFLOW, accumulation_dtype, loss_error, normal_error
from hypothesis import given
from hypothesis import strategies as st

import vae_fused as vf

F64 = torch.float64
reductions = st.sampled_from(eager.REDUCTIONS)


def assert_close(ours, truth, relative, scale):
    """Within ``relative`` of the truth's own scale, one rounding, and NaN exactly where the truth has it."""
    assert ours.shape == truth.shape
    truth = truth.double()
    allowed = relative * (truth.abs() + scale) + ROUNDING[ours.dtype] * truth.abs() + UNDERFLOW[ours.dtype]
    fits = ((ours.double() - truth).abs() <= allowed) | (ours.isnan() & truth.isnan())
    assert fits.all()


def gradients(outputs, leaves, weights):
    return torch.autograd.grad(outputs, leaves, weights, allow_unused=True)


@given(st.data())
def test_reparameterize(data):
    shape, dtype = data.draw(shapes), data.draw(dtypes)
    num_samples = data.draw(st.sampled_from([None, 1, 2, 5]))
    mu, logvar = (data.draw(operands(shape, dtype)) for _ in range(2))
    key = data.draw(keys(shape[0]))
    ours = vf.reparameterize(*(a := eager.leaves(mu, logvar)), num_samples=num_samples, key=key)
    reference = vf.reference.reparameterize(*(b := eager.leaves(mu, logvar)), num_samples=num_samples, key=key)
    assert ours.dtype == dtype
    step = 2 * ROUNDING[dtype]
    scale = mu.double().abs() + torch.exp(0.5 * logvar.double())
    assert_close(ours, reference, step + 2 * normal_error(accumulation_dtype(dtype)), scale)
    weights = torch.randn(ours.shape).to(dtype)
    total = weights.double().abs() if num_samples is None else weights.double().abs().sum(0)
    for mine, true in zip(gradients(ours, a, weights), gradients(reference, b, weights), strict=True):
        assert mine.dtype == dtype
        scale = total * (1 + torch.exp(0.5 * logvar.double()))
        assert_close(mine, true, step + 2 * normal_error(accumulation_dtype(dtype)), scale)


@given(st.data())
def test_reparameterize_with_kl(data):
    shape, dtype = data.draw(shapes), data.draw(dtypes)
    mu, logvar = (data.draw(operands(shape, dtype)) for _ in range(2))
    key = data.draw(keys(shape[0]))
    z, kl = vf.reparameterize_with_kl(mu, logvar, key=key)
    assert torch.equal(z, vf.reparameterize(mu, logvar, key=key))
    truth = eager.kl_divergence(mu.double(), logvar.double(), reduction="sample")
    assert_close(kl, truth, 2 * loss_error(kl.dtype, kl.device), 1.0)


@given(st.data())
def test_kl_divergence(data):
    shape, dtype = data.draw(shapes), data.draw(dtypes)
    reduction = data.draw(st.sampled_from([*eager.REDUCTIONS, "none"]))
    mu, logvar = (data.draw(operands(shape, dtype)) for _ in range(2))
    priors = []
    for _ in range(2):
        kept = data.draw(st.integers(0, len(shape)))
        prior_shape = tuple(1 if data.draw(st.booleans()) else n for n in shape[len(shape) - kept :])
        priors.append(data.draw(st.none() | operands(prior_shape, dtype, spread=0.5)))
    everything = [mu, logvar, *priors]
    present = [t is not None for t in everything]

    def run(function, cast):
        leaves = [t if t is None else t.detach().to(cast).requires_grad_() for t in everything]
        loss = function(*leaves, reduction=reduction)
        weights = torch.linspace(0.5, 1.5, loss.numel(), dtype=F64).view(loss.shape)
        wanted = [leaf for leaf, there in zip(leaves, present, strict=True) if there]
        return loss.detach(), gradients(loss, wanted, weights.to(loss.dtype))

    ours, our_gradients = run(vf.kl_divergence, dtype)
    truth, true_gradients = run(eager.kl_divergence, F64)
    assert ours.dtype == accumulation_dtype(dtype)
    assert_close(ours, truth, 8 * loss_error(ours.dtype, ours.device), 1.0)
    for mine, true in zip(our_gradients, true_gradients, strict=True):
        assert mine.dtype == dtype
        # A prior shared by n elements adds up n gradients, each rounded to the dtype.
        scale = 30 * max(mu.numel() / max(true.numel(), 1), 1)
        assert_close(mine, true, 2 * ROUNDING[dtype] + 8 * loss_error(accumulation_dtype(dtype)), scale)


@given(st.data())
def test_elbo_loss(data):
    batch = data.draw(st.integers(0, 6))
    shape, latent_shape = ((batch, *data.draw(shapes)[1:]) for _ in range(2))
    cast = [data.draw(dtypes) for _ in range(2)] + [data.draw(dtypes)] * 2
    tensors = [
        data.draw(operands(s, d, spread=0.7))
        for s, d in zip((shape, shape, latent_shape, latent_shape), cast, strict=True)
    ]
    wanted = [data.draw(st.booleans()) for _ in range(4)]
    reduction, beta = data.draw(reductions), data.draw(st.sampled_from([0.0, 0.5, 1.0, 3.0]))

    def run(function, dtype):
        leaves = [t.detach().to(dtype or t.dtype).requires_grad_(want) for t, want in zip(tensors, wanted, strict=True)]
        loss, reconstruction, kl = function(*leaves, reduction)
        asked = [leaf for leaf, want in zip(leaves, wanted, strict=True) if want]
        weights = torch.linspace(-0.5, 1.5, loss.numel(), dtype=F64).view(loss.shape).to(loss.dtype)
        return (loss.detach(), reconstruction, kl), gradients(loss, asked, weights) if asked else ()

    ours, our_gradients = run(lambda *o: vf.elbo_loss(*o[:4], beta=beta, reduction=o[4], return_terms=True), None)
    truth, true_gradients = run(lambda *o: eager.elbo_terms(*o[:4], beta=beta, reduction=o[4]), F64)
    arithmetic = loss_error(torch.float64 if all(d == F64 for d in cast) else torch.float32)
    for mine, true in zip(ours, truth, strict=True):
        assert mine.dtype == accumulation_dtype(*cast)
        assert_close(mine, true, 2 * arithmetic, 1.0)
    for mine, true in zip(our_gradients, true_gradients, strict=True):
        assert_close(mine, true, 2 * arithmetic, 10.0)
