"""The loss and its gradients against float64, for every reduction, dtype and rank."""

from __future__ import annotations

import pytest
import torch
from helpers import eager
from helpers.inputs import SHAPES, images, latents
from helpers.tolerances import (
    DTYPES,
    accumulation_dtype,
    assert_as_good_as_eager,
    assert_loss_close,
    assert_rounded_once,
    loss_error,
)

import vae_fused as vf

F16, BF16, F32, F64 = DTYPES
MIXED = [(BF16, F32), (F32, BF16), (F16, F32), (F16, BF16), (F32, F64), (F64, F16)]
PAIRS = [(dtype, dtype) for dtype in DTYPES] + MIXED
BETA = 0.7


def inputs(shape, device, dtype=F32, target_dtype=None, latent_dtype=F32):
    # Latents of another rank than the data, as in every convolutional model.
    latent_shape = (shape[0], 6) if len(shape) > 2 else shape
    return (*images(shape, dtype, device, target_dtype), *latents(latent_shape, latent_dtype, device))


def gradients(function, operands, dtype=None):
    leaves = eager.leaves(*operands, dtype=dtype)
    # Unequal weights: under "sample" every item has its own incoming gradient.
    loss = function(*leaves)
    weights = torch.linspace(0.5, 1.5, loss.numel(), device=loss.device, dtype=torch.float64).view(loss.shape)
    return torch.autograd.grad((loss.double() * weights).sum(), leaves)


@pytest.mark.parametrize("reduction", eager.REDUCTIONS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("dtype", "target_dtype"), PAIRS, ids=str)
def test_terms(device, dtype, target_dtype, shape, reduction):
    operands = inputs(shape, device, dtype, target_dtype, latent_dtype=dtype)
    terms = vf.elbo_loss(*operands, beta=BETA, reduction=reduction, return_terms=True)
    truth = eager.elbo_terms(*(t.double() for t in operands), beta=BETA, reduction=reduction)
    for ours, true in zip(terms, truth, strict=True):
        assert ours.dtype == accumulation_dtype(dtype, target_dtype)
        assert ours.shape == true.shape
    assert_loss_close(terms.reconstruction, truth[1])
    latent_arithmetic = loss_error(
        accumulation_dtype(dtype), device
    )  # that of the latents, whatever the dtype of the target
    torch.testing.assert_close(terms.kl.double(), truth[2], rtol=latent_arithmetic, atol=0)
    torch.testing.assert_close(terms.loss.double(), truth[0], rtol=latent_arithmetic, atol=0)
    torch.testing.assert_close(
        terms.loss.double(),
        terms.reconstruction.double() + BETA * terms.kl.double(),
        rtol=4 * torch.finfo(terms.loss.dtype).eps,
        atol=0,
    )
    assert torch.equal(terms.loss, vf.elbo_loss(*operands, beta=BETA, reduction=reduction))


@pytest.mark.parametrize("reduction", eager.REDUCTIONS)
@pytest.mark.parametrize(("dtype", "target_dtype"), [pair for pair in PAIRS if F64 not in pair], ids=str)
@pytest.mark.parametrize("latent_dtype", [F16, BF16, F32], ids=str)
def test_no_further_from_float64_than_eager(device, dtype, target_dtype, latent_dtype, reduction):
    operands = inputs((4, 3, 11, 7), device, dtype, target_dtype, latent_dtype)
    kept = dict(beta=BETA, reduction=reduction)
    truth = eager.elbo_terms(*(t.double() for t in operands), **kept)[0]
    ours = vf.elbo_loss(*operands, **kept)
    assert ours.dtype == accumulation_dtype(dtype, target_dtype, latent_dtype)
    assert_as_good_as_eager(ours, eager.elbo_terms(*operands, **kept)[0], truth)
    ours_grads = gradients(lambda *o: vf.elbo_loss(*o, **kept), operands)
    eager_grads = gradients(lambda *o: eager.elbo_terms(*o, **kept)[0], operands)
    true_grads = gradients(lambda *o: eager.elbo_terms(*o, **kept)[0], operands, F64)
    for mine, theirs, true, operand in zip(ours_grads, eager_grads, true_grads, operands, strict=True):
        assert mine.dtype == operand.dtype
        assert_as_good_as_eager(mine, theirs, true)


