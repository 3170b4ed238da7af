"""CUDA graphs: fresh noise on every replay, in captures by hand, in make_graphed_callables and in reduce-overhead."""

from __future__ import annotations

import pytest
import torch
from helpers.comparing import assert_near
from helpers.inputs import images, key_of, latents
from helpers.models import batch, both_models, gradients
from torch._dynamo.utils import counters

import vae_fused as vf

pytestmark = pytest.mark.gpu

WARM_UP = 3


def captured(function):
    """A CUDA graph of function(), and the results that every replay writes anew."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            function()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = function()
    return graph, results


def operands():
    made = (*images((8, 40), device="cuda"), *latents((8, 6), device="cuda"))
    return [t.requires_grad_() for t in made]


def objective(recon, target, mu, logvar, beta):
    """z, the loss, and the gradients; the loss depends on the noise."""
    z, kl = vf.reparameterize_with_kl(mu, logvar)
    loss = vf.elbo_loss(recon * z.sum(1, keepdim=True), target, kl=kl, beta=beta)
    return z, loss, *torch.autograd.grad(loss, (recon, mu, logvar))


def replayed(graph, results):
    graph.replay()
    return [t.detach().clone() for t in results]


def test_every_replay_draws_fresh_noise_and_its_own_gradients():
    recon, target, mu, logvar = operands()
    beta = torch.tensor(0.5, device="cuda")
    graph, results = captured(lambda: objective(recon, target, mu, logvar, beta))
    drawn = []
    for _ in range(3):
        z, loss, *found = replayed(graph, results)
        drawn.append(z)
        noise = (z - mu.detach()) / (0.5 * logvar.detach()).exp()
        leaves = [t.detach().requires_grad_() for t in (recon, mu, logvar)]
        again = leaves[1] + (0.5 * leaves[2]).exp() * noise
        expected = vf.reference.elbo_loss(leaves[0] * again.sum(1, keepdim=True), target, *leaves[1:], beta=0.5)
        torch.testing.assert_close(loss, expected.detach(), rtol=1e-4, atol=1e-4)
        for ours, gradient in zip(found, torch.autograd.grad(expected, leaves), strict=True):
            torch.testing.assert_close(ours, gradient, rtol=1e-3, atol=1e-3)
    assert not torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[1], drawn[2])


def test_replays_follow_the_seed():
    mu, logvar = (t.detach() for t in operands()[2:])
    graph, results = captured(lambda: (vf.reparameterize(mu, logvar), vf.reparameterize(mu, logvar)))
    runs = []
    for _ in range(2):
        torch.cuda.manual_seed(3)
        runs.append([t for _ in range(2) for t in replayed(graph, results)])
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))
    assert torch.stack(runs[0]).flatten(1).unique(dim=0).shape[0] == 4  # two samples in each of two replays


def test_noise_after_a_replay_is_none_of_its_noise():
    mu, logvar = (torch.zeros(8, 6, device="cuda") for _ in range(2))
    graph, results = captured(lambda: (vf.reparameterize(mu, logvar),))
    (in_graph,) = replayed(graph, results)
    after = vf.reparameterize(mu, logvar)
    assert not torch.isin(after, in_graph).any()


def test_keys_and_beta_are_read_when_the_graph_runs():
    recon, target, mu, logvar = operands()
    beta, key = torch.tensor(0.5, device="cuda"), key_of(1, 0, "cuda")

    def step():
        z = vf.reparameterize(mu, logvar, key=key)
        loss = vf.elbo_loss(recon, target, mu, logvar, beta=beta)
        return z, loss, *torch.autograd.grad(loss, (mu, logvar))

    graph, results = captured(step)
    for seed, weight in ((1, 0.5), (2, 2.0), (3, 0.0)):
        key.copy_(key_of(seed, 0, "cuda"))
        beta.fill_(weight)
        assert_near(replayed(graph, results), step())


class Sampling(torch.nn.Module):
    def forward(self, mu, logvar):
        return vf.reparameterize_with_kl(mu, logvar)


def test_forward_and_backward_in_separate_graphs():
    mu, logvar = operands()[2:]
    sample = torch.cuda.make_graphed_callables(Sampling(), (mu, logvar))
    drawn = []
    for _ in range(3):
        mu.grad = logvar.grad = None
        z, kl = sample(mu, logvar)
        drawn.append(z.detach().clone())
        slope = torch.randn_like(z)
        torch.autograd.backward((z, kl), (slope, torch.ones_like(kl)))
        # The backward graph has to find the key of this forward, not the one of the capture.
        scaled_noise = drawn[-1] - mu.detach()
        torch.testing.assert_close(mu.grad, slope + mu.detach())
        expected = 0.5 * slope * scaled_noise + 0.5 * torch.expm1(logvar.detach())
        torch.testing.assert_close(logvar.grad, expected, rtol=1e-4, atol=1e-5)
    assert not torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[1], drawn[2])


@both_models
def test_reduce_overhead(build):
    torch.compiler.reset()
    counters.clear()
    model, x = build().to("cuda"), batch(8, "cuda")
    compiled = torch.compile(lambda x, key: model.loss(x, key=key), fullgraph=True, mode="reduce-overhead")
    for index in range(5):
        torch.compiler.cudagraph_mark_step_begin()
        key = key_of(index, 0, "cuda")
        loss = compiled(x, key).loss
        found = [gradient.clone() for gradient in gradients(loss, model)]
        expected = model.loss(x, key=key).loss
        torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-4)
        for ours, gradient in zip(found, gradients(expected, model), strict=True):
            assert (ours - gradient).abs().max() <= 1e-3 * gradient.abs().max()
    assert counters["inductor"]["cudagraph_skips"] == 0
    torch.compiler.reset()


def test_reduce_overhead_draws_fresh_noise():
    torch.compiler.reset()
    mu, logvar = (torch.zeros(8, 6, device="cuda") for _ in range(2))
    compiled = torch.compile(vf.reparameterize, fullgraph=True, mode="reduce-overhead")
    drawn = []
    for _ in range(5):
        torch.compiler.cudagraph_mark_step_begin()
        drawn.append(compiled(mu, logvar).clone())
    assert torch.stack(drawn).flatten(1).unique(dim=0).shape[0] == 5
    torch.compiler.reset()


def test_beta_on_the_device_keeps_reduce_overhead_graphed():
    torch.compiler.reset()
    counters.clear()
    criterion = vf.FusedELBOLoss(beta=torch.tensor(1.0, device="cuda"))
    tensors = operands()
    compiled = torch.compile(criterion, fullgraph=True, mode="reduce-overhead")
    for beta in (1.0, 0.5, 0.25, 2.0):
        torch.compiler.cudagraph_mark_step_begin()
        criterion.beta.fill_(beta)
        loss = compiled(*tensors)
        torch.testing.assert_close(loss, vf.elbo_loss(*tensors, beta=beta))
        assert_near(torch.autograd.grad(loss, tensors), torch.autograd.grad(vf.elbo_loss(*tensors, beta=beta), tensors))
    assert counters["inductor"]["cudagraph_skips"] == 0
    torch.compiler.reset()
