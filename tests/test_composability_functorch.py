"""torch.func on whole models and under torch.compile, batches of gradients, and forward-mode AD.

The transforms of the single functions, value by value, are in test_functorch.py.
"""

from __future__ import annotations

import pytest
import torch
from helpers.comparing import assert_near
from helpers.inputs import images, key_of, keys_of, latents
from helpers.models import batch, both_models, gradients
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vmap

import vae_fused as vf


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def per_item_gradients(model):
    """A function of (x, keys) that gives the gradient of every item's loss in every parameter."""
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    class Objective(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, x, key):
            return self.model.loss(x, key=key).loss

    objective = Objective()

    def of_one(parameters, x, key):
        named = {f"model.{name}": value for name, value in parameters.items()}
        return functional_call(objective, named, (x[None], key))

    return lambda x, keys: vmap(grad(of_one), in_dims=(None, 0, 0))(parameters, x, keys)


@both_models
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_per_sample_gradients_of_a_model(device, build, compiled):
    model, x, keys = build().to(device), batch(3, device), keys_of([5, 6, 7], device)
    function = per_item_gradients(model)
    if compiled:
        function = torch.compile(function, fullgraph=True, backend="aot_eager")
    found = function(x, keys)
    for item in range(3):
        one = slice(item, item + 1)
        expected = gradients(model.loss(x[one], key=keys[one]).loss, model)
        assert_near([gradient[item] for gradient in found.values()], expected)


def test_keys_are_mapped_with_their_items(device):
    (mu, logvar), keys = latents((4, 3, 2), device=device), keys_of([1, 2, 3, 4], device)
    one_key_per_item = vf.reparameterize(mu, logvar, key=keys)
    mapped = vmap(lambda m, v, key: vf.reparameterize(m[None], v[None], key=key)[0])(mu, logvar, keys)
    assert_near([mapped], [one_key_per_item])
    others = keys_of([5, 6, 7, 8], device)
    mapped = vmap(lambda m, v, key: vf.reparameterize(m, v, key=key), in_dims=(None, None, 1))(
        mu, logvar, torch.stack([keys, others], dim=1)
    )
    assert_near(mapped, [one_key_per_item, vf.reparameterize(mu, logvar, key=others)])
    mapped = vmap(lambda key: vf.standard_normal(key, (3, 2)))(keys)
    assert_near([mapped], [vf.standard_normal(keys, (4, 3, 2))])


KEY = (3, 4)
TRANSFORMED = {
    "grad": lambda m, v, k: grad(lambda m: vf.elbo_loss(m, v, m, v, beta=0.5))(m),
    "jvp": lambda m, v, k: jvp(lambda m: vf.reparameterize_with_kl(m, v, key=k), (m,), (v,)),
    "jacrev": lambda m, v, k: jacrev(lambda v: vf.reparameterize(m, v, key=k))(v),
    "jacfwd": lambda m, v, k: jacfwd(lambda v: vf.kl_divergence(m, v, reduction="sample"))(v),
    "hessian": lambda m, v, k: hessian(lambda v: vf.kl_divergence(m, v))(v),
}


@pytest.mark.parametrize("function", TRANSFORMED.values(), ids=TRANSFORMED.keys())
def test_compiled_transforms_equal_eager(device, function):
    operands, key = latents((4, 3), device=device), key_of(*KEY, device)
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    ours, expected = (torch.utils._pytree.tree_leaves(f(*operands, key)) for f in (compiled, function))
    assert_near(ours, expected)


def test_transform_of_a_compiled_function(device):
    mu, logvar = latents((4, 3), device=device)
    compiled = torch.compile(lambda m: vf.kl_divergence(m, logvar), backend="aot_eager")
    compiled(mu)  # without a transform first: its graph holds the kernel, and must not be used inside one
    assert_near([grad(compiled)(mu)], [mu / 4])


@pytest.mark.parametrize("randomness", ["same", "different"])
def test_randomness_of_compiled_vmap(device, randomness):
    mu = torch.zeros(5, 4, 3, device=device)
    z = torch.compile(
        lambda m: vmap(vf.reparameterize, randomness=randomness)(m, m), fullgraph=True, backend="aot_eager"
    )(mu)
    assert [torch.equal(z[0], other) for other in z[1:]] == [randomness == "same"] * 4


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_vmap_refuses_randomness_unless_told(device, compiled):
    mu = torch.zeros(5, 4, 3, device=device)

    def function(m):
        return vmap(vf.reparameterize)(m, m)

    if compiled:
        function = torch.compile(function, fullgraph=True, backend="aot_eager")
    with pytest.raises(RuntimeError, match="called random operation while in randomness error mode"):
        function(mu)


def test_noise_of_a_seed_is_the_same_inside_a_transform():
    # On a CPU a seed is one 64-bit draw of the generator, wherever it is taken.
    mu, logvar = latents((4, 3))
    for transform in (lambda f: jvp(f, (mu,), (mu,))[0], lambda f: vmap(f, randomness="same")(mu[None])[0]):
        torch.manual_seed(11)
        expected = vf.reparameterize(mu, logvar)
        torch.manual_seed(11)
        assert_near([transform(lambda m: vf.reparameterize(m, logvar))], [expected])


BACKWARDS = {
    "reparameterize": lambda r, t, m, v: vf.reparameterize(m, v, key=key_of(*KEY, m.device)),
    "kl_divergence": lambda r, t, m, v: vf.kl_divergence(m, v, reduction="sample"),
    "elbo_loss by item": lambda r, t, m, v: vf.elbo_loss(r, t, m, v, reduction="sample"),
    "elbo_loss": lambda r, t, m, v: vf.elbo_loss(r, t, m, v),
}


@pytest.mark.parametrize("function", BACKWARDS.values(), ids=BACKWARDS.keys())
def test_batch_of_incoming_gradients(device, function):
    operands = [t.requires_grad_() for t in (*images((4, 5), device=device), *latents((4, 3), device=device))]
    output = function(*operands)
    incoming = torch.randn(3, *output.shape, device=device)
    found = torch.autograd.grad(
        output, operands[2:], incoming, is_grads_batched=True, retain_graph=True, allow_unused=True
    )
    for index, one in enumerate(incoming):
        expected = torch.autograd.grad(function(*operands), operands[2:], one)
        assert_near([gradient[index] for gradient in found], expected)


@pytest.mark.parametrize("function", BACKWARDS.values(), ids=BACKWARDS.keys())
def test_forward_mode_without_torch_func(device, function):
    recon, target, mu, logvar = (*images((4, 5), device=device), *latents((4, 3), device=device))
    tangent = torch.randn_like(mu)
    with forward_ad.dual_level():
        output = forward_ad.unpack_dual(function(recon, target, forward_ad.make_dual(mu, tangent), logvar))
    expected, expected_tangent = jvp(lambda m: function(recon, target, m, logvar), (mu,), (tangent,))
    assert_near(output, [expected, expected_tangent])
