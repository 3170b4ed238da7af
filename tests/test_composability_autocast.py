"""Automatic mixed precision: what stays float32, gradient scaling, and training with float16 latents."""

from __future__ import annotations

import pytest
import torch
from helpers import eager
from helpers.inputs import key_of
from helpers.models import batch, both_models, gradients

import vae_fused as vf

mixed_precision = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)


@both_models
@mixed_precision
def test_model_under_autocast(device, build, dtype):
    model, x, key = build().to(device), batch(8, device), key_of(1, 0, device)
    with torch.autocast(device.type, dtype):
        out = model(x, key=key)
        terms = vf.elbo_loss(out.recon, x, kl=out.kl, return_terms=True)
    assert out.mu.dtype == out.logvar.dtype == out.z.dtype == out.recon.dtype == dtype
    assert out.kl.dtype == torch.float32
    assert [term.dtype for term in terms] == [torch.float32] * 3
    for name in ("mu", "logvar", "z", "recon"):
        getattr(out, name).retain_grad()
    terms.loss.backward()
    assert {getattr(out, name).grad.dtype for name in ("mu", "logvar", "z", "recon")} == {dtype}
    assert all(p.grad.dtype == torch.float32 for p in model.parameters())

    # The same layers around the reference: the same values are rounded to `dtype`, and nothing else may be lost.
    with torch.autocast(device.type, dtype):
        mu, logvar = model.encode(x)
        z, kl = vf.reference.reparameterize_with_kl(mu, logvar, key=key)
        expected = vf.reference.elbo_loss(model.decode(z), x, kl=kl)
    torch.testing.assert_close(terms.loss, expected, rtol=1e-5, atol=0.0)
    for p, gradient in zip(model.parameters(), gradients(expected, model), strict=True):
        assert (p.grad - gradient).abs().max() <= 4 * torch.finfo(dtype).eps * gradient.abs().max()


@mixed_precision
def test_loss_keeps_what_half_precision_would_round(device, dtype):
    # 1 + 2**-12 per item is 1 in either half type, and 3000 such items overflow neither float32 nor its digits.
    recon = torch.full((3000, 64), 8.0, device=device, dtype=dtype)
    zero = torch.zeros(3000, 1, device=device, dtype=dtype)
    mu = torch.full_like(zero, 2**-5)
    with torch.autocast(device.type, dtype):
        loss = vf.FusedELBOLoss()(recon, torch.zeros_like(recon), mu, zero)
    assert loss.item() == 64 * 64 + 0.5 * 2**-10


@both_models
@mixed_precision
def test_compiled_under_autocast(device, build, dtype):
    torch.compiler.reset()
    model, x, key = build().to(device), batch(4, device), key_of(1, 0, device)
    compiled = torch.compile(model.loss, fullgraph=True, backend="aot_eager")
    with torch.autocast(device.type, dtype):
        ours, expected = compiled(x, key=key).loss, model.loss(x, key=key).loss
    torch.testing.assert_close(ours, expected)
    found = zip(gradients(ours, model), gradients(expected, model), strict=True)
    for gradient, of_eager in found:
        assert (gradient - of_eager).abs().max() <= 16 * torch.finfo(dtype).eps * of_eager.abs().max()
    torch.compiler.reset()


@pytest.mark.parametrize("scale", [2.0**8, 2.0**16])
def test_grad_scaler_scales_and_unscales(device, scale):
    model, x, key = vf.mlp_vae((1, 8, 8), 6, (32,)).to(device), batch(8, device), key_of(1, 0, device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler(device.type, init_scale=scale)
    expected = gradients(model.loss(x, key=key).loss, model)
    before = [p.detach().clone() for p in model.parameters()]
    scaler.scale(model.loss(x, key=key).loss).backward()
    for p, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, gradient * scale)
    scaler.unscale_(optimizer)
    scaler.step(optimizer)
    scaler.update()
    for p, old, gradient in zip(model.parameters(), before, expected, strict=True):
        torch.testing.assert_close(p.detach(), old - 0.1 * gradient)


def test_grad_scaler_skips_a_step_that_overflows(device):
    model, x = vf.mlp_vae((1, 8, 8), 6, (32,)).to(device), batch(8, device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    # 2**24 times a gradient of the reconstruction is beyond float16, so the backward hands over infinities.
    scaler = torch.amp.GradScaler(device.type, init_scale=2.0**24)
    before = [p.detach().clone() for p in model.parameters()]
    with torch.autocast(device.type, torch.float16):
        loss = model.loss(x, key=key_of(1, 0, device), reduction="sum").loss
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 2.0**23
    assert all(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))


class HalfLatents(torch.nn.Module):
    """A VAE whose encoder hands over float16 latents of a posterior that is still far from the prior."""

    def __init__(self, objective):
        super().__init__()
        self.encoder = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.Tanh(), torch.nn.Linear(32, 16))
        self.decoder = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.Tanh(), torch.nn.Linear(32, 16))
        torch.nn.init.constant_(self.encoder[2].bias[8:], 11.5)  # exp(11.5) is beyond float16, its square root is not
        self.objective = objective

    def forward(self, x):
        mu, logvar = self.encoder(x).half().chunk(2, dim=1)
        return self.objective(mu, logvar, lambda z: self.decoder(z.float()).half(), x.half())


def fused_objective(mu, logvar, decode, x):
    z, kl = vf.reparameterize_with_kl(mu, logvar)
    return vf.elbo_loss(decode(z), x, kl=kl)


def eager_objective(mu, logvar, decode, x):
    recon = decode(eager.reparameterize(mu, logvar, torch.randn_like(mu)))
    kl = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())
    return (torch.nn.functional.mse_loss(recon, x, reduction="sum") + kl) / x.shape[0]


def train(objective, device, steps):
    """The losses of the steps; stops after the first that is not finite."""
    torch.manual_seed(3)
    model, x = HalfLatents(objective).to(device), torch.rand(32, 16).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = model(x)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if not all(torch.isfinite(p).all() for p in (loss, *model.parameters())):
            break
    return losses


def test_float16_latents_train_where_the_eager_formula_overflows(device):
    losses = train(fused_objective, device, 200)
    assert len(losses) == 200
    assert torch.tensor(losses).isfinite().all()
    assert losses[-1] < 1e-3 * losses[0]
    assert not torch.tensor(train(eager_objective, device, 200)).isfinite().all()
