"""torch.func transforms over the package's functions: they take the reference, and give what it gives."""

from __future__ import annotations

import pytest
import torch
from helpers import eager
from helpers.inputs import images, key_of, keys_of, latents
from torch.func import functional_call, grad, hessian, jacrev, jvp, vjp, vmap

import vae_fused as vf

F64 = torch.float64


def operands_of(device):
    return (*images((4, 5), F64, device), *latents((4, 3), F64, device))


FUNCTIONS = {
    "elbo_loss": lambda m, v, key: vf.elbo_loss(m, v, m, v, beta=0.5),
    "kl_divergence": lambda m, v, key: vf.kl_divergence(m, v, reduction="sum"),
    "prior": lambda m, v, key: vf.kl_divergence(m, v, v, m, reduction="mean"),
    "reparameterize": lambda m, v, key: vf.reparameterize(m, v, key=key).square().sum(),
    "samples": lambda m, v, key: vf.reparameterize(m, v, num_samples=3, key=key).square().sum(),
    "with_kl": lambda m, v, key: sum(o.square().sum() for o in vf.reparameterize_with_kl(m, v, key=key)),
}
on_functions = pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@on_functions
def test_grad(device, function):
    operands, key = latents((4, 3), F64, device), key_of(1, 0, device)
    leaves = eager.leaves(*operands)
    expected = torch.autograd.grad(function(*leaves, key), leaves)
    for a, b in zip(grad(function, argnums=(0, 1))(*operands, key), expected, strict=True):
        close(a, b)


@on_functions
def test_jvp(device, function):
    operands, key = latents((4, 3), F64, device), key_of(1, 0, device)
    tangents = tuple(torch.randn_like(t) for t in operands)
    leaves = eager.leaves(*operands)
    gradients = torch.autograd.grad(function(*leaves, key), leaves)
    value, tangent = jvp(lambda m, v: function(m, v, key), operands, tangents)
    close(value, function(*operands, key))
    close(tangent, sum((g * t).sum() for g, t in zip(gradients, tangents, strict=True)))


@on_functions
def test_hessian(device, function):
    (mu, logvar), key = latents((2, 2), F64, device), key_of(1, 0, device)
    ours = hessian(lambda m: function(m, logvar, key))(mu)
    expected = torch.autograd.functional.hessian(lambda m: function(m, logvar, key), mu)
    close(ours, expected)


def test_vmap_over_a_batch_of_problems(device):
    problems = [operands_of(device) for _ in range(3)]
    stacked = [torch.stack(tensors) for tensors in zip(*problems, strict=True)]
    for reduction in eager.REDUCTIONS:
        ours = vmap(lambda *o, r=reduction: vf.elbo_loss(*o, beta=0.5, reduction=r))(*stacked)
        close(ours, torch.stack([vf.elbo_loss(*o, beta=0.5, reduction=reduction) for o in problems]))


def test_vmap_over_keys(device):
    mu, logvar = latents((4, 3), F64, device)
    keys = keys_of([1, 2, 3], device)
    ours = vmap(lambda key: vf.reparameterize(mu, logvar, key=key))(keys)
    close(ours, torch.stack([vf.reparameterize(mu, logvar, key=key) for key in keys]))


def test_gradients_per_item(device):
    recon, target, mu, logvar = operands_of(device)

    def of_one(r, t, m, v):
        return vf.elbo_loss(r[None], t[None], m[None], v[None], reduction="sum")

    ours = vmap(grad(of_one, argnums=(0, 2)))(recon, target, mu, logvar)
    leaves = eager.leaves(recon, mu)
    expected = torch.autograd.grad(vf.elbo_loss(leaves[0], target, leaves[1], logvar, reduction="sum"), leaves)
    for a, b in zip(ours, expected, strict=True):
        close(a, b)


def test_vjp_and_jacobian(device):
    operands, key = latents((4, 3), F64, device), key_of(1, 0, device)
    _, pull = vjp(lambda m, v: vf.reparameterize(m, v, key=key), *operands)
    weights = torch.randn_like(operands[0])
    leaves = eager.leaves(*operands)
    expected = torch.autograd.grad(vf.reparameterize(*leaves, key=key), leaves, weights)
    for a, b in zip(pull(weights), expected, strict=True):
        close(a, b)
    jacobian = jacrev(lambda m: vf.kl_divergence(m, operands[1], reduction="sample"))(operands[0])
    close(jacobian.diagonal(dim1=0, dim2=1).T, operands[0])


def test_module_in_functional_call(device):
    recon, target, mu, logvar = operands_of(device)
    layer = torch.nn.Linear(5, 5).double().to(device)
    criterion = vf.FusedELBOLoss(beta=0.5)
    parameters = dict(layer.named_parameters())

    def loss(parameters):
        return criterion(functional_call(layer, parameters, (recon,)), target, mu, logvar)

    ours = grad(loss)({name: p.detach() for name, p in parameters.items()})
    criterion(layer(recon), target, mu, logvar).backward()
    for name, parameter in parameters.items():
        close(ours[name], parameter.grad)


@pytest.mark.parametrize("randomness", ["different", "same"])
def test_vmap_randomness(device, randomness):
    mu, logvar = latents((6, 4, 3), F64, device)
    same = torch.zeros_like(mu), torch.zeros_like(logvar)
    z = vmap(lambda m, v: vf.reparameterize(m, v), randomness=randomness)(*same)
    assert z.shape == mu.shape
    assert all(torch.equal(z[0], other) == (randomness == "same") for other in z[1:])


def test_vmap_refuses_randomness_by_default(device):
    mu, logvar = latents((6, 4, 3), F64, device)
    with pytest.raises(RuntimeError, match="randomness"):
        vmap(vf.reparameterize)(mu, logvar)
