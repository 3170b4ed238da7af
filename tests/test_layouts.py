"""The same values at any strides: results depend on what is in the tensors, not on where."""

from __future__ import annotations

import pytest
import torch
from helpers import eager
from helpers.inputs import images, key_of, keys_of, latents
from helpers.layouts import LAYOUTS
from helpers.tolerances import between_kernels, loss_error

import vae_fused as vf

SHAPES = [(4, 6), (3, 4, 5), (4, 6, 8, 5), (2, 4, 3, 4, 3)]
DTYPES = [torch.float32, torch.bfloat16, torch.float64]
on_layouts = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
on_shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)
on_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def strided_leaves(tensors, layout, other=None):
    """Leaves at the layout, the second at ``other``; and contiguous leaves with the same values."""
    layouts = [layout, other or layout] * 2
    strided = [arrange(t).detach() for arrange, t in zip(layouts, tensors, strict=False)]
    copies = [t.clone(memory_format=torch.contiguous_format) for t in strided]
    return [t.requires_grad_() for t in strided], [t.requires_grad_() for t in copies]


def compare(function, tensors, layout, other=None, exact=True):
    strided, copies = strided_leaves(tensors, layout, other)
    outputs = [function(*leaves) for leaves in (strided, copies)]
    outputs = [o if isinstance(o, tuple) else (o,) for o in outputs]
    for a, b in zip(*outputs, strict=True):
        # Sums may add in another order: the fixed one of this layout.
        tolerance = between_kernels(a.dtype, a.device) if exact else dict(rtol=loss_error(a.dtype, a.device), atol=0)
        torch.testing.assert_close(a, b, **tolerance)
    weights = [torch.randn(o.shape, dtype=o.dtype).to(o.device) for o in outputs[0]]
    gradients = [torch.autograd.grad(o, leaves, weights) for o, leaves in zip(outputs, (strided, copies), strict=True)]
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, **between_kernels(a.dtype, a.device))


@on_layouts
@on_shapes
@on_dtypes
@pytest.mark.parametrize("num_samples", [None, 3])
def test_reparameterize(device, layout, shape, dtype, num_samples):
    for key in (key_of(4, 9, device), keys_of(list(range(shape[0])), device)):
        compare(
            lambda m, v, k=key: vf.reparameterize(m, v, num_samples=num_samples, key=k),
            latents(shape, dtype, device),
            layout,
        )


@on_layouts
@on_shapes
@on_dtypes
def test_reparameterize_with_kl(device, layout, shape, dtype):
    compare(
        lambda m, v: vf.reparameterize_with_kl(m, v, key=key_of(4, 9, device)), latents(shape, dtype, device), layout
    )


@on_layouts
@on_shapes
@on_dtypes
@pytest.mark.parametrize("reduction", ["batchmean", "sample", "none"])
def test_kl_divergence(device, layout, shape, dtype, reduction):
    operands = (*latents(shape, dtype, device), *latents(shape, dtype, device))
    exact = reduction == "none"
    compare(lambda m, v: vf.kl_divergence(m, v, reduction=reduction), operands[:2], layout, exact=exact)
    compare(lambda *o: vf.kl_divergence(*o, reduction=reduction), operands, layout, exact=exact)


@on_layouts
@on_shapes
@on_dtypes
@pytest.mark.parametrize("reduction", ["batchmean", "sample"])
def test_elbo_loss(device, layout, shape, dtype, reduction):
    operands = (*images(shape, dtype, device), *latents(shape, dtype, device))
    compare(lambda *o: vf.elbo_loss(*o, reduction=reduction), operands, layout, exact=False)


@on_layouts
@pytest.mark.parametrize("other", LAYOUTS.values(), ids=LAYOUTS)
def test_operands_of_different_layouts(device, layout, other):
    operands = latents((4, 6, 4, 5), torch.float32, device)
    compare(lambda m, v: vf.reparameterize_with_kl(m, v, key=key_of(4, 9, device)), operands, layout, other)
    compare(lambda m, v: vf.elbo_loss(m, v, m, v), operands, layout, other, exact=False)


