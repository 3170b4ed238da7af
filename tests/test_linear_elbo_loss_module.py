"""FusedLinearELBOLoss, the VAE that uses it, and what both and the function refuse."""

from __future__ import annotations

import copy

import pytest
import torch
from helpers.errors import BOTH, Case, assert_refused, named
from helpers.inputs import key_of
from helpers.memory import peak_bytes
from helpers.output_layer import in_two_steps, operands
from torch import nn

import vae_fused as vf

needs_extension = pytest.mark.skipif(not vf.build_info()["extension"], reason="built without the extension")
F64 = torch.float64
EXACT = {"rtol": 1e-12, "atol": 1e-14}


def zeros(*size, **options):
    return torch.zeros(*size, **options)


FLOATING = "must be float16, bfloat16, float32 or float64, got"
TERMS = "recon_loss must be one of mse, l1, smooth_l1, bce_with_logits, got"
REFUSED = [
    Case({"hidden": None}, TypeError, "hidden must be a tensor, got NoneType"),
    Case({"hidden": zeros(6, 5, dtype=torch.int64)}, TypeError, f"hidden {FLOATING} torch.int64"),
    Case({"hidden": zeros(5)}, ValueError, "hidden must have shape [batch, ..., in_features], got [5]"),
    Case({"weight": None}, TypeError, "weight must be a tensor, got NoneType"),
    Case({"weight": zeros(7, 4)}, ValueError, "weight must have shape [out_features, 5], got [7, 4]"),
    Case({"weight": zeros(5)}, ValueError, "weight must have shape [out_features, 5], got [5]"),
    Case(
        {"weight": zeros(7, 5, dtype=F64)},
        TypeError,
        "weight must have the dtype of hidden, torch.float32, got torch.float64",
    ),
    Case({"weight": zeros(7, 5, device="meta")}, ValueError, "weight must be on the device of hidden, cpu, got meta"),
    Case({"bias": 0.0}, TypeError, "bias must be a tensor, got float"),
    Case({"bias": zeros(6)}, ValueError, "bias must have shape [7], got [6]"),
    Case({"bias": zeros(1, 7)}, ValueError, "bias must have shape [7], got [1, 7]"),
    Case(
        {"bias": zeros(7, dtype=F64)}, TypeError, "bias must have the dtype of hidden, torch.float32, got torch.float64"
    ),
    Case({"target": None}, TypeError, "target must be a tensor, got NoneType"),
    Case({"target": zeros(6, 7, dtype=torch.uint8)}, TypeError, f"target {FLOATING} torch.uint8"),
    Case({"target": zeros(6, 8)}, ValueError, "target must have the shape of the reconstruction, [6, 7], got [6, 8]"),
    Case({"target": zeros(6, 7, device="meta")}, ValueError, "target must be on the device of hidden, cpu, got meta"),
    *(
        Case({"recon_loss": term}, ValueError, f"{TERMS} '{term}'")
        for term in ("bce", "gaussian_nll", "laplace_nll", "mae")
    ),
    Case({"reduction": "none"}, ValueError, "reduction must be one of batchmean, sum, sample, mean, got 'none'"),
    Case({"chunk": 0}, ValueError, "chunk must be at least 1, got 0"),
    Case({"chunk": -3}, ValueError, "chunk must be at least 1, got -3"),
    Case({"chunk": 2.0}, TypeError, "chunk must be an integer or None, got float"),
    Case({"chunk": True}, TypeError, "chunk must be an integer or None, got bool"),
    Case({"beta": "1"}, TypeError, "beta must be a float or a 0-dimensional tensor, got str"),
    Case(
        {"beta": zeros((), device="meta")},
        ValueError,
        "beta must be on the CPU or on the device of hidden, cpu, got meta",
    ),
    Case({"mu": None}, ValueError, "the KL needs both mu and logvar, or kl, got logvar without mu"),
    Case({"kl": zeros(6)}, ValueError, "kl replaces mu and logvar: give kl, or mu and logvar, got both"),
    Case({"mu": zeros(2, 3), "logvar": zeros(2, 3)}, ValueError, "mu must have the batch size of hidden, 6, got 2"),
    Case(
        {"mu": None, "logvar": None, "kl": zeros(5)},
        ValueError,
        "kl must have the shape [batch] of hidden, [6], got [5]",
    ),
    Case(
        {"mu": None, "logvar": None, "kl": zeros(6), "reduction": "mean"},
        ValueError,
        "kl cannot be given with reduction='mean': the number of latent elements",
    ),
]


