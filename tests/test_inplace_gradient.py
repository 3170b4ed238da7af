"""The gradient of the reconstruction in its own memory: values, memory, and every way in which it must be refused."""

from __future__ import annotations

import re

import pytest
import torch
from helpers import eager
from helpers.inputs import images, key_of, latents
from helpers.memory import peak_bytes
from helpers.operators import fused_operators_in
from torch import nn
from torch.utils.checkpoint import checkpoint

import vae_fused as vf
from vae_fused._library import ops

pytestmark = pytest.mark.skipif(not vf.build_info()["extension"], reason="built without the extension")

SHAPE = (4, 3, 5)
SCALAR_REDUCTIONS = ("batchmean", "sum", "mean")
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
LEAF = "recon is a leaf that requires a gradient"


def operands_of(device, dtype=torch.float64, shape=SHAPE):
    """Leaves x, mu, logvar and the target, the same in every call."""
    torch.manual_seed(7)
    x, target = images(shape, dtype, device)
    x, mu, logvar = eager.leaves(x, *latents((shape[0], 6), dtype, device))
    return x, target, mu, logvar


def produced(x):
    """What a layer returns: the same numbers in new memory, and nobody saved it."""
    return x.add(0.0)


def gradients_of(leaves, loss, factor=1.0):
    return torch.autograd.grad(loss, leaves, grad_outputs=torch.tensor(factor, dtype=loss.dtype, device=loss.device))


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
        (True, True, False, False), x, target, mu, logvar, None, 0.5, None, "mse", "sum"
    )
    recon = x.clone()
    results = ops.elbo_loss_.default((True, False, False), recon, target, mu, logvar, None, 0.5, None, "mse", "sum")
    assert recon._version == 1
    assert torch.equal(recon, expected[3])
    assert torch.equal(results[3], expected[4])
    assert results[4] is None
    assert all(torch.equal(one, other) for one, other in zip(results[:3], expected[:3], strict=True))


def test_checkpointing_the_decoder_and_the_loss(device):
    x, target, mu, logvar = operands_of(device)
    expected = gradients_of((x, mu, logvar), vf.elbo_loss(x * 2.0, target, mu, logvar))

    def step(x, mu, logvar):
        return vf.elbo_loss(x * 2.0, target, mu, logvar, inplace=True)

    loss = checkpoint(step, x, mu, logvar, use_reentrant=False)
    assert all(torch.equal(a, b) for a, b in zip(gradients_of((x, mu, logvar), loss), expected, strict=True))


# ---- refused -------------------------------------------------------------------------------------------------------


def refused(recon, target, mu, logvar, error, message, **options):
    """The error comes before anything has changed."""
    copy, version = recon.detach().clone(), recon._version
    with pytest.raises(error, match=f"^{re.escape(message)}"):
        vf.elbo_loss(recon, target, mu, logvar, inplace=True, **options)
    assert torch.equal(recon.detach(), copy)
    assert recon._version == version


def test_leaf(device):
    x, target, mu, logvar = operands_of(device)
    refused(x, target, mu, logvar, ValueError, f"{LEAF}, inplace=True would overwrite it")
    refused(x.view(4, 15), target.view(4, 15), mu, logvar, ValueError, f"{LEAF}, or a view of one, inplace=True")


def test_target_that_requires_a_gradient(device):
    x, target, mu, logvar = operands_of(device)
    refused(produced(x), target.requires_grad_(), mu, logvar, ValueError, "target must not require a gradient with")


def test_expanded(device):
    x, target, mu, logvar = operands_of(device)
    message = "recon has elements that share memory (is it expanded?), inplace=True would overwrite them"
    for recon in (produced(x)[:1].expand(SHAPE), produced(x)[..., :1].expand(SHAPE)):
        refused(recon, target, mu, logvar, ValueError, message)
    overlapping = produced(x.flatten()).as_strided(SHAPE, (4, 2, 1))
    refused(overlapping, target, mu, logvar, ValueError, message)


