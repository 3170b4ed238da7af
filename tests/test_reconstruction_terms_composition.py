"""The reconstruction terms beside the rest of PyTorch: opcheck, torch.compile, torch.func, modules, checkpoints."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import pytest
import torch
from helpers.layouts import LAYOUTS
from helpers.operators import UNTRACED
from helpers.terms import TERMS, TermCase, on_formulas, operands_of
from torch import Tensor, nn
from torch.library import opcheck

import vae_fused as vf
from vae_fused._arguments import RECON_LOSSES
from vae_fused._library import ops

needs_kernels = pytest.mark.skipif(not vf.build_info()["extension"], reason="built without the extension")
F64 = torch.float64


@pytest.fixture
def fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def loss_of(operands, api=vf, **more):
    settings = {"beta": 0.7, **operands.settings, **more}
    return api.elbo_loss(operands.recon, operands.target, operands.mu, operands.logvar, **settings)


def operator_arguments(operands, reduction):
    settings = dict(operands.settings)
    recon_loss = settings.pop("recon_loss")
    if isinstance(settings.get("log_sigma"), float):
        settings["log_sigma_value"] = settings.pop("log_sigma")
    arguments = (operands.recon, operands.target, operands.mu, operands.logvar, None, 0.5, None, recon_loss, reduction)
    return arguments, settings


def test_names_are_those_of_the_kernels():
    source = (Path(__file__).parents[1] / "csrc/core/recon_loss.h").read_text()
    listed = re.search(r"kReconLossNames\[\] = \{(.*?)\}", source, re.DOTALL)
    assert listed is not None
    assert tuple(re.findall(r'"(\w+)"', listed[1])) == RECON_LOSSES
    assert {term.recon_loss for term in TERMS} == set(RECON_LOSSES)


@needs_kernels
@on_formulas
@pytest.mark.parametrize(
    ("dtype", "layout"), [(torch.float32, "contiguous"), (torch.bfloat16, "channels_last_half")], ids=str
)
@pytest.mark.parametrize("reduction", ["batchmean", "sample"])
def test_opcheck(device, term, dtype, layout, reduction):
    # What is traced does not depend on the dtype, nor on the term where an operator has no formulas.
    check = opcheck if dtype == torch.bfloat16 else partial(opcheck, test_utils=UNTRACED)
    check_kernels = check if term.recon_loss == "gaussian_nll" else partial(opcheck, test_utils=UNTRACED)
    operands = operands_of(term, (2, 3, 4, 5), dtype, device, weight=(3, 1, 5), target_grad=True)
    operands.recon = LAYOUTS[layout](operands.recon.detach()).detach().requires_grad_()
    arguments, settings = operator_arguments(operands, reduction)
    check(ops.elbo_loss.default, arguments, settings)
    learned = "log_sigma" in settings
    grad = torch.randn((2,) if reduction == "sample" else (), device=device, requires_grad=True)
    check(ops.elbo_loss_backward.default, (grad, [True, True, True, True, False, learned], *arguments), settings)
    if reduction == "sample":
        return
    detached = tuple(a.detach() if isinstance(a, Tensor) else a for a in arguments)
    settings = {name: value.detach() if isinstance(value, Tensor) else value for name, value in settings.items()}
    check_kernels(ops.elbo_loss_with_gradients.default, ([True, True, True, False, learned], *detached), settings)
    own = torch.empty_like(detached[0]).copy_(detached[0])
    check_kernels(ops.elbo_loss_.default, ([True, True, False, learned], own, *detached[1:]), settings)
    buffers = [t if t is None else torch.zeros_like(t) for t in (detached[0], *detached[2:5])]
    buffers.append(torch.zeros_like(settings["log_sigma"]) if learned else None)
    check_kernels(ops.elbo_loss_backward_.default, (torch.tensor(2.0, device=device), *buffers, *detached), settings)


@on_formulas
@pytest.mark.parametrize("reduction", ["batchmean", "sample"])
def test_compiled(device, fresh_compiler, term, reduction):
    operands = operands_of(term, (3, 2, 5), device=device, weight=(5,))
    settings = {name: value for name, value in operands.settings.items() if not isinstance(value, Tensor)}
    log_sigma = operands.settings.get("log_sigma") if term.sigma not in ("", "number") else None
    if log_sigma is None and "log_sigma" in settings:
        log_sigma = settings.pop("log_sigma")

    def objective(recon, target, mu, logvar, weight, log_sigma, beta):
        return vf.elbo_loss(recon, target, mu, logvar, beta=beta, weight=weight, log_sigma=log_sigma,
                            reduction=reduction, **settings).sum()  # fmt: skip

    compiled = torch.compile(objective, fullgraph=True, backend="aot_eager")
    weight = operands.settings["weight"]

    def check(beta):
        arguments = (operands.recon, operands.target, operands.mu, operands.logvar, weight, log_sigma, beta)
        loss, expected = compiled(*arguments), objective(*arguments)
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(*(torch.autograd.grad(value, operands.leaves) for value in (loss, expected)))

    check(torch.tensor(0.5, device=device))
    with torch._dynamo.config.patch(error_on_recompile=True):
        check(torch.tensor(0.25, device=device))
        with torch.no_grad():
            operands.recon += 0.01  # other data


@pytest.mark.parametrize("log_sigma", ["number", "scalar", "channel", "optimal"])
def test_compiled_module_does_not_compile_again(device, fresh_compiler, log_sigma):
    operands = operands_of(TermCase("gaussian_nll"), (4, 2, 5), device=device)
    of_module = {
        "number": -0.5, "scalar": nn.Parameter(torch.zeros(())), "channel": nn.Parameter(torch.zeros(2, 1)),
        "optimal": "optimal",
    }[log_sigma]  # fmt: skip
    criterion = vf.FusedELBOLoss(recon_loss="gaussian_nll", log_sigma=of_module, log_sigma_floor=-5.0).to(device)
    compiled = torch.compile(criterion, fullgraph=True, backend="aot_eager")
    tensors = (operands.recon, operands.target, operands.mu, operands.logvar)
    leaves = [operands.recon, *criterion.parameters()]

    def check():
        loss, expected = compiled(*tensors), criterion(*tensors)
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(*(torch.autograd.grad(value, leaves) for value in (loss, expected)))

    check()
    with torch._dynamo.config.patch(error_on_recompile=True):
        for beta in (0.5, 2.0):
            criterion.beta = beta
            with torch.no_grad():
                for parameter in criterion.parameters():
                    parameter += 0.1
            check()


@on_formulas
def test_inside_transforms(device, term):
    operands = operands_of(term, (3, 4), F64, device, weight=(4,))
    log_sigma = operands.settings.pop("log_sigma", None)
    extra = [log_sigma.detach()] if isinstance(log_sigma, Tensor) else []
    mu, logvar = operands.mu.detach(), operands.logvar.detach()

    def objective(recon, target, *sigma):
        settings = dict(operands.settings)
        if log_sigma is not None:
            settings["log_sigma"] = sigma[0] if sigma else log_sigma
        return vf.elbo_loss(recon, target, mu, logvar, beta=0.7, reduction="sum", recon_weight=1.5, **settings)

    inputs = [operands.recon.detach(), operands.target.detach(), *extra]
    leaves = [t.clone().requires_grad_() for t in inputs]
    loss = objective(*leaves)
    expected = torch.autograd.grad(loss, leaves, create_graph=True)
    everything = tuple(range(len(inputs)))
    torch.testing.assert_close(torch.func.grad(objective, everything)(*inputs), expected)
    tangents = tuple(torch.randn_like(t) for t in inputs)
    value, along = torch.func.jvp(objective, tuple(inputs), tangents)
    torch.testing.assert_close(value, loss)
    torch.testing.assert_close(along, sum((g * t).sum() for g, t in zip(expected, tangents, strict=True)))
    hessian = torch.func.hessian(objective)(*inputs)
    rows = [torch.autograd.grad(g, leaves[0], retain_graph=True, allow_unused=True, materialize_grads=True)[0]
            for g in expected[0].flatten()]  # fmt: skip
    torch.testing.assert_close(hessian, torch.stack(rows).view(hessian.shape))

    many = torch.stack([inputs[0], inputs[0] * 0.9 + 0.05])
    mapped = torch.vmap(lambda recon: objective(recon, *inputs[1:]))(many)
    torch.testing.assert_close(mapped, torch.stack([objective(recon, *inputs[1:]) for recon in many]))


class TestModule:
    def test_a_parameter_is_learned(self, device):
        operands = operands_of(TermCase("gaussian_nll"), (64, 30), device=device)
        recon, target = operands.recon.detach(), operands.target
        criterion = vf.FusedELBOLoss(recon_loss="gaussian_nll", log_sigma=nn.Parameter(torch.zeros(()))).to(device)
        assert [name for name, _ in criterion.named_parameters()] == ["log_sigma"]
        optimizer = torch.optim.Adam(criterion.parameters(), lr=0.05)
        for _ in range(300):
            optimizer.zero_grad()
            criterion(recon, target, operands.mu.detach(), operands.logvar.detach()).backward()
            optimizer.step()
        best = 0.5 * (recon - target).square().mean().log()
        torch.testing.assert_close(criterion.log_sigma.detach(), best, rtol=1e-3, atol=1e-3)

    def test_what_it_registers(self):
        learned = vf.FusedELBOLoss(recon_loss="laplace_nll", log_sigma=nn.Parameter(torch.ones(3, 1)))
        fixed = vf.FusedELBOLoss(recon_loss="laplace_nll", log_sigma=torch.ones(3, 1))
        number = vf.FusedELBOLoss(recon_loss="laplace_nll", log_sigma=-1.5)
        assert set(learned.state_dict()) == set(fixed.state_dict()) == {"log_sigma"}
        assert not list(fixed.parameters())
        assert not number.state_dict()
        fixed.load_state_dict({"log_sigma": torch.zeros(3, 1)})
        assert not fixed.log_sigma.any()
        assert fixed.double().log_sigma.dtype == F64

    @pytest.mark.parametrize("term", TERMS, ids=str)
    def test_settings_reach_the_function(self, device, term):
        operands = operands_of(term, (3, 2, 5), device=device, weight=(5,))
        weight = operands.settings["weight"]
        settings = {name: value for name, value in operands.settings.items() if name not in ("weight", "log_sigma")}
        log_sigma = operands.settings.get("log_sigma")
        tensors = (operands.recon, operands.target, operands.mu, operands.logvar)
        expected = loss_of(operands, recon_weight=2.0)
        of_module = vf.FusedELBOLoss(beta=0.7, recon_weight=2.0, log_sigma=log_sigma, **settings)
        of_call = vf.FusedELBOLoss(beta=0.7, recon_weight=2.0, **settings)
        assert torch.equal(of_module(*tensors, weight=weight), expected)
        assert torch.equal(of_call(*tensors, weight=weight, log_sigma=log_sigma), expected)

    def test_repr(self):
        text = repr(
            vf.FusedELBOLoss(recon_loss="gaussian_nll", log_sigma=-1.5, recon_weight=2.0, full=True, log_sigma_floor=-4)
        )
        assert "log_sigma=-1.5, recon_weight=2.0, full=True, log_sigma_floor=-4" in text
        assert "recon_weight" not in repr(vf.FusedELBOLoss())
