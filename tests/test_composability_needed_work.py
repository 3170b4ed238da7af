"""A gradient that nobody asked for is not computed: counted in the operators that run, and in their output_mask."""

from __future__ import annotations

import pytest
import torch
from helpers.inputs import images, key_of, latents
from helpers.models import batch, both_models
from torch.profiler import ProfilerActivity, profile

import vae_fused as vf

pytestmark = pytest.mark.skipif(not vf.build_info()["extension"], reason="the reference has no operators to count")


def calls_in(function):
    """The vae_fused operators that ran, in order: (name, output_mask or None)."""
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as recorded:
        function()
    found = []
    for event in sorted(recorded.events(), key=lambda event: event.time_range.start):
        if event.name.startswith("vae_fused::"):
            masks = [value for value in event.concrete_inputs if isinstance(value, list) and value]
            found.append((event.name.removeprefix("vae_fused::"), masks[-1] if masks else None))
    return found


def gradients_computed(function):
    """How often each operator ran that computes gradients, and which ones it was asked for."""
    return [(name, mask) for name, mask in calls_in(function) if mask is not None]


def operands(device, **wanted):
    named = dict(zip(("recon", "target"), images((4, 7), device=device), strict=True))
    named |= dict(zip(("mu", "logvar"), latents((4, 3), device=device), strict=True))
    return {name: t.requires_grad_(wanted.get(name, False)) for name, t in named.items()}


# Which of recon, mu and logvar want a gradient, and what elbo_loss then computes.
@pytest.mark.parametrize("recon", [False, True])
@pytest.mark.parametrize("mu", [False, True])
@pytest.mark.parametrize("logvar", [False, True])
def test_loss_computes_the_gradients_that_are_wanted(device, recon, mu, logvar):
    o = operands(device, recon=recon, mu=mu, logvar=logvar)

    def step():
        loss = vf.elbo_loss(**o)
        if loss.requires_grad:
            loss.backward()

    expected = [("elbo_loss_with_gradients", [recon, mu, logvar, False, False])] if recon or mu or logvar else []
    assert gradients_computed(step) == expected
    # One incoming gradient per item: the gradients are computed in the backward, and the same ones alone.
    expected = [("elbo_loss_backward", [recon, False, mu, logvar, False, False])] if expected else []

    def step_by_item():
        loss = vf.elbo_loss(**o, reduction="sample")
        if loss.requires_grad:
            loss.sum().backward()

    assert gradients_computed(step_by_item) == expected


def test_gradient_of_the_target_is_computed_on_request_only(device):
    o = operands(device, target=True)
    assert gradients_computed(lambda: vf.elbo_loss(**o).backward()) == [
        ("elbo_loss_backward", [False, True, False, False, False, False])
    ]
    assert o["target"].grad is not None


@pytest.mark.parametrize("mu", [False, True])
@pytest.mark.parametrize("logvar", [False, True])
@pytest.mark.parametrize("use", ["z", "kl", "both"])
def test_sampling_computes_the_gradients_that_are_wanted(device, mu, logvar, use):
    o = operands(device, mu=mu, logvar=logvar)

    def step():
        z, kl = vf.reparameterize_with_kl(o["mu"], o["logvar"], key=key_of(1, 0, device))
        total = (z.sum() if use != "kl" else 0) + (kl.sum() if use != "z" else 0)
        if total.requires_grad:
            total.backward()

    expected = [("reparameterize_backward", [mu, logvar])] if mu or logvar else []
    assert gradients_computed(step) == expected


def test_prior_gradients_are_computed_on_request_only(device):
    mu, logvar = latents((4, 3), device=device)
    prior_mu, prior_logvar = latents((4, 3), device=device)
    prior_mu.requires_grad_()
    assert gradients_computed(lambda: vf.kl_divergence(mu, logvar, prior_mu, prior_logvar).backward()) == [
        ("kl_divergence_backward", [False, False, True, False])
    ]


def frozen(model, *parts):
    for part in parts:
        getattr(model, part).requires_grad_(False)
    return model


SAMPLING = "reparameterize_backward"
LOSS = "elbo_loss_with_gradients"
WITH_KL, WITHOUT_KL = [True, False, False, True, False], [True, False, False, False, False]


@both_models
@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ((), [(LOSS, WITH_KL), (SAMPLING, [True, True])]),
        (("encoder",), [(LOSS, WITH_KL), (SAMPLING, [True, True])]),
        (("encoder", "logvar_head"), [(LOSS, WITH_KL), (SAMPLING, [True, False])]),
        (("encoder", "mu_head"), [(LOSS, WITH_KL), (SAMPLING, [False, True])]),
        (("encoder", "mu_head", "logvar_head"), [(LOSS, WITHOUT_KL)]),
        (("decoder",), [(LOSS, WITH_KL), (SAMPLING, [True, True])]),
        (("encoder", "mu_head", "logvar_head", "decoder"), []),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, tuple) else "",
)
def test_frozen_parts_of_a_model(device, build, parts, expected):
    model, x = frozen(build().to(device), *parts), batch(4, device)

    def step():
        loss = model.loss(x).loss
        if loss.requires_grad:
            loss.backward()

    assert gradients_computed(step) == expected


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_no_gradients_where_none_can_be_asked_for(device, mode):
    o = operands(device, recon=True, mu=True, logvar=True)

    def step():
        with mode():
            vf.reparameterize_with_kl(o["mu"], o["logvar"])
            vf.elbo_loss(**o)

    names = [name for name, mask in calls_in(step)]
    assert set(names) == {"reparameterize_with_kl", "elbo_loss"}
    assert gradients_computed(step) == []


def test_frozen_encoder_in_a_graph(device):
    torch.compiler.reset()
    model, x = frozen(vf.mlp_vae((1, 8, 8), 6, (32,)).to(device), "encoder", "mu_head", "logvar_head"), batch(4, device)
    compiled = torch.compile(model.loss, fullgraph=True, backend="aot_eager")
    compiled(x).loss.backward()
    found = gradients_computed(lambda: compiled(x).loss.backward())
    torch.compiler.reset()
    assert found == [("elbo_loss_backward", [True, False, False, False, False, False])]