def test_shared_memory(device):
    x, _, mu, logvar = operands_of(device)
    recon = produced(x)
    refused(recon, recon.detach(), mu, logvar, ValueError, "recon shares memory with target, inplace=True would")
    pair = torch.cat([x, x])
    refused(pair[:4], pair.detach()[2:6], mu, logvar, ValueError, "recon shares memory with target, inplace=True")
    apart = torch.cat([x, x])
    vf.elbo_loss(apart[:4], apart.detach()[4:], mu, logvar, inplace=True)
    latent = produced(x)
    refused(latent, x.detach(), mu=latent, logvar=x, error=ValueError, message="recon shares memory with mu, inplace")
    refused(latent, x.detach(), mu=x, logvar=latent, error=ValueError, message="recon shares memory with logvar, in")
    column = torch.rand(4, 1, device=device, requires_grad=True).add(0.0)
    zero = torch.zeros(4, 1, device=device)
    refused(column, zero, None, None, ValueError, "recon shares memory with kl, inplace", kl=column[:, 0])
    refused(column, zero, zero, zero, ValueError, "recon shares memory with beta, inplace", beta=column[0, 0])


@pytest.mark.parametrize("api", [vf, vf.reference], ids=["kernel", "reference"])
def test_arguments(device, api):
    x, target, mu, logvar = operands_of(device)
    message = "^reduction must not be sample with inplace=True: each item has an incoming gradient of its own, which is"
    with pytest.raises(ValueError, match=message):
        api.elbo_loss(produced(x), target, mu, logvar, reduction="sample", inplace=True)
    with pytest.raises(TypeError, match=r"^inplace must be a bool, got int$"):
        api.elbo_loss(produced(x), target, mu, logvar, inplace=1)
    api.elbo_loss(produced(x), target, mu, logvar, reduction="sample", inplace=False)
    with pytest.raises(ValueError, match=message):
        ops.elbo_loss_.default(
            (True, True, False), x.detach(), target, mu.detach(), logvar.detach(), None, 1.0, None, "mse", "sample"
        )


def test_module():
    with pytest.raises(ValueError, match=r"^reduction must not be sample with inplace=True"):
        vf.FusedELBOLoss(reduction="sample", inplace=True)
    with pytest.raises(TypeError, match=r"^inplace must be a bool, got str$"):
        vf.FusedELBOLoss(inplace="yes")
    assert repr(vf.FusedELBOLoss(inplace=True)).endswith("reduction='batchmean', inplace=True)")
    assert "inplace" not in repr(vf.FusedELBOLoss())
    with pytest.raises(TypeError, match="positional"):
        vf.FusedELBOLoss(1.0, "mse", "batchmean", True)


def test_second_backward(device):
    x, target, mu, logvar = operands_of(device)
    loss = vf.elbo_loss(produced(x), target, mu, logvar, inplace=True)
    loss.backward(retain_graph=True)
    given = x.grad.clone()
    with pytest.raises(RuntimeError, match=r"given away by an earlier backward.*inplace=False"):
        loss.backward()
    assert torch.equal(x.grad, given)


def test_second_derivatives(device):
    x, target, mu, logvar = operands_of(device)
    loss = vf.elbo_loss(produced(x), target, mu, logvar, inplace=True)
    with pytest.raises(RuntimeError, match=r"inplace=True is differentiable once.*inplace=False for create_graph=True"):
        torch.autograd.grad(loss, (x, mu), create_graph=True)


def test_batch_of_incoming_gradients(device):
    x, target, mu, logvar = operands_of(device)
    loss = vf.elbo_loss(produced(x), target, mu, logvar, inplace=True)
    with pytest.raises(RuntimeError, match="inplace=True is differentiable once"):
        torch.autograd.grad(loss, x, torch.ones(3, dtype=loss.dtype, device=device), is_grads_batched=True)


