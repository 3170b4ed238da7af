"""Sparse operands are refused by name, whichever of them it is and whatever its layout."""

from __future__ import annotations

import re

import pytest
import torch
from helpers.errors import BOTH
from helpers.inputs import images, latents

import vae_fused as vf

LAYOUTS = {
    torch.sparse_coo: torch.Tensor.to_sparse,
    torch.sparse_csr: torch.Tensor.to_sparse_csr,
    torch.sparse_csc: torch.Tensor.to_sparse_csc,
    torch.sparse_bsr: lambda tensor: tensor.to_sparse_bsr((1, 1)),
    torch.sparse_bsc: lambda tensor: tensor.to_sparse_bsc((1, 1)),
}
pytestmark = pytest.mark.filterwarnings("ignore:Sparse [BC]S[RC] tensor support")


def good_operands():
    """The tensors that each function takes, by name."""
    recon, target = images((4, 6))
    mu, logvar = latents((4, 2))
    posterior = {"mu": mu, "logvar": logvar}
    layer = {"hidden": torch.randn(4, 5), "weight": torch.randn(6, 5), "bias": torch.zeros(6)}
    return {
        "reparameterize": posterior,
        "reparameterize_with_kl": {**posterior, "mask": torch.ones(4, 2)},
        "kl_divergence": {**posterior, "prior_mu": mu, "prior_logvar": logvar, "mask": torch.ones(4, 2)},
        "elbo_loss": {"recon": recon, "target": target, **posterior, "weight": torch.ones(4, 6)},
        "linear_elbo_loss": {**layer, "target": target, **posterior},
    }


# A bias has one dimension, which most of the layouts cannot have.
NAMED = [(function, name) for function, good in good_operands().items() for name in good if name != "bias"]


@BOTH
@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize(("function", "name"), NAMED)
def test_the_operand_is_named(api, function, name, layout, requires_grad):
    operands = good_operands()[function]
    operands[name] = LAYOUTS[layout](operands[name])
    for operand in list(operands.values())[:2]:
        operand.requires_grad_(requires_grad)
    state = torch.get_rng_state()
    with pytest.raises(TypeError, match=f"^{re.escape(f'{name} must be a dense tensor, got one of layout {layout}')}$"):
        getattr(api, function)(**operands)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", ["target", "mu", "weight"])
def test_in_place(name):
    operands = good_operands()["elbo_loss"]
    operands["recon"] = operands["recon"].requires_grad_() + 0
    operands[name] = operands[name].to_sparse()
    before = operands["recon"].detach().clone()
    with pytest.raises(TypeError, match=f"^{name} must be a dense tensor, got one of layout torch.sparse_coo$"):
        vf.elbo_loss(**operands, inplace=True)
    assert torch.equal(operands["recon"], before)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_packed_moments(layout):
    with pytest.raises(TypeError, match=f"^moments must be a dense tensor, got one of layout {layout}$"):
        vf.DiagonalGaussian(LAYOUTS[layout](torch.zeros(4, 6)))


def test_keys():
    key = torch.sparse_coo_tensor(
        torch.tensor([[0]]), torch.tensor([42], dtype=torch.uint64), (2,), check_invariants=True
    )
    mu, logvar = latents((4, 2))
    for call in (
        lambda: vf.standard_normal(key, (4,)),
        lambda: vf.reparameterize(mu, logvar, key=key),
        lambda: vf.reparameterize_with_kl(mu, logvar, key=key),
    ):
        with pytest.raises(TypeError, match=r"^key must be a dense tensor, got one of layout torch\.sparse_coo$"):
            call()
