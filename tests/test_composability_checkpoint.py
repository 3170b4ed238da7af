"""Activation checkpointing of whole models: reentrant, non-reentrant, selective, and inside torch.compile.

No key is given: the recomputed forward has to draw the noise of the first. Single functions: test_checkpointing.py.
"""

from __future__ import annotations

import functools

import pytest
import torch
from helpers.comparing import assert_near, same_bits
from helpers.inputs import key_of, latents
from helpers.models import batch, both_models, gradients
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

import vae_fused as vf
from vae_fused._library import ops

EXTENSION = vf.build_info()["extension"]
OURS = {ops.reparameterize_with_kl.generator, ops.elbo_loss.default} if EXTENSION else set()
MATRIX_PRODUCTS = {torch.ops.aten.addmm.default, torch.ops.aten.convolution.default}


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def saving(operators):
    def policy(context, operator, *args, **kwargs):
        return CheckpointPolicy.MUST_SAVE if operator in operators else CheckpointPolicy.PREFER_RECOMPUTE

    return {"use_reentrant": False, "context_fn": functools.partial(create_selective_checkpoint_contexts, policy)}


MODES = {
    "reentrant": {"use_reentrant": True},
    "non-reentrant": {"use_reentrant": False},
    "saving the matrix products": saving(MATRIX_PRODUCTS),
    "saving the fused operators": saving(OURS),
}
every_mode = pytest.mark.parametrize("mode", MODES.values(), ids=MODES.keys())
modes_in_a_graph = pytest.mark.parametrize(
    "mode", [m for name, m in MODES.items() if name != "reentrant"], ids=[n for n in MODES if n != "reentrant"]
)


def whole_loss(model):
    return lambda x: model.loss(x).loss


@both_models
@every_mode
def test_whole_training_step(device, build, mode):
    model, x = build().to(device), batch(4, device).requires_grad_()
    torch.manual_seed(7)
    plain = gradients(whole_loss(model)(x), model)
    torch.manual_seed(7)
    checkpoint(whole_loss(model), x, **mode).backward()
    assert_near([p.grad for p in model.parameters()], plain)


# Not with one of the two saved: eager selective checkpointing then draws the other from the generator's first state,
# for PyTorch's own random operators as for these.
@pytest.mark.parametrize("mode", [MODES["reentrant"], MODES["non-reentrant"], MODES["saving the matrix products"]])
def test_two_samples_in_one_region(device, mode):
    mu, logvar = (t.requires_grad_() for t in latents((4, 6), device=device))

    def region(mu, logvar):
        first, kl = vf.reparameterize_with_kl(mu, logvar)
        second = vf.reparameterize(mu, logvar)
        return (first * second.sin()).sum() + kl.square().sum()

    torch.manual_seed(7)
    plain = torch.autograd.grad(region(mu, logvar), (mu, logvar))
    torch.manual_seed(7)
    checkpoint(region, mu, logvar, **mode).backward()
    assert same_bits([mu.grad, logvar.grad], plain)


@pytest.mark.parametrize("reentrant", [False, True])
def test_noise_goes_on_after_the_backward(device, reentrant):
    # The recomputation must put the generator back to where it was, not leave it in the past.
    mu, logvar = (t.requires_grad_() for t in latents((4, 6), device=device))
    torch.manual_seed(7)
    checkpoint(vf.reparameterize, mu, logvar, use_reentrant=reentrant).sum().backward()
    after = vf.reparameterize(mu, logvar)
    torch.manual_seed(7)
    vf.reparameterize(mu, logvar)
    assert torch.equal(vf.reparameterize(mu, logvar), after)


@modes_in_a_graph
def test_gradients_in_a_graph_belong_to_the_noise_of_the_forward(device, mode):
    mu, logvar = (t.requires_grad_() for t in latents((4, 6), device=device))

    def region(mu, logvar):
        return vf.reparameterize_with_kl(mu, logvar)[0].square().sin()

    def step(mu, logvar):
        return checkpoint(region, mu, logvar, **mode)

    # sin(z**2) is small where z is: the value pins the noise of the forward down, item by item.
    torch.manual_seed(7)
    z = vf.reparameterize(mu, logvar).detach()
    torch.manual_seed(7)
    value = torch.compile(step, fullgraph=True, backend="aot_eager")(mu, logvar)
    assert_near([value], [z.square().sin()])
    torch.manual_seed(8)  # what the backward draws again must not come from here
    value.sum().backward()
    slope = z.square().cos() * 2 * z
    assert_near([mu.grad, logvar.grad], [slope, 0.5 * slope * (z - mu.detach())])


@both_models
@modes_in_a_graph
def test_compiled_training_step(device, build, mode):
    model, x = build().to(device), batch(4, device)
    torch.manual_seed(7)
    plain = gradients(whole_loss(model)(x), model)
    compiled = torch.compile(lambda x: checkpoint(whole_loss(model), x, **mode), fullgraph=True, backend="aot_eager")
    torch.manual_seed(7)
    loss = compiled(x)
    torch.manual_seed(8)
    assert_near(gradients(loss, model), plain)


def test_keyed_region_in_a_graph(device):
    mu, logvar = (t.requires_grad_() for t in latents((4, 6), device=device))
    key = key_of(3, 4, device)

    def region(mu, logvar, key):
        z, kl = vf.reparameterize_with_kl(mu, logvar, key=key)
        return z.square().sin().sum() + kl.sum()

    plain = torch.autograd.grad(region(mu, logvar, key), (mu, logvar))
    compiled = torch.compile(
        lambda *o: checkpoint(region, *o, use_reentrant=False), fullgraph=True, backend="aot_eager"
    )
    compiled(mu, logvar, key).backward()
    assert_near([mu.grad, logvar.grad], plain)