def test_layer_that_saved_its_output(device):
    x, target, mu, logvar = operands_of(device)
    loss = vf.elbo_loss(torch.sigmoid(x), target, mu, logvar, inplace=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_earlier_use_that_saved_it(device):
    x, target, mu, logvar = operands_of(device)
    recon = produced(x)
    penalty = recon.square().sum()
    loss = vf.elbo_loss(recon.view(4, 15), target.view(4, 15), mu, logvar, inplace=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        (loss + penalty).backward()


def test_recon_modified_after_the_call(device):
    x, target, mu, logvar = operands_of(device)
    recon = produced(x)
    loss = vf.elbo_loss(recon, target, mu, logvar, inplace=True)
    recon.detach().clamp_(0, 1)
    with pytest.raises(RuntimeError, match="recon was modified by an inplace operation after elbo_loss"):
        loss.backward()


def test_two_losses_of_one_recon(device):
    x, target, mu, logvar = operands_of(device)
    recon = produced(x)
    first = vf.elbo_loss(recon, target, mu, logvar, inplace=True)
    second = vf.elbo_loss(recon, target, mu, logvar, inplace=True)
    with pytest.raises(RuntimeError, match="recon was modified by an inplace operation after elbo_loss"):
        (first + second).backward()


def test_checkpointing_the_loss_alone(device):
    # Recomputed for the sake of what it saved, the loss would read its own gradient as the reconstruction.
    x, target, mu, logvar = operands_of(device)
    kl = vf.reparameterize_with_kl(mu, logvar, key=key_of(1, 2, device))[1]
    for by_argument in (True, False):  # of the first autograd itself knows, of the second the objective
        recon = produced(x)

        def loss_of(given, recon=None if by_argument else recon):
            return vf.elbo_loss(given if recon is None else recon, target, kl=kl, inplace=True)

        loss = checkpoint(loss_of, recon if by_argument else kl, use_reentrant=False)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward(retain_graph=True)


# ---- no effect -----------------------------------------------------------------------------------------------------


def assert_untouched(recon, function):
    copy, version = recon.detach().clone(), recon._version
    names = fused_operators_in(function)
    assert "elbo_loss_" not in names
    result = function()
    assert torch.equal(recon.detach(), copy)
    assert recon._version == version
    return result


def test_no_effect_without_a_gradient(device):
    x, target, mu, logvar = operands_of(device)
    recon = produced(x)
    with torch.no_grad():
        assert_untouched(recon, lambda: vf.elbo_loss(recon, target, mu, logvar, inplace=True))
    with torch.inference_mode():
        assert_untouched(recon, lambda: vf.elbo_loss(recon, target, mu, logvar, inplace=True))
    fixed = x.detach()
    loss = assert_untouched(fixed, lambda: vf.elbo_loss(fixed, target, mu, logvar, inplace=True))
    for _ in range(2):  # the ordinary loss: any number of backwards
        loss.backward(retain_graph=True)


def test_no_effect_in_transforms(device):
    x, target, mu, logvar = (t.detach() for t in operands_of(device))
    expected = torch.func.grad(lambda x: vf.elbo_loss(x, target, mu, logvar))(x)

    def inplace(x):
        recon = produced(x)
        loss = vf.elbo_loss(recon, target, mu, logvar, inplace=True)
        return loss, recon

    gradient, recon = torch.func.grad(inplace, has_aux=True)(x)
    assert torch.equal(gradient, expected)
    assert torch.equal(recon, x)


def test_no_effect_in_dispatch_modes(device):
    x, target, mu, logvar = operands_of(device)
    names = fused_operators_in(lambda: vf.elbo_loss(produced(x), target, mu, logvar, inplace=True).backward())
    assert set(names) == {"elbo_loss", "elbo_loss_backward"}


def test_no_effect_on_subclasses(device):
    class Named(torch.Tensor):
        pass

    x, target, mu, logvar = operands_of(device)
    recon = produced(x).as_subclass(Named)
    assert_untouched(recon, lambda: vf.elbo_loss(recon, target, mu, logvar, inplace=True))


def test_no_effect_in_a_compiled_graph(device):
    x, target, mu, logvar = operands_of(device)
    expected = gradients_of((x, mu, logvar), vf.elbo_loss(x, target, mu, logvar))

    @torch.compile(backend="aot_eager", fullgraph=True)
    def step(x, mu, logvar):
        recon = produced(x)
        return vf.elbo_loss(recon, target, mu, logvar, inplace=True), recon

    loss, recon = step(x, mu, logvar)
    assert torch.equal(recon, x)
    for _ in range(2):
        gradients = torch.autograd.grad(loss, (x, mu, logvar), retain_graph=True)
        for gradient, true in zip(gradients, expected, strict=True):
            torch.testing.assert_close(gradient, true, rtol=1e-12, atol=1e-14)
