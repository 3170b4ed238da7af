"""A schedule of beta runs in the graph that is compiled already."""

from __future__ import annotations

import pytest
import torch
from helpers.inputs import images, latents
from helpers.models import batch, both_models
from torch._dynamo.testing import CompileCounterWithBackend

import vae_fused as vf

SCHEDULE = (0.25, 0.5, 0.0, 1.0, 4.0)


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def operands(device):
    return [t.requires_grad_() for t in (*images((4, 3, 5), device=device), *latents((4, 6), device=device))]


def check(compiled, tensors, beta):
    loss = compiled()
    torch.testing.assert_close(loss, vf.elbo_loss(*tensors, beta=beta))
    # dloss / dlogvar is linear in beta: a value of beta from the time of compilation would show here.
    gradient, expected = (torch.autograd.grad(value, tensors[3])[0] for value in (loss, vf.elbo_loss(*tensors)))
    torch.testing.assert_close(gradient, beta * expected)


@pytest.mark.parametrize("first", [1.0, torch.tensor(1.0, dtype=torch.float64)], ids=["float", "tensor"])
def test_beta_of_the_module(device, first):
    tensors = operands(device)
    criterion = vf.FusedELBOLoss(beta=first)
    compiled = torch.compile(criterion, fullgraph=True, backend="aot_eager")
    check(lambda: compiled(*tensors), tensors, 1.0)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for beta in SCHEDULE:
            criterion.beta = beta
            check(lambda: compiled(*tensors), tensors, beta)
            criterion.beta = torch.tensor(beta / 2, dtype=torch.float64)
            check(lambda: compiled(*tensors), tensors, beta / 2)


def test_tensor_beta_as_an_argument(device):
    tensors = operands(device)
    compiled = torch.compile(vf.elbo_loss, fullgraph=True, backend="aot_eager")
    check(lambda: compiled(*tensors, beta=torch.tensor(1.0, device=device)), tensors, 1.0)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for beta in SCHEDULE:
            check(lambda beta=beta: compiled(*tensors, beta=torch.tensor(beta, device=device)), tensors, beta)


@pytest.mark.parametrize("dynamic", [None, True])
def test_float_beta_as_an_argument(device, dynamic):
    tensors = operands(device)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(
        lambda *tensors, beta: vf.elbo_loss(*tensors, beta=beta), fullgraph=True, backend=counter, dynamic=dynamic
    )
    for beta in SCHEDULE:
        check(lambda beta=beta: compiled(*tensors, beta=beta), tensors, beta)
    # A float argument is a constant of the first graph and a variable of the second, as for PyTorch's own operators.
    assert counter.frame_count == (1 if dynamic else 2)


@both_models
def test_float_beta_of_a_training_step(device, build):
    model, x = build().to(device), batch(4, device)
    compiled = torch.compile(
        lambda x, beta: model.loss(x, beta=beta, sample=False), fullgraph=True, backend="aot_eager"
    )
    for beta in SCHEDULE[:2]:
        compiled(x, beta).loss.backward()
    with torch._dynamo.config.patch(error_on_recompile=True):
        for beta in SCHEDULE[2:]:
            terms = compiled(x, beta)
            terms.loss.backward()
            torch.testing.assert_close(terms.loss.detach(), terms.reconstruction + beta * terms.kl)
