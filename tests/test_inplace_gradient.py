"""The gradient of the reconstruction in its own memory: its values, and the memory that is not allocated."""

from __future__ import annotations

import pytest
import torch
from helpers import eager
from helpers.inplace import SHAPE, gradients_of, operands_of, produced
from helpers.inputs import images, key_of, latents
from helpers.memory import peak_bytes
from torch import nn
from torch.utils.checkpoint import checkpoint

import vae_fused as vf
from vae_fused._library import ops

pytestmark = pytest.mark.skipif(not vf.build_info()["extension"], reason="built without the extension")

SCALAR_REDUCTIONS = ("batchmean", "sum", "mean")
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def both_ways(device, dtype, factor=1.0, shape=SHAPE, prepare=produced, **options):
    """Loss, terms and gradients: ordinary, in place."""
    results = []
    for inplace in (False, True):
        x, target, mu, logvar = operands_of(device, dtype, shape)
        terms = vf.elbo_loss(prepare(x), target, mu, logvar, beta=0.5, return_terms=True, inplace=inplace, **options)
        results.append([*terms, *gradients_of((x, mu, logvar), terms.loss, factor)])
    return results


@pytest.mark.parametrize("reduction", SCALAR_REDUCTIONS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_results_are_the_ordinary_ones_to_the_bit(device, dtype, reduction):
    for shape in (SHAPE, (2, 3000), (3, 1)):
        ordinary, inplace = both_ways(device, dtype, shape=shape, reduction=reduction)
        assert all(torch.equal(one, other) for one, other in zip(inplace, ordinary, strict=True))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("factor", [-3.7, 65536.0 * 4])
def test_other_incoming_gradients(device, dtype, factor):
    # One rounding more: the gradient is rounded to its dtype before it is multiplied. The factor itself is not, or
    # that of loss scaling would be infinite in float16.
    ordinary, inplace = both_ways(device, dtype, factor=factor, reduction="mean")
    tolerance = 3 * torch.finfo(dtype).eps
    for one, other in zip(inplace, ordinary, strict=True):
        assert one.isfinite().all()
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance * abs(factor) * 1e-3)


@pytest.mark.parametrize(
    "prepare",
    [
        pytest.param(lambda x: produced(x).transpose(1, 2).contiguous().transpose(1, 2), id="transposed"),
        pytest.param(lambda x: torch.cat([x, x], dim=1)[:, :3], id="half of the channels"),
        pytest.param(lambda x: torch.stack([x, x], dim=-1)[..., 1], id="every second element"),
        pytest.param(lambda x: torch.cat([x.flatten().new_zeros(1), x.flatten()])[1:].view(x.shape), id="misaligned"),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_layouts(device, dtype, prepare):
    ordinary, inplace = both_ways(device, dtype, prepare=prepare, shape=(4, 3, 700))
    assert all(torch.equal(one, other) for one, other in zip(inplace, ordinary, strict=True))


def test_large_ones_on_all_threads(device):
    # Large enough for stores past the caches and for several threads.
    ordinary, inplace = both_ways(device, torch.float32, shape=(8, 200_001))
    assert all(torch.equal(one, other) for one, other in zip(inplace, ordinary, strict=True))


def test_bytes_and_mixed_dtypes(device):
    for target_dtype, options in [(torch.uint8, {"target_scale": 1 / 255}), (torch.float64, {})]:
        results = []
        for inplace in (False, True):
            x, target, mu, logvar = operands_of(device, torch.float32)
            target = (target * 100).to(target_dtype)
            loss = vf.elbo_loss(produced(x), target, mu, logvar, inplace=inplace, **options)
            results.append([loss, *gradients_of((x, mu, logvar), loss)])
        assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


@pytest.mark.parametrize("reduction", ["batchmean", "sum"])
@pytest.mark.parametrize("tensor_beta", [False, True])
@pytest.mark.parametrize("factor", [1.0, -2.5])
def test_given_kl_and_tensor_beta(device, reduction, tensor_beta, factor):
    results = []
    for inplace in (False, True):
        x, target, mu, logvar = operands_of(device)
        beta = torch.tensor(0.7, dtype=torch.float64, device=device, requires_grad=True) if tensor_beta else 0.7
        kl = vf.reparameterize_with_kl(mu, logvar, key=key_of(1, 2, device))[1]
        loss = vf.elbo_loss(produced(x), target, kl=kl, beta=beta, reduction=reduction, inplace=inplace)
        leaves = (x, mu, logvar, beta) if tensor_beta else (x, mu, logvar)
        results.append([loss, *gradients_of(leaves, loss, factor)])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-14, atol=0)


def test_beta_with_the_latent_pair(device):
    results = []
    for inplace in (False, True):
        x, target, mu, logvar = operands_of(device)
        beta = torch.tensor(0.7, dtype=torch.float64, device=device, requires_grad=True)
        loss = vf.elbo_loss(produced(x), target, mu, logvar, beta=beta, inplace=inplace)
        results.append([loss, *gradients_of((x, mu, logvar, beta), loss)])
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_behind_a_linear_layer(device, dtype):
    results = []
    for inplace in (False, True):
        torch.manual_seed(7)
        decoder = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 40)).to(device, dtype)
        criterion = vf.FusedELBOLoss(0.5, inplace=inplace)
        mu, logvar = eager.leaves(*latents((8, 6), dtype, device))
        target, _ = images((8, 40), dtype, device)
        loss = criterion(decoder(mu), target, mu, logvar)
        loss.backward()
        results.append([loss, mu.grad, logvar.grad, *(p.grad for p in decoder.parameters())])
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