@BOTH
@named(REFUSED)
def test_refused(api, case):
    assert_refused(api.linear_elbo_loss, operands(dtype=torch.float32), case)


OF_OPERATOR = {"hidden", "weight", "bias", "target", "recon_loss", "chunk"}
OPERATOR_REFUSES = [case for case in REFUSED if set(case.replaced) <= OF_OPERATOR]


@needs_extension
@named([c for c in OPERATOR_REFUSES if c.error is ValueError or "dtype" in c.message or FLOATING in c.message])
def test_the_operator_refuses_in_the_same_words(case):
    def operator(hidden, weight, bias, target, recon_loss="mse", chunk=None):
        torch.ops.vae_fused.linear_reconstruction(hidden, weight, bias, target, recon_loss, "sum", chunk)

    good = {n: t for n, t in operands(dtype=torch.float32).items() if n not in ("mu", "logvar")}
    assert_refused(operator, good, case)


@pytest.mark.parametrize("bias", [True, False])
def test_module_has_the_parameters_of_a_linear_layer(bias):
    torch.manual_seed(3)
    output = vf.FusedLinearELBOLoss(5, 7, bias)
    torch.manual_seed(3)
    linear = nn.Linear(5, 7, bias)
    assert list(output.state_dict()) == list(linear.state_dict())
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(output.parameters(), linear.parameters(), strict=True))
    torch.manual_seed(3)
    output.reset_parameters()
    assert torch.equal(output.weight, linear.weight)
    fresh = vf.FusedLinearELBOLoss(5, 7, bias, dtype=F64)
    fresh.load_state_dict(linear.double().state_dict())
    hidden = torch.rand(4, 3, 5, dtype=F64)
    assert torch.equal(fresh.reconstruct(hidden), linear(hidden))


@pytest.mark.parametrize("reduction", ["batchmean", "sum", "sample", "mean"])
def test_module_is_the_function(device, reduction):
    leaves = operands(device=device)
    output = vf.FusedLinearELBOLoss(5, 7, beta=0.5, reduction=reduction, chunk=4, device=device, dtype=F64)
    output.load_state_dict({"weight": leaves.pop("weight").detach(), "bias": leaves.pop("bias").detach()})
    settings = {"beta": 0.5, "reduction": reduction, "return_terms": True}
    terms, expected = (
        output(**leaves, return_terms=True),
        in_two_steps(weight=output.weight, bias=output.bias, **leaves, **settings),
    )
    torch.testing.assert_close(tuple(terms), tuple(expected), **EXACT)
    output.beta = 2.0
    torch.testing.assert_close(output(**leaves), terms.reconstruction + 2.0 * terms.kl, **EXACT)


def test_module_settings():
    output = vf.FusedLinearELBOLoss(5, 7, False, 0.5, reduction="sum", chunk=3)
    assert repr(output) == (
        "FusedLinearELBOLoss(in_features=5, out_features=7, bias=False, beta=0.5, recon_loss='mse', reduction='sum', "
        "chunk=3)"
    )
    with pytest.raises(ValueError, match=r"^chunk must be at least 1, got 0$"):
        vf.FusedLinearELBOLoss(5, 7, chunk=0)
    with pytest.raises(ValueError, match=r"^reduction must be one of"):
        vf.FusedLinearELBOLoss(5, 7, reduction="none")


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: vf.FusedLinearELBOLoss(5.0, 7), TypeError, "in_features must be an integer, got float"),
        (lambda: vf.FusedLinearELBOLoss(5, -7), ValueError, "out_features must be at least 0, got -7"),
        # A beta in the place that nn.Linear has for its bias.
        (lambda: vf.FusedLinearELBOLoss(5, 7, 0.5), TypeError, "bias must be a bool, got float"),
        (lambda: vf.FusedLinearELBOLoss(5, 7, dtype=torch.int32), TypeError, f"dtype {FLOATING} torch.int32"),
        (
            lambda: vf.FusedLinearELBOLoss(5, 7)(zeros(6, 4), zeros(6, 7), zeros(6, 2), zeros(6, 2)),
            ValueError,
            r"hidden must have shape \[batch, ..., 5\], got \[6, 4\]",
        ),
        (
            lambda: vf.FusedLinearELBOLoss(5, 7).reconstruct(zeros(6, 4)),
            ValueError,
            r"hidden must have shape \[batch, ..., 5\], got \[6, 4\]",
        ),
    ],
)
def test_module_refuses(call, error, message):
    with pytest.raises(error, match=f"^{message}$"):
        call()


