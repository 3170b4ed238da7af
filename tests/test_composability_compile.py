"""torch.compile: one graph, forward and backward, the values of eager, at static and at dynamic shapes."""

from __future__ import annotations

import pytest
import torch
from helpers.comparing import assert_near, same_bits
from helpers.inputs import images, key_of, keys_of, latents
from helpers.models import MODELS, batch, both_models, gradients
from torch._dynamo.testing import CompileCounterWithBackend

import vae_fused as vf


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


# Each takes (recon, target, mu, logvar, key) and returns a tuple.
CALLS = {
    "standard_normal": lambda r, t, m, v, k: (m * vf.standard_normal(k, m.shape),),
    "reparameterize": lambda r, t, m, v, k: (vf.reparameterize(m, v, key=k),),
    "three samples": lambda r, t, m, v, k: (vf.reparameterize(m, v, key=k, num_samples=3),),
    "reparameterize_with_kl": lambda r, t, m, v, k: vf.reparameterize_with_kl(m, v, key=k),
    "kl_divergence": lambda r, t, m, v, k: (vf.kl_divergence(m, v),),
    "elementwise kl with prior": lambda r, t, m, v, k: (vf.kl_divergence(m, v, v[:1], m[:1], reduction="none"),),
    "elbo_loss": lambda r, t, m, v, k: (vf.elbo_loss(r, t, m, v, beta=0.5),),
    "elbo_loss by item": lambda r, t, m, v, k: (vf.elbo_loss(r, t, m, v, beta=0.5, reduction="sample"),),
    "elbo_loss terms": lambda r, t, m, v, k: vf.elbo_loss(r, t, m, v, return_terms=True),
    "objective": lambda r, t, m, v, k: (vf.elbo_loss(r, t, kl=vf.reparameterize_with_kl(m, v, key=k)[1]),),
    "FusedELBOLoss": lambda r, t, m, v, k: (vf.FusedELBOLoss(beta=2.0, reduction="mean")(r, t, m, v),),
}
every_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())


def with_floor(r, floor):
    settings = {"recon_loss": "gaussian_nll", "log_sigma": -5.0, "log_sigma_floor": floor}
    return vf.elbo_loss(r, r + 1.0, kl=r[:, 0], **settings)


@pytest.mark.parametrize("dynamic", [None, True])
@pytest.mark.parametrize(
    "call",
    [with_floor, lambda r, alpha: vf.importance_weighted_bound(r, "renyi", alpha=alpha)],
    ids=["log_sigma_floor", "alpha"],
)
def test_floats_that_change_from_call_to_call(device, call, dynamic):
    compiled, r = torch.compile(call, fullgraph=True, dynamic=dynamic), torch.rand(4, 3, device=device)
    for value in (0.5, 0.75, -6.0):
        torch.testing.assert_close(compiled(r, value), call(r, value))


@pytest.mark.parametrize("dynamic", [None, True])
def test_an_optimal_sigma_with_its_floor(device, dynamic):
    criterion = vf.FusedELBOLoss.like("sigma-vae")
    compiled = torch.compile(criterion, fullgraph=True, dynamic=dynamic)
    for items in (4, 5, 7):
        made = operands(device, items)
        torch.testing.assert_close(compiled(*made), criterion(*made))


def operands(device, items=4, latent_dim=6):
    made = [*images((items, 2, 7), device=device), *latents((items, latent_dim), device=device)]
    return [t.requires_grad_() for t in made]


def outputs_and_gradients(call, tensors, key):
    outputs = call(*tensors, key)
    differentiable = [output for output in outputs if output.requires_grad]
    upstream = [torch.linspace(0.5, 1.5, o.numel(), device=o.device).view(o.shape) for o in differentiable]
    found = torch.autograd.grad(differentiable, tensors, upstream, allow_unused=True)
    return [*outputs, *(gradient for gradient in found if gradient is not None)]