@on_layouts
def test_incoming_gradient_of_any_layout(device, layout):
    mu, logvar = latents((4, 6, 4, 5), torch.float32, device)
    arranged = layout(torch.randn(4, 6, 4, 5).to(device))
    samples = torch.stack([arranged] * 3)
    expanded = arranged.expand(3, *arranged.shape)
    permuted = torch.randn(4, 6, 4, 5, 3).to(device).movedim(-1, 0)
    key = key_of(4, 9, device)
    for gradient in (samples, expanded, permuted):
        results = []
        for incoming in (gradient, gradient.contiguous()):
            leaves = eager.leaves(mu, logvar)
            results.append(torch.autograd.grad(vf.reparameterize(*leaves, num_samples=3, key=key), leaves, incoming))
        for a, b in zip(*results, strict=True):
            assert torch.equal(a, b)
    for function in (
        lambda m, v: vf.reparameterize(m, v, key=key),
        lambda m, v: vf.kl_divergence(m, v, reduction="none"),
    ):
        results = []
        for incoming in (arranged, arranged.contiguous()):
            leaves = eager.leaves(mu, logvar)
            results.append(torch.autograd.grad(function(*leaves), leaves, incoming))
        for a, b in zip(*results, strict=True):
            assert torch.equal(a, b)


def test_halves_of_one_encoder_output(device):
    # The gradient of both halves meets in the one tensor they came from.
    heads = torch.randn(4, 6, 3, 5, dtype=torch.float64).to(device)
    key = key_of(4, 9, device)
    for memory_format in (torch.contiguous_format, torch.channels_last):
        leaf = heads.clone(memory_format=memory_format).requires_grad_()
        z, kl = vf.reparameterize_with_kl(*leaf.chunk(2, dim=1), key=key)
        (z.sum() + kl.sum()).backward()
        mu, logvar = heads.chunk(2, dim=1)
        noise = vf.standard_normal(key, mu.shape, dtype=torch.float64)
        expected = torch.cat([1 + mu, 0.5 * noise * torch.exp(0.5 * logvar) + 0.5 * torch.expm1(logvar)], dim=1)
        torch.testing.assert_close(leaf.grad, expected, rtol=1e-12, atol=1e-12)


@on_layouts
@on_shapes
def test_memory_format_of_z(device, layout, shape):
    mu, logvar = (layout(t) for t in latents(shape, torch.float32, device))
    expected = torch.empty_like(mu).stride()
    assert vf.reparameterize(mu, logvar).stride() == expected
    assert vf.reparameterize_with_kl(mu, logvar)[0].stride() == expected
    samples = vf.reparameterize(mu, logvar, num_samples=3)
    assert samples.stride() == (mu.numel(), *expected)
    assert samples.shape == (3, *shape)


def test_channels_last_stays_channels_last(device):
    mu, logvar = (t.to(memory_format=torch.channels_last) for t in latents((2, 3, 4, 5), torch.float32, device))
    leaves = eager.leaves(mu, logvar)
    z, kl = vf.reparameterize_with_kl(*leaves)
    assert z.is_contiguous(memory_format=torch.channels_last)
    (z.sum() + kl.sum()).backward()
    vf.kl_divergence(*leaves).backward()
    assert all(leaf.grad.is_contiguous(memory_format=torch.channels_last) for leaf in leaves)
    assert vf.kl_divergence(mu, logvar, reduction="none").is_contiguous(memory_format=torch.channels_last)
    recon, target = eager.leaves(mu, logvar)
    vf.elbo_loss(recon, target, mu, logvar).backward()
    assert recon.grad.is_contiguous(memory_format=torch.channels_last)


def test_more_unrelated_dimensions_than_a_kernel_follows(device):
    mu = torch.zeros((2,) * 14, device=device).permute(*range(13, -1, -1))
    logvar = torch.zeros((2,) * 14, device=device)
    if vf.build_info()["extension"]:
        with pytest.raises(ValueError, match="unrelated strides: make the tensors contiguous"):
            vf.reparameterize(mu, logvar)
    assert vf.reparameterize(mu.contiguous(), logvar).shape == (2,) * 14
