"""The output layer fused into the loss: values and gradients of the layer followed by the loss, for every chunk."""

from __future__ import annotations

import pytest
import torch
from helpers import eager
from helpers.output_layer import NAMES, copies, gradients, in_two_steps, operands
from helpers.tolerances import HALF_TYPES, assert_as_good_as_eager

import vae_fused as vf
from vae_fused._arguments_linear import LINEAR_RECON_LOSSES

REDUCTIONS = eager.REDUCTIONS
ROWS = [(6,), (3, 4), (2, 3, 2)]
EXACT = {"rtol": 1e-12, "atol": 1e-14}


def assert_same_gradients(ours, expected):
    # An element may be all cancellation: a sum of products, off by the rounding of its terms.
    for got, value in zip(ours, expected, strict=True):
        largest = value.abs().max().item() if value.numel() else 0.0
        torch.testing.assert_close(got, value, rtol=1e-12, atol=1e-14 * max(1.0, largest), equal_nan=True)


def assert_equal(leaves, expected_leaves=None, settings=None, **ours):
    """The fused loss of these leaves against the two steps, with all gradients."""
    settings = settings or {}
    theirs = copies(leaves) if expected_leaves is None else expected_leaves
    terms = vf.linear_elbo_loss(**leaves, **settings, **ours, return_terms=True)
    expected = in_two_steps(**theirs, **settings, return_terms=True)
    for got, value in zip(terms, expected, strict=True):
        torch.testing.assert_close(got, value, **EXACT)
    assert_same_gradients(gradients(terms.loss, leaves), gradients(expected.loss, theirs))


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("rows", ROWS, ids=str)
@pytest.mark.parametrize("chunk", [None, 1, 2, 5, 100])
def test_equals_the_layer_and_the_loss(device, rows, reduction, chunk):
    assert_equal(operands(rows, device=device), settings={"reduction": reduction, "beta": 0.7}, chunk=chunk)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("rows", ROWS, ids=str)
@pytest.mark.parametrize("recon_loss", LINEAR_RECON_LOSSES)
def test_every_term(device, rows, recon_loss, reduction):
    leaves = operands(rows, device=device)
    settings = {"recon_loss": recon_loss, "reduction": reduction, "beta": 0.7}
    assert_equal(leaves, settings=settings, chunk=5)
    with torch.no_grad():
        leaves["target"].copy_(torch.rand_like(leaves["target"]))  # as of cross entropy
    assert_equal(leaves, settings=settings, chunk=5)


@pytest.mark.parametrize("reduction", ["mean", "sample"])
def test_chunks_of_the_default_size(device, reduction):
    # 300 rows of 0.5 MiB are three chunks of at least 100.
    leaves = operands((300,), (2, 1 << 16), device=device)
    assert_equal(leaves, settings={"reduction": reduction})


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_no_bias(device, reduction):
    leaves = operands((3, 4), device=device)
    del leaves["bias"]
    theirs = copies(leaves)
    loss = vf.linear_elbo_loss(**leaves, bias=None, reduction=reduction, chunk=5)
    expected = in_two_steps(**theirs, bias=None, reduction=reduction)
    torch.testing.assert_close(loss, expected, **EXACT)
    assert_same_gradients(gradients(loss, leaves), gradients(expected, theirs))


@pytest.mark.parametrize("reduction", ["batchmean", "sum", "sample"])
def test_given_kl_and_a_tensor_beta(device, reduction):
    leaves = operands(device=device)
    del leaves["mu"], leaves["logvar"]
    leaves["kl"] = torch.rand(6, dtype=torch.float64).to(device).requires_grad_()
    leaves["beta"] = torch.tensor(0.3, dtype=torch.float64, device=device, requires_grad=True)
    assert_equal(leaves, settings={"reduction": reduction}, chunk=4)


def strided(layout, tensor):
    return layout(tensor.detach()).requires_grad_()


LAYOUTS = {
    "transposed": lambda t: t.transpose(0, -1).contiguous().transpose(0, -1),
    "every second feature": lambda t: t.repeat_interleave(2, -1)[..., ::2],
    "every second row": lambda t: t.repeat_interleave(2, 0)[::2],
    "expanded over rows": lambda t: t[:1].expand_as(t),
    "expanded over features": lambda t: t[..., :1].expand_as(t),
}