def both_models(device="cpu", shape=(2, 3, 3)):
    """One VAE whose loss is fused with its output layer, and one with the same parameters whose loss is not."""
    fused = vf.mlp_vae(shape, 4, (8, 6), output_activation=None, fused_output_layer=True).double().to(device)
    plain = vf.mlp_vae(shape, 4, (8, 6), output_activation=None).double().to(device)
    plain.load_state_dict(fused.state_dict())
    return fused, plain


@pytest.mark.parametrize("reduction", ["batchmean", "sum", "sample", "mean"])
@pytest.mark.parametrize("sample", [True, False])
@pytest.mark.parametrize("recon_loss", ["mse", "bce_with_logits"])
def test_vae_has_the_same_loss_and_gradients(device, recon_loss, reduction, sample):
    x, key = torch.rand(5, 2, 3, 3, dtype=F64).to(device), key_of(1, 0, device) if sample else None
    results = []
    for model in both_models(device):
        terms = model.loss(x, beta=0.3, recon_loss=recon_loss, reduction=reduction, sample=sample, key=key)
        terms.loss.sum().backward()
        results.append([*terms, *(p.grad for p in model.parameters())])
    torch.testing.assert_close(*results, rtol=1e-12, atol=1e-13)
    for fused, plain in zip(*(model(x, sample=sample, key=key) for model in both_models(device)), strict=True):
        assert fused.shape == plain.shape


@needs_extension
def test_vae_needs_the_memory_of_no_reconstruction():
    # Three times what a chunk holds.
    fused, plain = both_models(shape=(1, 128, 128))
    x = torch.rand(1536, 1, 128, 128, dtype=F64)
    with torch.no_grad():
        whole = peak_bytes(lambda: plain.loss(x))
        assert peak_bytes(lambda: fused.loss(x)) < 0.5 * x.nbytes < x.nbytes <= whole


def test_vae_compiles_and_copies(device):
    torch.compiler.reset()
    fused, plain = both_models(device)
    x, key = torch.rand(5, 2, 3, 3, dtype=F64).to(device), key_of(1, 0, device)
    expected = plain.loss(x, key=key).loss
    compiled = torch.compile(fused.loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, key=key).loss, expected, **EXACT)
    torch.testing.assert_close(copy.deepcopy(fused).loss(x, key=key).loss, expected, **EXACT)
    torch.compiler.reset()


def test_vae_refuses_what_it_cannot_fuse():
    with pytest.raises(ValueError, match=r"^fused_output_layer needs output_activation=None, got 'sigmoid'$"):
        vf.mlp_vae(6, fused_output_layer=True)
    for last in (nn.Sigmoid(), nn.Conv2d(1, 1, 1)):
        decoder = nn.Sequential(nn.Linear(2, 6), last, nn.Unflatten(1, (2, 3)))
        with pytest.raises(
            ValueError, match=f"^fused_output_layer needs a decoder whose .* got {type(last).__name__}$"
        ):
            vf.VAE(nn.Linear(6, 4), decoder, 2, fused_output_layer=True)
    for model in both_models():
        with pytest.raises(ValueError, match=r"^target must .* recon, \[5, 2, 3, 3\], got \[5, 18\], which .*view_as"):
            model.loss(torch.rand(5, 18, dtype=F64))
