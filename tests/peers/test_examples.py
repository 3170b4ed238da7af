"""The recipes in examples/ run and learn."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from helpers.inputs import key_of
from helpers.peers import need

need("sklearn")

import vae_fused as vf

EXAMPLES = Path(__file__).parents[2] / "examples"
LIBRARIES = {"pytorch_examples_vae": (), "pythae_loss": ("pythae",), "lightning_module": ("lightning",),
             "pyro_guide": ("pyro",)}  # fmt: skip


def test_every_example_is_here():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(LIBRARIES)


@pytest.mark.parametrize("name", LIBRARIES)
def test_example_learns(name, capsys):
    need(*LIBRARIES[name])
    losses = runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"](epochs=3)
    assert losses[-1] < 0.9 * losses[0]
    assert f"{losses[-1]:.4f}" in capsys.readouterr().out


@pytest.mark.parametrize("name", LIBRARIES)
def test_the_change_is_marked(name):
    text = (EXAMPLES / f"{name}.py").read_text()
    marked = [line for line in text.splitlines() if "# was:" in line or "# the change" in line]
    assert 1 <= len(marked) <= 2


def original_loss(recon_x, x, mu, logvar):
    """The loss of pytorch/examples."""
    cross_entropy = F.binary_cross_entropy(recon_x, x.view(-1, 64), reduction="sum")
    return cross_entropy - 0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)], ids=str)
def test_a_port_follows_the_original_step_by_step(dtype, tolerance):
    """The loop of pytorch/examples twice, with its own formulas and with our calls: the same noise, the same losses."""
    example = runpy.run_path(str(EXAMPLES / "pytorch_examples_vae.py"))

    class Original(example["VAE"]):
        def reparameterize(self, mu, logvar, key=None):
            std = torch.exp(0.5 * logvar)
            eps = vf.standard_normal(key, std.shape, dtype=std.dtype)
            return mu + eps * std

    ported = example["VAE"]().to(dtype)
    original = Original().to(dtype)
    original.load_state_dict(ported.state_dict())
    images = example["digits"]()[0].to(dtype)
    curves = []
    for model, loss_function in ((ported, example["loss_function"]), (original, original_loss)):
        optimizer, curve = torch.optim.Adam(model.parameters(), lr=1e-3), []
        for step in range(30):
            x = images[torch.arange(64).add(step * 64) % len(images)]
            optimizer.zero_grad()
            recon, mu, logvar = model(x, key_of(1, step))
            loss = loss_function(recon, x.view(-1, 64), mu, logvar)
            loss.backward()
            optimizer.step()
            curve.append(loss.item())
        curves.append(torch.tensor(curve, dtype=torch.float64))
    ours, theirs = curves
    assert ours[-1] < 0.7 * ours[0]
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=0)
