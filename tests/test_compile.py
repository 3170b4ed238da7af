"""torch.compile: no graph break, and the values and gradients of eager for the same key."""

from __future__ import annotations

import pytest
import torch
from helpers import eager
from helpers.inputs import images, key_of, latents
from torch._dynamo.testing import CompileCounter

import vae_fused as vf


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()


def compare(function, operands, tolerance=1e-6):
    """Compiled against eager: outputs, and gradients for the same incoming gradients."""
    results = []
    for called in (function, torch.compile(function, fullgraph=True)):
        leaves = eager.leaves(*operands)
        outputs = called(*leaves)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        differentiable = [o for o in outputs if o.requires_grad]
        weights = [torch.linspace(0.5, 1.5, o.numel(), device=o.device).view(o.shape) for o in differentiable]
        gradients = torch.autograd.grad(differentiable, leaves, weights)
        results.append([*(o.detach() for o in outputs), *gradients])
    assert len(results[0]) == len(results[1])
    for plain, compiled in zip(*results, strict=True):
        assert plain.stride() == compiled.stride()
        torch.testing.assert_close(compiled, plain, rtol=tolerance, atol=tolerance)


def test_whole_objective(device):
    key = key_of(3, 0, device)
    criterion = vf.FusedELBOLoss(beta=0.5)
    (target, _), (mu, logvar) = images((8, 6), device=device), latents((8, 4), device=device)
    weight = torch.randn(4, 6, device=device)

    def objective(mu, logvar, weight):
        z, kl = vf.reparameterize_with_kl(mu, logvar, key=key)
        terms = criterion(torch.sigmoid(z @ weight), target, kl=kl, return_terms=True)
        return terms.loss, terms.reconstruction, terms.kl

    compare(objective, (mu, logvar, weight), 1e-5)


@pytest.mark.parametrize("reduction", ["batchmean", "sample"])
def test_loss_module(device, reduction):
    criterion = vf.FusedELBOLoss(beta=0.5, reduction=reduction)
    operands = (*images((4, 3, 5), device=device), *latents((4, 6), device=device))
    compare(lambda *o: criterion(*o), operands)


def test_samples_and_a_prior(device):
    key = key_of(3, 0, device)

    def function(mu, logvar, prior_mu):
        z = vf.reparameterize(mu, logvar, num_samples=3, key=key)
        return z, vf.kl_divergence(mu, logvar, prior_mu, reduction="sample"), vf.standard_normal(key, (5,))

    compare(function, (*latents((4, 6), device=device), torch.randn(6, device=device)))


def test_default_generator_is_drawn_from_anew_by_every_call(device):
    mu, logvar = latents((4, 6), device=device)
    sample = torch.compile(lambda m, v: vf.reparameterize(m, v), fullgraph=True)
    torch.manual_seed(3)
    first, second = sample(mu, logvar), sample(mu, logvar)
    assert not torch.equal(first, second)
    torch.manual_seed(3)
    assert torch.equal(vf.reparameterize(mu, logvar), first)


@pytest.mark.parametrize("schedule", ["argument", "module"])
def test_changing_beta_does_not_recompile(device, schedule):
    operands = (*images((4, 6), device=device), *latents((4, 6), device=device))
    counter = CompileCounter()
    criterion = vf.FusedELBOLoss()
    compiled = torch.compile(
        (lambda beta, *o: vf.elbo_loss(*o, beta=beta)) if schedule == "argument" else (lambda beta, *o: criterion(*o)),
        backend=counter,
        fullgraph=True,
    )
    for value in (0.1, 0.2, 0.3, 0.4):
        criterion.beta = value
        ours = compiled(torch.tensor(value, dtype=torch.float64, device=device), *operands)
        assert torch.equal(ours, vf.elbo_loss(*operands, beta=value))
    assert counter.frame_count == 1


def test_compiled_graphs_hold_the_fused_operators(device):
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    def objective(mu, logvar):
        z, kl = vf.reparameterize_with_kl(mu, logvar)
        return vf.elbo_loss(z, mu, kl=kl) + vf.kl_divergence(mu, logvar) + vf.reparameterize(mu, logvar).sum()

    torch.compile(objective, backend=backend, fullgraph=True)(*latents((4, 6), device=device))
    called = {str(node.target) for graph in graphs for node in graph.graph.nodes if "vae_fused" in str(node.target)}
    expected = {
        "elbo_loss.default",
        "kl_divergence.default",
        "reparameterize.generator",
        "reparameterize_with_kl.generator",
    }
    assert called == ({f"vae_fused.{name}" for name in expected} if vf.build_info()["extension"] else set())


def test_checkpointing_inside_a_compiled_function_recomputes_the_same_noise(device):
    # Without the tag nondeterministic_seeded the partitioner replays the draw with other noise, and no test of the
    # operator alone notices.
    operands = latents((4, 6), device=device)

    def block(mu, logvar):
        z, kl = vf.reparameterize_with_kl(mu, logvar)
        return (torch.tanh(z) * z).sum() + kl.sum()

    def checkpointed(mu, logvar):
        return torch.utils.checkpoint.checkpoint(block, mu, logvar, use_reentrant=False)

    results = []
    for function in (block, torch.compile(checkpointed, fullgraph=True)):
        torch.manual_seed(11)
        leaves = eager.leaves(*operands)
        loss = function(*leaves)
        results.append((loss.detach(), *torch.autograd.grad(loss, leaves)))
    for plain, compiled in zip(*results, strict=True):
        torch.testing.assert_close(compiled, plain, rtol=1e-5, atol=1e-6)
