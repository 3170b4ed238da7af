"""torch.export: encoder, decoder and the whole model run outside Python's code for them, with the same values."""

from __future__ import annotations

import io

import pytest
import torch
from helpers.comparing import assert_near, same_bits
from helpers.inputs import key_of, keys_of
from helpers.models import batch, both_models

import vae_fused as vf


class Part(torch.nn.Module):
    """A method of the model as a module, which is what torch.export takes."""

    def __init__(self, model, method):
        super().__init__()
        self.model, self.method = model, method

    def forward(self, x):
        return getattr(self.model, self.method)(x)


class Loss(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x, key):
        return self.model.loss(x, key=key)


def saved_and_loaded(program):
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    return torch.export.load(file).module()


ANY_BATCH = {0: torch.export.Dim("items", min=2, max=1000)}


@both_models
@pytest.mark.parametrize("strict", [False, True], ids=["non-strict", "strict"])
def test_encoder_and_decoder(device, build, strict):
    model = build().to(device).eval()
    for method, example, other in (
        ("encode", batch(4, device), batch(7, device)),
        ("decode", torch.randn(4, 6, device=device), torch.randn(7, 6, device=device)),
    ):
        part = Part(model, method)
        program = torch.export.export(part, (example,), dynamic_shapes=(ANY_BATCH,), strict=strict)
        run = saved_and_loaded(program)
        for x in (example, other):
            ours, expected = run(x), part(x)
            assert_near(*([t] if isinstance(t, torch.Tensor) else t for t in (ours, expected)))


@both_models
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("per_item", [False, True], ids=["one key", "key per item"])
def test_whole_model_with_a_key(device, build, training, per_item):
    model = build().to(device).train(training)
    x, other = batch(4, device), batch(4, device)
    first, second = (
        keys_of(seeds, device) if per_item else key_of(seeds[0], 0, device) for seeds in ([1] * 4, [2] * 4)
    )
    run = saved_and_loaded(torch.export.export(model, (x,), {"key": first}))
    for inputs, key in ((x, first), (other, second)):
        assert_near(run(inputs, key=key), model(inputs, key=key))
    assert torch.equal(run(x, key=first).z, run(x, key=second).z) == (not training)


def test_noise_without_a_key_is_drawn_when_the_program_runs(device):
    model, x = vf.mlp_vae((1, 8, 8), 6, (32,)).to(device), batch(4, device)
    run = saved_and_loaded(torch.export.export(model, (x,)))
    torch.manual_seed(3)
    drawn = [run(x).z for _ in range(2)]
    torch.manual_seed(3)
    assert_near(drawn, [model(x).z for _ in range(2)])
    assert not torch.equal(*drawn)


@both_models
def test_exported_loss_of_any_batch_size_trains(device, build):
    model, key = build().to(device), key_of(5, 0, device)
    x, larger = batch(4, device), batch(9, device)
    run = torch.export.export(Loss(model), (x, key), dynamic_shapes=(ANY_BATCH, None)).module()
    run(larger, key).loss.backward()
    model.loss(larger, key=key).loss.backward()
    found = [dict(run.named_parameters())[f"model.{name}"].grad for name, _ in model.named_parameters()]
    assert_near(found, [p.grad for p in model.parameters()])


def test_decompositions_leave_the_operators_whole(device):
    model, x, key = vf.mlp_vae((1, 8, 8), 6, (32,)).to(device), batch(4, device), key_of(1, 0, device)
    program = torch.export.export(Loss(model), (x, key)).run_decompositions()
    called = [str(node.target) for node in program.graph.nodes if "vae_fused" in str(node.target)]
    if vf.build_info()["extension"]:
        assert called == ["vae_fused.reparameterize_with_kl.default", "vae_fused.elbo_loss.default"]
    assert same_bits(program.module()(x, key), model.loss(x, key=key))