@pytest.mark.parametrize("rows", [(6,), (3, 4)], ids=str)
@pytest.mark.parametrize("name", ["hidden", "weight", "target"])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("reduction", ["mean", "sample"])
def test_layouts(device, rows, name, layout, reduction):
    leaves = operands(rows, device=device)
    leaves[name] = strided(layout, leaves[name])
    contiguous = {n: t.detach().contiguous().requires_grad_() for n, t in leaves.items()}
    assert_equal(leaves, contiguous, settings={"reduction": reduction}, chunk=5)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(
    ("rows", "features"),
    [((0,), (5, 7)), ((0, 3), (5, 7)), ((3, 0), (5, 7)), ((3,), (0, 7)), ((3,), (5, 0)), ((3,), (5, 1))],
    ids=str,
)
def test_empty_dimensions(device, rows, features, reduction):
    leaves = operands(rows, features, device=device)
    theirs = copies(leaves)
    loss, expected = vf.linear_elbo_loss(**leaves, reduction=reduction), in_two_steps(**theirs, reduction=reduction)
    torch.testing.assert_close(loss, expected, equal_nan=True, **EXACT)
    assert_same_gradients(gradients(loss, leaves), gradients(expected, theirs))


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("dtype", [*HALF_TYPES, torch.float32], ids=str)
@pytest.mark.parametrize("target_dtype", [None, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("recon_loss", ["mse", "bce_with_logits"])
def test_precision(device, dtype, target_dtype, recon_loss, reduction):
    leaves = operands((33,), (40, 50), dtype, device, target_dtype)
    truth_leaves, eager_leaves = copies(leaves, torch.float64), copies(leaves)
    settings = {"recon_loss": recon_loss, "reduction": reduction}
    loss = vf.linear_elbo_loss(**leaves, **settings, chunk=8)
    two_steps = in_two_steps(**eager_leaves, **settings)
    assert loss.dtype == two_steps.dtype
    # The reconstruction is rounded to the dtype of the layer in both, from sums that BLAS may order differently.
    torch.testing.assert_close(loss, two_steps, rtol=1e-3 if dtype in HALF_TYPES else 1e-6, atol=0)
    truth = gradients(in_two_steps(**truth_leaves, **settings), truth_leaves)
    for got, other, value in zip(gradients(loss, leaves), gradients(two_steps, eager_leaves), truth, strict=True):
        assert got.dtype == other.dtype
        assert_as_good_as_eager(got, other, value)


@pytest.mark.parametrize("dtype", HALF_TYPES, ids=str)
def test_many_chunks_lose_nothing_in_half_precision(device, dtype):
    # 4096 equal contributions to a weight: a sum in the half type stops growing long before the last.
    leaves = operands((4096,), (1, 1), dtype, device)
    for name, value in (("hidden", 1.0), ("weight", 0.0), ("bias", 1.0), ("target", 0.0)):
        leaves[name] = torch.full_like(leaves[name], value, requires_grad=True)
    vf.linear_elbo_loss(**leaves, chunk=1).backward()
    assert leaves["weight"].grad.item() == 2.0
    assert leaves["bias"].grad.item() == 2.0


def test_a_loss_scale_saves_float16_gradients_that_would_vanish(device):
    # The largest float16 is 65504, so neither may the scale itself go through it.
    leaves = operands((8,), (4, 4), torch.float16, device)
    for name, value in (("hidden", 1.0), ("weight", 2.0**-9), ("bias", 0.0), ("target", 0.0)):
        leaves[name] = torch.full_like(leaves[name], value, requires_grad=True)
    loss = vf.linear_elbo_loss(**leaves, reduction="mean", chunk=3)
    (loss * 2.0**16).backward()
    per_element = 2 * (4 * 2.0**-9) / 32 * 2.0**16
    assert (leaves["hidden"].grad == 4 * per_element * 2.0**-9).all()
    assert (leaves["weight"].grad == 8 * per_element).all()


def test_a_sum_beyond_float16_is_divided_before_it_is_rounded(device):
    # 64 rows of 200 * 8: the largest float16 is 65504, which their sum passes and their mean does not.
    leaves = operands((64,), (4, 4), torch.float16, device)
    for name, value in (("hidden", 8.0), ("weight", 0.0), ("bias", 100.0), ("target", 0.0)):
        leaves[name] = torch.full_like(leaves[name], value, requires_grad=True)
    vf.linear_elbo_loss(**leaves).backward()
    assert (leaves["weight"].grad == 1600.0).all()
    assert (leaves["bias"].grad == 200.0).all()


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_result_does_not_depend_on_the_chunk(device, reduction):
    leaves = operands((37,), (11, 301), device=device)
    losses = [vf.linear_elbo_loss(**leaves, reduction=reduction, chunk=chunk) for chunk in (1, 2, 7, 36, 37, None)]
    for loss in losses[1:]:
        torch.testing.assert_close(loss, losses[0], rtol=1e-12, atol=0)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_same_bits_again(device, reduction):
    leaves = operands((37,), (11, 301), torch.float32, device)
    first, second = (vf.linear_elbo_loss(**leaves, reduction=reduction, chunk=5) for _ in range(2))
    assert torch.equal(first, second)
    assert all(map(torch.equal, gradients(first, leaves), gradients(second, leaves)))


def test_non_finite_values_stay_in_their_item(device):
    leaves = operands(device=device)
    with torch.no_grad():
        leaves["hidden"][2, 1] = torch.nan
    loss = vf.linear_elbo_loss(**leaves, reduction="sample", chunk=4)
    assert loss.isnan().tolist() == [False, False, True, False, False, False]


def test_names_of_the_operands_are_positional_too(device):
    leaves = operands(device=device)
    assert torch.equal(vf.linear_elbo_loss(*(leaves[name] for name in NAMES)), vf.linear_elbo_loss(**leaves))
