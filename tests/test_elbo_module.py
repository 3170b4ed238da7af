"""FusedELBOLoss as a drop-in for a hand-written loss."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from helpers import eager
from helpers.inputs import images, latents

import vae_fused as vf


def operands_of(device):
    return (*images((4, 3, 5), torch.float32, device), *latents((4, 6), torch.float32, device))


def hand_written(recon, target, mu, logvar, beta):
    """The loss of most VAE examples."""
    squared_error = torch.nn.functional.mse_loss(recon, target, reduction="sum")
    kl = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())
    return squared_error + beta * kl


@pytest.mark.parametrize("beta", [1.0, 0.25, 4])
def test_takes_the_place_of_the_hand_written_loss(device, beta):
    ours, theirs = (eager.leaves(*o) for o in [operands_of(device)] * 2)
    loss = vf.FusedELBOLoss(beta=beta, reduction="sum")(*ours)
    expected = hand_written(*theirs, beta)
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    loss.backward()
    expected.backward()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-5, atol=1e-6)


def test_defaults_are_the_elbo_of_a_batch(device):
    operands = operands_of(device)
    torch.testing.assert_close(vf.FusedELBOLoss()(*operands), hand_written(*operands, 1.0) / 4, rtol=1e-6, atol=0)


@pytest.mark.parametrize("reduction", eager.REDUCTIONS)
def test_is_the_function(device, reduction):
    operands = operands_of(device)
    criterion = vf.FusedELBOLoss(beta=0.3, recon_loss="mse", reduction=reduction)
    expected = vf.elbo_loss(*operands, beta=0.3, reduction=reduction, return_terms=True)
    assert torch.equal(criterion(*operands), expected.loss)
    terms = criterion(*operands, return_terms=True)
    assert isinstance(terms, vf.ELBOTerms)
    assert terms._fields == ("loss", "reconstruction", "kl")
    assert all(torch.equal(a, b) for a, b in zip(terms, expected, strict=True))


def test_takes_the_kl_of_the_sampling(device):
    recon, target, mu, logvar = operands_of(device)
    _, kl = vf.reparameterize_with_kl(mu, logvar)
    criterion = vf.FusedELBOLoss(beta=0.3)
    torch.testing.assert_close(criterion(recon, target, kl=kl), criterion(recon, target, mu, logvar))


def test_beta_may_be_set_at_any_time(device):
    operands = operands_of(device)
    criterion = vf.FusedELBOLoss()
    for beta in (0.0, 0.5, torch.tensor(0.75, device=device)):
        criterion.beta = beta
        assert torch.equal(criterion(*operands), vf.elbo_loss(*operands, beta=beta))
    criterion.beta.fill_(0.1)  # a schedule that writes into its tensor
    assert torch.equal(criterion(*operands), vf.elbo_loss(*operands, beta=torch.tensor(0.1)))
    with pytest.raises(TypeError, match="beta must be a float or a 0-dimensional tensor, got str"):
        criterion.beta = "1"
    assert criterion.beta == torch.tensor(0.1)


def test_beta_may_be_a_parameter_of_somebody_else(device):
    operands = operands_of(device)
    learned = torch.nn.Parameter(torch.tensor(0.5, device=device))
    criterion = vf.FusedELBOLoss(beta=learned)
    assert criterion.beta is learned
    assert list(criterion.parameters()) == []
    loss, _, kl = criterion(*operands, return_terms=True)
    torch.testing.assert_close(torch.autograd.grad(loss, learned)[0], kl)
    criterion.beta = 0.25
    assert torch.equal(criterion(*operands), vf.elbo_loss(*operands, beta=0.25))
    criterion.beta = learned
    assert torch.equal(criterion(*operands), loss)


@pytest.mark.parametrize("beta", [0.5, torch.tensor(0.5)], ids=["float", "tensor"])
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["copy", "pickle"])
def test_copies_and_pickles(beta, duplicate):
    criterion = vf.FusedELBOLoss(beta=beta, reduction="sum")
    double = duplicate(criterion)
    operands = operands_of("cpu")
    assert torch.equal(double(*operands), criterion(*operands))
    double.beta = 2.0
    assert criterion.beta == 0.5


def test_has_no_state():
    criterion = vf.FusedELBOLoss(beta=0.5)
    assert criterion.state_dict() == {}
    assert list(criterion.parameters()) == []
    criterion.load_state_dict({})
    # A checkpoint of the model that it is part of does not depend on it.
    assert torch.nn.ModuleDict({"criterion": criterion}).state_dict() == {}


def test_train_eval_and_moves(device):
    criterion = vf.FusedELBOLoss().to(device).double().eval()
    operands = operands_of(device)
    assert torch.equal(criterion(*operands), vf.FusedELBOLoss().train()(*operands))


def test_repr_says_what_it_is():
    criterion = vf.FusedELBOLoss(beta=0.5, reduction="sum")
    assert repr(criterion) == "FusedELBOLoss(beta=0.5, recon_loss='mse', reduction='sum')"


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"beta": "1"}, TypeError, "beta must be a float or a 0-dimensional tensor, got str"),
        ({"beta": None}, TypeError, "beta must be a float or a 0-dimensional tensor, got NoneType"),
        ({"beta": True}, TypeError, "beta must be a float or a 0-dimensional tensor, got bool"),
        ({"beta": torch.ones(2)}, ValueError, r"beta must be a float or a 0-dimensional tensor, got shape \[2\]"),
        ({"beta": torch.tensor(1)}, TypeError, "beta must be float16, bfloat16, float32 or float64, got torch.int64"),
        ({"recon_loss": "huber"}, ValueError, "recon_loss must be one of mse, l1, .*, got 'huber'"),
        ({"reduction": "none"}, ValueError, "reduction must be one of batchmean, sum, sample, mean, got 'none'"),
        ({"reduction": None}, ValueError, "reduction must be one of batchmean, sum, sample, mean, got None"),
    ],
)
def test_bad_constructor_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        vf.FusedELBOLoss(**arguments)


def test_bad_operands():
    recon, target, mu, logvar = operands_of("cpu")
    with pytest.raises(ValueError, match="got mu without logvar"):
        vf.FusedELBOLoss()(recon, target, mu)
    with pytest.raises(ValueError, match="target must have the shape of recon"):
        vf.FusedELBOLoss()(recon, target[:2], mu, logvar)
