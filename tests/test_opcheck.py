"""torch.library.opcheck for every overload of every operator and every backward operator."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from helpers.gaussian import moments_of
from helpers.inputs import images, key_of, keys_of, latents
from helpers.layouts import LAYOUTS
from helpers.operators import UNTRACED

import vae_fused as vf
from vae_fused._library import ops

pytestmark = pytest.mark.skipif(not vf.build_info()["extension"], reason="built without the extension")

SHAPE = (2, 3, 4, 5)
operands_like = pytest.mark.parametrize(
    ("dtype", "layout"),
    [
        (torch.float32, LAYOUTS["contiguous"]),
        (torch.bfloat16, LAYOUTS["channels_last_half"]),
        (torch.float64, LAYOUTS["expanded_over_events"]),
    ],
    ids=["float32 contiguous", "bfloat16 channels-last half", "float64 expanded"],
)


@pytest.fixture
def opcheck(dtype):
    """With all its tests in bfloat16, whose formulas have every cast, and without tracing in the other dtypes."""
    if dtype == torch.bfloat16:
        return torch.library.opcheck
    return partial(torch.library.opcheck, test_utils=UNTRACED)


def leaves(layout, *tensors):
    return [layout(t).detach().requires_grad_() for t in tensors]


def wide(dtype):
    return torch.float64 if dtype == torch.float64 else torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("per_item", [False, True])
def test_standard_normal(opcheck, device, dtype, per_item):
    key = keys_of([1, 2], device) if per_item else key_of(3, 4, device)
    opcheck(ops.standard_normal.default, (key, [2, 3, 5]), {"dtype": dtype})


@operands_like
@pytest.mark.parametrize("per_item", [False, True])
@pytest.mark.parametrize("num_samples", [None, 3])
def test_reparameterize(opcheck, device, dtype, layout, per_item, num_samples):
    operands = leaves(layout, *latents(SHAPE, dtype, device))
    key = keys_of([1, 2], device) if per_item else key_of(3, 4, device)
    opcheck(ops.reparameterize.default, (*operands, key), {"num_samples": num_samples})
    opcheck(ops.reparameterize.generator, tuple(operands), {"num_samples": num_samples})


@operands_like
@pytest.mark.parametrize("per_item", [False, True])
def test_reparameterize_with_kl(opcheck, device, dtype, layout, per_item):
    operands = leaves(layout, *latents(SHAPE, dtype, device))
    key = keys_of([1, 2], device) if per_item else key_of(3, 4, device)
    opcheck(ops.reparameterize_with_kl.default, (*operands, key))
    opcheck(ops.reparameterize_with_kl.generator, tuple(operands))


@operands_like
@pytest.mark.parametrize(("num_samples", "with_kl"), [(None, False), (None, True), (3, False)])
def test_reparameterize_backward(opcheck, device, dtype, layout, num_samples, with_kl):
    mu, logvar = leaves(layout, *latents(SHAPE, dtype, device))
    grad_z = torch.randn(SHAPE if num_samples is None else (num_samples, *SHAPE)).to(device, dtype).requires_grad_()
    grad_kl = torch.randn(2, dtype=wide(dtype)).to(device).requires_grad_() if with_kl else None
    mask = [with_kl, True]
    opcheck(
        ops.reparameterize_backward.default,
        (grad_z, grad_kl, mu if with_kl else None, logvar, key_of(3, 4, device), num_samples, mask),
    )


@operands_like
@pytest.mark.parametrize("reduction", ["batchmean", "sample", "none"])
@pytest.mark.parametrize("prior", [None, (4, 1), SHAPE], ids=str)
def test_kl_divergence(opcheck, device, dtype, layout, reduction, prior):
    operands = leaves(layout, *latents(SHAPE, dtype, device))
    priors = [None, None] if prior is None else leaves(lambda t: t, *latents(prior, dtype, device))
    opcheck(ops.kl_divergence.default, (*operands, *priors, reduction))


@operands_like
@pytest.mark.parametrize("reduction", ["batchmean", "sample", "none"])
@pytest.mark.parametrize("prior", [None, SHAPE], ids=str)
def test_kl_divergence_backward(opcheck, device, dtype, layout, reduction, prior):
    operands = leaves(layout, *latents(SHAPE, dtype, device))
    priors = [None, None] if prior is None else leaves(layout, *latents(prior, dtype, device))
    shape = {"batchmean": (), "sample": SHAPE[:1], "none": SHAPE}[reduction]
    grad = torch.randn(shape, dtype=wide(dtype)).to(device).requires_grad_()
    opcheck(ops.kl_divergence_backward.default, (grad, [True] * 4, *operands, *priors, reduction))


PACKED_SHAPE = (2, 6, 4, 5)
INFINITE = (-math.inf, math.inf)


@operands_like
@pytest.mark.parametrize("per_item", [False, True])
@pytest.mark.parametrize(("dim", "clamp"), [(1, (-0.5, 0.5)), (-2, INFINITE)], ids=str)
def test_packed_reparameterize_with_kl(opcheck, device, dtype, layout, per_item, dim, clamp):
    (moments,) = leaves(layout, moments_of(PACKED_SHAPE, dtype, device))
    key = keys_of([1, 2], device) if per_item else key_of(3, 4, device)
    packing = {"dim": dim, "logvar_min": clamp[0], "logvar_max": clamp[1]}
    opcheck(ops.packed_reparameterize_with_kl.default, (moments, key), packing)
    opcheck(ops.packed_reparameterize_with_kl.generator, (moments,), packing)


@operands_like
@pytest.mark.parametrize("given", ["z", "kl", "both"])
def test_packed_reparameterize_backward(opcheck, device, dtype, layout, given):
    (moments,) = leaves(layout, moments_of(PACKED_SHAPE, dtype, device))
    grad_z = torch.randn(2, 3, 4, 5).to(device, dtype).requires_grad_() if given != "kl" else None
    grad_kl = torch.randn(2, dtype=wide(dtype)).to(device).requires_grad_() if given != "z" else None
    opcheck(
        ops.packed_reparameterize_backward.default,
        (grad_z, grad_kl, moments, key_of(3, 4, device), 1, -0.5, 0.5),
    )


@operands_like
@pytest.mark.parametrize("prior", [None, (2, 6, 4, 5), (2, 3, 8, 5)], ids=str)
def test_packed_kl_divergence(opcheck, device, dtype, layout, prior):
    (moments,) = leaves(layout, moments_of(PACKED_SHAPE, dtype, device))
    prior_dim = 2 if prior == (2, 3, 8, 5) else 1
    priors = [None] if prior is None else leaves(layout, moments_of(prior, dtype, device))
    arguments = (moments, *priors, 1, -0.5, 0.5, prior_dim, *INFINITE)
    opcheck(ops.packed_kl_divergence.default, arguments)
    grad = torch.randn(2, dtype=wide(dtype)).to(device).requires_grad_()
    opcheck(ops.packed_kl_divergence_backward.default, (grad, *arguments, [True, prior is not None]))


def objective(layout, dtype, device, given_kl):
    recon, target = leaves(layout, *images(SHAPE, dtype, device))
    if given_kl:
        return recon, target, None, None, torch.rand(2).to(device).requires_grad_()
    return recon, target, *leaves(layout, *latents(SHAPE, dtype, device)), None


@operands_like
@pytest.mark.parametrize("reduction", ["batchmean", "sample"])
@pytest.mark.parametrize("given_kl", [False, True])
@pytest.mark.parametrize("tensor_beta", [False, True])
def test_elbo_loss(opcheck, device, dtype, layout, reduction, given_kl, tensor_beta):
    beta = torch.tensor(0.5, device=device, requires_grad=True) if tensor_beta else None
    operands = objective(layout, dtype, device, given_kl)
    opcheck(ops.elbo_loss.default, (*operands, 0.5, beta, "mse", reduction))


@operands_like
@pytest.mark.parametrize("given_kl", [False, True])
def test_elbo_loss_with_gradients(opcheck, device, dtype, layout, given_kl):
    operands = [t if t is None else t.detach() for t in objective(layout, dtype, device, given_kl)]
    mask = [True, not given_kl, not given_kl, given_kl, False]
    opcheck(
        ops.elbo_loss_with_gradients.default, (mask, *operands, 0.5, None, "mse", "mean" if not given_kl else "sum")
    )


@operands_like
@pytest.mark.parametrize("reduction", ["batchmean", "sample"])
@pytest.mark.parametrize("given_kl", [False, True])
def test_elbo_loss_backward(opcheck, device, dtype, layout, reduction, given_kl):
    operands = objective(layout, dtype, device, given_kl)
    shape = SHAPE[:1] if reduction == "sample" else ()
    grad = torch.randn(shape, dtype=wide(dtype)).to(device).requires_grad_()
    mask = [True, True, not given_kl, not given_kl, given_kl, False]
    opcheck(ops.elbo_loss_backward.default, (grad, mask, *operands, 0.5, None, "mse", reduction))


@operands_like
@pytest.mark.parametrize("given_kl", [False, True])
def test_elbo_loss_backward_in_place(opcheck, device, dtype, layout, given_kl):
    operands = [t if t is None else t.detach() for t in objective(layout, dtype, device, given_kl)]
    recon, _, *latent = operands
    buffers = [t if t is None else torch.empty_like(t).zero_() for t in (recon, *latent)]
    grad = torch.tensor(2.0, dtype=wide(dtype), device=device)
    arguments = (grad, *buffers, None, *operands, 0.5, None, "mse", "batchmean")
    opcheck(ops.elbo_loss_backward_.default, arguments)


@operands_like
@pytest.mark.parametrize("given_kl", [False, True])
def test_elbo_loss_in_place(opcheck, device, dtype, layout, given_kl):
    recon, *operands = [t if t is None else t.detach() for t in objective(layout, dtype, device, given_kl)]
    recon = torch.empty_like(recon).copy_(recon)  # an expanded one cannot be overwritten
    mask = [not given_kl, not given_kl, given_kl, False]
    opcheck(ops.elbo_loss_.default, (mask, recon, *operands, 0.5, None, "mse", "sum" if given_kl else "mean"))


def test_every_operator_is_checked():
    names = {name.split("::")[1] for name in torch._C._dispatch_get_all_op_names() if name.startswith("vae_fused::")}
    assert names == {
        "standard_normal",
        "reparameterize",
        "reparameterize.generator",
        "reparameterize_with_kl",
        "reparameterize_with_kl.generator",
        "reparameterize_backward",
        "kl_divergence",
        "kl_divergence_backward",
        "packed_reparameterize_with_kl",
        "packed_reparameterize_with_kl.generator",
        "packed_reparameterize_backward",
        "packed_kl_divergence",
        "packed_kl_divergence_backward",
        "elbo_loss",
        "elbo_loss_with_gradients",
        "elbo_loss_",
        "elbo_loss_backward",
        "elbo_loss_backward_",
        # tests/test_linear_elbo_loss_operators.py
        "linear_reconstruction",
        "linear_reconstruction_with_gradients",
        "linear_reconstruction_backward",
        "scale_gradients_",
    }


@pytest.mark.parametrize("name", ["reparameterize", "reparameterize_with_kl", "packed_reparameterize_with_kl"])
def test_random_overloads_say_so(name):
    # Without the tag torch.compile recomputes them under activation checkpointing with other noise.
    tag = torch.Tag.nondeterministic_seeded
    assert tag in getattr(ops, name).generator.tags
    assert tag not in getattr(ops, name).default.tags