@every_call
@pytest.mark.parametrize("per_item", [False, True], ids=["one key", "key per item"])
def test_function_equals_eager(device, call, per_item):
    tensors, key = operands(device), keys_of([3, 1, 4, 1], device) if per_item else key_of(3, 4, device)
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager", dynamic=False)
    # The gradients of the loss are computed in the forward by eager, and by the backward kernel in a graph.
    assert_near(outputs_and_gradients(compiled, tensors, key), outputs_and_gradients(call, tensors, key))
    with torch.no_grad():
        assert same_bits(compiled(*tensors, key), call(*tensors, key))


@every_call
def test_dynamic_shapes_share_one_graph(device, call):
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(call, fullgraph=True, backend=counter, dynamic=True)
    for items, latent_dim in ((3, 6), (5, 4), (8, 9)):
        tensors, key = operands(device, items, latent_dim), key_of(items, 0, device)
        assert_near(outputs_and_gradients(compiled, tensors, key), outputs_and_gradients(call, tensors, key))
    assert counter.frame_count == 1


@both_models
def test_training_step_follows_the_batch_size(device, build):
    counter = CompileCounterWithBackend("aot_eager")
    model = build().to(device)
    compiled = torch.compile(model.loss, fullgraph=True, backend=counter)
    for items in (4, 5, 6, 7):
        x, key = batch(items, device), key_of(items, 0, device)
        loss, expected = compiled(x, key=key).loss, model.loss(x, key=key).loss
        assert_near([loss, *gradients(loss, model)], [expected, *gradients(expected, model)])
    # One graph for the first size, one for all others: what PyTorch's own operators get.
    assert counter.frame_count <= 2


@pytest.mark.parametrize(
    ("build", "backend"),
    [(MODELS["mlp"], "inductor"), (MODELS["mlp"], "aot_eager"), (MODELS["conv"], "aot_eager")],
    ids=["mlp inductor", "mlp", "conv"],
)
def test_training_equals_eager(device, build, backend):
    losses, parameters = [], []
    for compile_step in (False, True):
        torch.manual_seed(5)
        model = build().to(device)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        step = torch.compile(model.loss, fullgraph=True, backend=backend) if compile_step else model.loss
        x = batch(6, device)
        losses.append([])
        for index in range(4):
            terms = step(x, beta=0.5, key=key_of(index, 0, device))
            optimizer.zero_grad()
            terms.loss.backward()
            optimizer.step()
            losses[-1].extend(term.detach() for term in terms)
        parameters.append([p.detach() for p in model.parameters()])
    assert_near(losses[1], losses[0])
    assert_near(parameters[1], parameters[0])


@every_call
def test_compiled_autograd(device, call):
    tensors, key = operands(device), key_of(3, 4, device)
    expected = outputs_and_gradients(call, tensors, key)
    backend = CompileCounterWithBackend("aot_eager")
    with torch._dynamo.compiled_autograd._enable(torch.compile(backend=backend, fullgraph=True)):
        found = outputs_and_gradients(call, tensors, key)
    # A beta on the CPU makes compiled autograd compile an empty graph beside the one of the backward.
    assert len([graph for graph in backend.graphs if any(node.op == "output" for node in graph.graph.nodes)]) == 1
    assert_near(found, expected)


@both_models
def test_compiled_autograd_of_a_whole_step(device, build):
    model, x, key = build().to(device), batch(4, device), key_of(2, 0, device)
    expected = gradients(model.loss(x, key=key).loss, model)

    @torch.compile(backend="aot_eager")
    def step(x):
        model.loss(x, key=key).loss.backward()

    with torch._dynamo.config.patch(compiled_autograd=True):
        step(x)
    assert_near([p.grad for p in model.parameters()], expected)


@both_models
@pytest.mark.parametrize("keyed", [False, True], ids=["generator", "key"])
def test_explain_finds_one_graph_and_no_break(device, build, keyed):
    model, x = build().to(device), batch(4, device)
    criterion = vf.FusedELBOLoss(beta=0.5)
    key = key_of(1, 2, device) if keyed else None

    def step(x):
        out = model(x, key=key)
        return criterion(out.recon, x, kl=out.kl, return_terms=True)

    explanation = torch._dynamo.explain(step)(x)
    assert explanation.graph_count == 1
    assert explanation.graph_break_count == 0, explanation.break_reasons