@pytest.mark.parametrize("reduction", eager.REDUCTIONS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gradients_are_rounded_once(device, dtype, shape, reduction):
    operands = inputs(shape, device, dtype, latent_dtype=dtype)
    kept = dict(beta=BETA, reduction=reduction)
    ours = gradients(lambda *o: vf.elbo_loss(*o, **kept), operands)
    truth = gradients(lambda *o: eager.elbo_terms(*o, **kept)[0], operands, F64)
    recon, target, _, logvar = (t.double() for t in operands)
    weight = 1.5 * {"batchmean": 1 / shape[0], "mean": 1 / min(recon.numel(), logvar.numel())}.get(reduction, 1.0)
    scales = (2 * (recon.abs() + target.abs()),) * 2 + (4.0, 1 + logvar.exp())
    for mine, true, scale in zip(ours, truth, scales, strict=True):
        assert_rounded_once(mine, true, weight * scale)


@pytest.mark.parametrize("reduction", ["batchmean", "sum", "sample"])
@pytest.mark.parametrize("dtype", [F32, F64], ids=str)
def test_kl_path_equals_latent_path(device, dtype, reduction):
    recon, target, mu, logvar = inputs((5, 3, 4, 5), device, dtype, latent_dtype=dtype)
    kl = vf.kl_divergence(mu, logvar, reduction="sample")
    by_kl = vf.elbo_loss(recon, target, kl=kl, beta=BETA, reduction=reduction, return_terms=True)
    by_latents = vf.elbo_loss(recon, target, mu, logvar, beta=BETA, reduction=reduction, return_terms=True)
    for a, b in zip(by_kl, by_latents, strict=True):
        torch.testing.assert_close(a, b, rtol=4 * torch.finfo(dtype).eps, atol=0)

    def gradients_through(path):
        leaves = eager.leaves(recon, target, mu, logvar)
        return torch.autograd.grad(path(*leaves).sum(), leaves)

    def kl_path(r, t, m, v):
        kl = vf.kl_divergence(m, v, reduction="sample")
        return vf.elbo_loss(r, t, kl=kl, beta=BETA, reduction=reduction)

    def latent_path(r, t, m, v):
        return vf.elbo_loss(r, t, m, v, beta=BETA, reduction=reduction)

    for a, b in zip(gradients_through(kl_path), gradients_through(latent_path), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5 if dtype == F32 else 1e-13, atol=1e-7 if dtype == F32 else 1e-15)


@pytest.mark.parametrize("dtype", [F16, BF16, F64], ids=str)
def test_given_kl_of_any_dtype(device, dtype):
    recon, target = images((3, 4), F32, device)
    kl = torch.tensor([1.5, 2.25, 4.0], dtype=dtype, device=device)
    loss, _, mean = vf.elbo_loss(recon, target, kl=kl, beta=2.0, return_terms=True)
    assert loss.dtype == accumulation_dtype(dtype)
    assert mean.item() == pytest.approx(7.75 / 3, rel=1e-6)


@pytest.mark.parametrize("reduction", eager.REDUCTIONS)
def test_agrees_with_the_reference(device, reduction):
    operands = inputs((5, 3, 4, 5), device, latent_dtype=F16)
    ours = vf.elbo_loss(*operands, reduction=reduction, return_terms=True)
    reference = vf.reference.elbo_loss(*operands, reduction=reduction, return_terms=True)
    for a, b in zip(ours, reference, strict=True):
        assert a.dtype == b.dtype
        assert_loss_close(a, b)
