"""Saving, loading and copying; modes without gradients; deterministic algorithms."""

from __future__ import annotations

import copy
import io
import pickle
import warnings

import pytest
import torch
from helpers.comparing import same_bits
from helpers.inputs import images, key_of, keys_of, latents
from helpers.models import batch, both_models, gradients

import vae_fused as vf


def through_a_file(value):
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@both_models
def test_training_goes_on_from_a_checkpoint(device, build):
    def steps(model, optimizer, indices):
        for index in indices:
            optimizer.zero_grad()
            model.loss(x, key=key_of(index, 0, device)).loss.backward()
            optimizer.step()
        return [p.detach() for p in model.parameters()]

    def fresh():
        model = build().to(device)
        return model, torch.optim.Adam(model.parameters(), lr=0.01)

    x = batch(4, device)
    model, optimizer = fresh()
    steps(model, optimizer, range(2))
    saved = through_a_file({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "keys": keys_of([1, 2])})
    expected = steps(model, optimizer, range(2, 5))
    resumed, resumed_optimizer = fresh()
    resumed.load_state_dict(saved["model"])
    resumed_optimizer.load_state_dict(saved["optimizer"])
    assert same_bits(steps(resumed, resumed_optimizer, range(2, 5)), expected)
    assert torch.equal(saved["keys"], keys_of([1, 2]))


@pytest.mark.parametrize("beta", [0.1, torch.tensor(0.1)], ids=["float", "tensor"])
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c))], ids=["copy", "pickle"])
def test_criterion_copies_are_independent(device, beta, duplicate):
    operands = (*images((4, 6), device=device), *latents((4, 3), device=device))
    criterion = vf.FusedELBOLoss(beta=beta, reduction="sum")
    other = duplicate(criterion)
    assert torch.equal(other(*operands), vf.elbo_loss(*operands, beta=beta, reduction="sum"))
    other.beta = 3.0
    assert float(criterion.beta) == pytest.approx(0.1)
    assert not torch.equal(criterion(*operands), other(*operands))


@both_models
def test_deepcopy_of_a_model_trains_on_its_own(device, build):
    model, x, key = build().to(device), batch(4, device), key_of(1, 0, device)
    clone = copy.deepcopy(model)
    before = model.loss(x, key=key).loss
    clone.loss(x, key=key).loss.backward()
    torch.optim.SGD(clone.parameters(), lr=0.1).step()
    assert torch.equal(model.loss(x, key=key).loss, before)
    assert clone.loss(x, key=key).loss < before


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@both_models
def test_modes_without_gradients(device, build, mode):
    model, x, key = build().to(device), batch(4, device), key_of(1, 0, device)
    expected = [*model(x, key=key), *model.loss(x, key=key)]
    with mode():
        found = [*model(x, key=key), *model.loss(x, key=key)]
        noise = vf.standard_normal(key, (3,))
    assert not any(t.requires_grad for t in found)
    assert all(t.is_inference() == (mode is torch.inference_mode) for t in (*found, noise))
    assert same_bits(found, expected)


def test_inference_tensors_are_data_of_a_later_training_step(device):
    model, key = vf.mlp_vae((1, 8, 8), 6, (32,)).to(device), key_of(1, 0, device)
    x = batch(4, device)
    with torch.inference_mode():
        made = x * 1.0
    recon = model(x, key=key).recon
    expected = gradients(vf.elbo_loss(recon, x, kl=x.new_zeros(4)), model.decoder)
    # As for F.mse_loss: autograd refuses to save an inference tensor, and says so; a clone is an ordinary tensor.
    with pytest.raises(RuntimeError, match="Inference tensors cannot be saved for backward"):
        vf.elbo_loss(model(x, key=key).recon, made, kl=x.new_zeros(4))
    loss = vf.elbo_loss(model(x, key=key).recon, made.clone(), kl=x.new_zeros(4))
    assert same_bits(gradients(loss, model.decoder), expected)


@both_models
def test_deterministic_algorithms(device, build):
    model, x, key = build().to(device), batch(4, device), key_of(1, 0, device)
    expected = gradients(model.loss(x, key=key).loss, model)
    torch.use_deterministic_algorithms(True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            runs = [gradients(model.loss(x, key=key).loss, model) for _ in range(2)]
            z = vf.reparameterize(*latents((4, 6), device=device))
    finally:
        torch.use_deterministic_algorithms(False)
    assert same_bits(*runs)
    assert z.isfinite().all()
    torch.testing.assert_close(runs[0], expected)