@pytest.mark.parametrize("factor", [1.0, 3.0])
def test_the_gradient_lies_where_recon_lay(device, factor):
    x, target, mu, logvar = operands_of(device)
    recon = produced(x)
    places = []
    recon.register_hook(lambda gradient: places.append(gradient.data_ptr()))
    version = recon._version
    loss = vf.elbo_loss(recon, target, mu, logvar, inplace=True)
    assert recon._version == version + 1
    (factor * loss).backward()
    assert places == [recon.data_ptr()]
    torch.testing.assert_close(recon.detach(), factor * 2 * (x.detach() - target) / len(x))


@pytest.mark.parametrize("factor", [1.0, 3.0])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_nothing_of_its_size_is_allocated(dtype, factor):
    x, target, mu, logvar = operands_of("cpu", dtype, (8, 100_000))

    def allocated(inplace):
        recon = produced(x)
        return peak_bytes(lambda: gradients_of(recon, vf.elbo_loss(recon, target, mu, logvar, inplace=inplace), factor))

    assert allocated(inplace=False) >= x.nbytes
    assert allocated(inplace=True) < 10_000


def test_gradients_of_some_inputs_first(device):
    x, target, mu, logvar = operands_of(device)
    expected = gradients_of((x, mu, logvar), vf.elbo_loss(x, target, mu, logvar))
    loss = vf.elbo_loss(produced(x), target, mu, logvar, inplace=True)
    for leaf, gradient in zip((mu, x, logvar), (expected[1], expected[0], expected[2]), strict=True):
        assert torch.equal(torch.autograd.grad(loss, leaf, retain_graph=True)[0], gradient)


def test_only_the_latents_below_the_operator(device):
    # The operator itself, without autograd.
    x, target, mu, logvar = (t.detach() for t in operands_of(device))
    expected = ops.elbo_loss_with_gradients.default(
        (True, True, False, False, False), x, target, mu, logvar, None, 0.5, None, "mse", "sum"
    )
    recon = x.clone()
    mask = (True, False, False, False)
    results = ops.elbo_loss_.default(mask, recon, target, mu, logvar, None, 0.5, None, "mse", "sum")
    assert recon._version == 1
    assert torch.equal(recon, expected[3])
    assert torch.equal(results[3], expected[4])
    assert results[4] is None
    assert all(torch.equal(one, other) for one, other in zip(results[:3], expected[:3], strict=True))


def test_a_copy_on_write_clone_gets_memory_of_its_own(device):
    x, target, mu, logvar = (t.detach() for t in operands_of(device))
    before, recon = x.clone(), torch._lazy_clone(x)
    ops.elbo_loss_.default((False,) * 4, recon, target, mu, logvar, None, 0.5, None, "mse", "sum")
    assert torch.equal(x, before)
    assert not torch.equal(recon, before)


def test_checkpointing_the_decoder_and_the_loss(device):
    x, target, mu, logvar = operands_of(device)
    expected = gradients_of((x, mu, logvar), vf.elbo_loss(x * 2.0, target, mu, logvar))

    def step(x, mu, logvar):
        return vf.elbo_loss(x * 2.0, target, mu, logvar, inplace=True)

    loss = checkpoint(step, x, mu, logvar, use_reentrant=False)
    assert all(torch.equal(a, b) for a, b in zip(gradients_of((x, mu, logvar), loss), expected, strict=True))


def test_checkpointing_the_loss_alone(device):
    # It saves nothing, so nothing is computed again.
    x, target, mu, logvar = operands_of(device)
    kl = vf.kl_divergence(mu, logvar, reduction="sample").detach().requires_grad_()
    expected = gradients_of((x, kl), vf.elbo_loss(x, target, kl=kl))
    loss = checkpoint(lambda recon: vf.elbo_loss(recon, target, kl=kl, inplace=True), produced(x), use_reentrant=False)
    assert all(torch.equal(a, b) for a, b in zip(gradients_of((x, kl), loss), expected, strict=True))
