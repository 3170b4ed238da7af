"""What the loss and the divergence refuse, and in which words."""

from __future__ import annotations

import numpy as np
import torch
from helpers.errors import BOTH, Case, assert_refused, named
from helpers.inputs import images, latents
from test_errors_sampling import FLOATING, PAIR, zeros

import vae_fused as vf

DATA = [
    Case({"recon": 1.0}, TypeError, "recon must be a tensor, got float"),
    Case({"recon": None}, TypeError, "recon must be a tensor, got NoneType"),
    Case({"target": None}, TypeError, "target must be a tensor, got NoneType"),
    Case({"target": [[0.0]]}, TypeError, "target must be a tensor, got list"),
    Case({"target": np.zeros((3, 5))}, TypeError, "target must be a tensor, got numpy.ndarray"),
    Case({"recon": zeros(3, 5, dtype=torch.int64)}, TypeError, f"recon {FLOATING} torch.int64"),
    Case(
        {"target": zeros(3, 5, dtype=torch.int32)},
        TypeError,
        "target must be uint8, float16, bfloat16, float32 or float64, got torch.int32",
    ),
    Case({"recon": zeros(()), "target": zeros(())}, ValueError, "recon must have a batch dimension 0, got a 0-dim"),
    Case({"target": zeros(3, 6)}, ValueError, "target must have the shape of recon, [3, 5], got [3, 6]"),
    Case({"target": zeros(1, 5)}, ValueError, "target must have the shape of recon, [3, 5], got [1, 5]"),
    Case({"target": zeros(5)}, ValueError, "target must have the shape of recon, [3, 5], got [5]"),
    Case(
        {"target": zeros(3, 1, 5)},
        ValueError,
        "target must have the shape of recon, [3, 5], got [3, 1, 5], which target.view_as(recon) makes of it",
    ),
    Case({"target": zeros(3, 5, device="meta")}, ValueError, "target must be on the device of recon, cpu, got meta"),
]
LOSSES = "recon_loss must be one of mse, l1, smooth_l1, bce_with_logits, bce, gaussian_nll, laplace_nll, got"
CHOICES = [
    Case({"recon_loss": "huber"}, ValueError, f"{LOSSES} 'huber'"),
    Case({"recon_loss": None}, ValueError, f"{LOSSES} None"),
    Case({"recon_loss": 3}, ValueError, f"{LOSSES} 3"),
    Case({"recon_loss": np.ones(2)}, ValueError, f"{LOSSES} array([1., 1.])"),
    Case({"reduction": "none"}, ValueError, "reduction must be one of batchmean, sum, sample, mean, got 'none'"),
    Case({"reduction": "SUM"}, ValueError, "reduction must be one of batchmean, sum, sample, mean, got 'SUM'"),
    Case({"reduction": ""}, ValueError, "reduction must be one of batchmean, sum, sample, mean, got ''"),
    Case({"reduction": None}, ValueError, "reduction must be one of batchmean, sum, sample, mean, got None"),
    Case({"reduction": 1}, ValueError, "reduction must be one of batchmean, sum, sample, mean, got 1"),
    Case({"reduction": np.ones(2)}, ValueError, "reduction must be one of batchmean, sum, sample, mean, got array("),
]
BETA = [
    Case({"beta": "1"}, TypeError, "beta must be a float or a 0-dimensional tensor, got str"),
    Case({"beta": None}, TypeError, "beta must be a float or a 0-dimensional tensor, got NoneType"),
    Case(
        {"beta": vf.LinearSchedule(0.0, 1.0, 10)},
        TypeError,
        "beta must be a float or a 0-dimensional tensor, got LinearSchedule; its .tensor is one",
    ),
    Case({"beta": [1.0]}, TypeError, "beta must be a float or a 0-dimensional tensor, got list"),
    Case({"beta": True}, TypeError, "beta must be a float or a 0-dimensional tensor, got bool"),
    Case({"beta": 1j}, TypeError, "beta must be a float or a 0-dimensional tensor, got complex"),
    Case({"beta": np.float32(1)}, TypeError, "beta must be a float or a 0-dimensional tensor, got numpy.float32"),
    Case({"beta": zeros(1)}, ValueError, "beta must be a float or a 0-dimensional tensor, got shape [1]"),
    Case({"beta": zeros(3)}, ValueError, "beta must be a float or a 0-dimensional tensor, got shape [3]"),
    Case({"beta": torch.tensor(1)}, TypeError, f"beta {FLOATING} torch.int64"),
    Case(
        {"beta": zeros((), device="meta")},
        ValueError,
        "beta must be on the CPU or on the device of recon, cpu, got meta",
    ),
]
NEITHER = "the KL needs both mu and logvar, or kl, got "
SOURCE = [
    Case({"mu": None, "logvar": None}, ValueError, NEITHER + "none of them"),
    Case({"mu": None}, ValueError, NEITHER + "logvar without mu"),
    Case({"logvar": None}, ValueError, NEITHER + "mu without logvar"),
    Case({"kl": zeros(3)}, ValueError, "kl replaces mu and logvar: give kl, or mu and logvar, got both"),
    Case({"kl": zeros(3), "mu": None}, ValueError, "kl replaces mu and logvar: give kl, or mu and logvar, got both"),
    Case({"mu": zeros(2, 4), "logvar": zeros(2, 4)}, ValueError, "mu must have the batch size of recon, 3, got 2"),
    Case(
        {"mu": zeros(3, 4, device="meta"), "logvar": zeros(3, 4, device="meta")},
        ValueError,
        "mu must be on the device of recon, cpu, got meta",
    ),
]
GIVEN_KL = [
    Case({"kl": 1.0}, TypeError, "kl must be a tensor, got float"),
    Case({"kl": zeros(3, dtype=torch.int64)}, TypeError, f"kl {FLOATING} torch.int64"),
    Case(
        {"kl": zeros(())},
        ValueError,
        "kl must have the shape [batch] of recon, [3], got []: that of every item, as kl_divergence gives it with "
        "reduction='sample'",
    ),
    Case({"kl": zeros(2)}, ValueError, "kl must have the shape [batch] of recon, [3], got [2]"),
    Case({"kl": zeros(1)}, ValueError, "kl must have the shape [batch] of recon, [3], got [1]"),
    Case({"kl": zeros(3, 1)}, ValueError, "kl must have the shape [batch] of recon, [3], got [3, 1]"),
    Case({"kl": zeros(3, device="meta")}, ValueError, "kl must be on the device of recon, cpu, got meta"),
    Case({"reduction": "mean"}, ValueError, "kl cannot be given with reduction='mean': the number of latent elements"),
    *CHOICES[:2],
    *BETA,
]
PRIORS = [
    Case({"prior_mu": 0.0}, TypeError, "prior_mu must be a tensor, got float"),
    Case({"prior_logvar": "0"}, TypeError, "prior_logvar must be a tensor, got str"),
    Case(
        {"prior_mu": zeros(4, dtype=torch.float64)},
        TypeError,
        "prior_mu must have the dtype of mu, torch.float32, got torch.float64",
    ),
    Case(
        {"prior_logvar": zeros(4, dtype=torch.int64)},
        TypeError,
        "prior_logvar must have the dtype of mu, torch.float32, got torch.int64",
    ),
    Case({"prior_mu": zeros(3)}, ValueError, "prior_mu must be broadcastable to the shape of mu, [3, 4], got [3]"),
    Case(
        {"prior_logvar": zeros(1, 3, 4)},
        ValueError,
        "prior_logvar must be broadcastable to the shape of mu, [3, 4], got [1, 3, 4]",
    ),
    Case(
        {"prior_mu": zeros(2, 4)}, ValueError, "prior_mu must be broadcastable to the shape of mu, [3, 4], got [2, 4]"
    ),
    Case({"prior_mu": zeros(0)}, ValueError, "prior_mu must be broadcastable to the shape of mu, [3, 4], got [0]"),
    Case({"prior_mu": zeros(4, device="meta")}, ValueError, "prior_mu must be on the device of mu, cpu, got meta"),
    Case(
        {"prior_logvar": zeros(4, device="meta")}, ValueError, "prior_logvar must be on the device of mu, cpu, got meta"
    ),
]
KL_REDUCTIONS = [
    Case(
        {"reduction": reduction},
        ValueError,
        f"reduction must be one of batchmean, sum, sample, mean, none, got {shown}",
    )
    for reduction, shown in (("SUM", "'SUM'"), ("", "''"), (None, "None"), (2, "2"))
]


def pair():
    mu, logvar = latents((3, 4))
    return {"mu": mu.requires_grad_(), "logvar": logvar}


def data():
    recon, target = images((3, 5))
    return {"recon": recon.requires_grad_(), "target": target}


@BOTH
@named(
    [case for case in PAIR if not getattr(case.replaced.get("mu"), "is_meta", False)][3:]
    + DATA
    + CHOICES
    + BETA
    + SOURCE
)
def test_elbo_loss(api, case):
    assert_refused(api.elbo_loss, {**data(), **pair()}, case)


@BOTH
@named(
    [
        Case({"mu": 1.0}, TypeError, "mu must be a tensor, got float"),
        Case({"logvar": [0.0]}, TypeError, "logvar must be a tensor, got list"),
    ]
)
def test_elbo_loss_of_latents_that_are_no_tensors(api, case):
    assert_refused(api.elbo_loss, {**data(), **pair()}, case)


def test_return_terms_is_a_bool():
    message = "return_terms must be a bool, got str"
    arguments = {**data(), **pair()}
    shaped = vf.FusedELBOLoss(kl_shaping=vf.FreeBits(0.5))
    layer = {"hidden": torch.ones(3, 2), "weight": torch.ones(5, 2), "bias": None, "target": torch.ones(3, 5), **pair()}
    case = Case({"return_terms": "no"}, TypeError, message)
    for function in (vf.elbo_loss, vf.FusedELBOLoss(), shaped):
        assert_refused(function, arguments, case)
    assert_refused(vf.linear_elbo_loss, layer, case)


@BOTH
@named(GIVEN_KL)
def test_elbo_loss_with_given_kl(api, case):
    assert_refused(api.elbo_loss, {**data(), "kl": torch.rand(3)}, case)


@BOTH
@named(PAIR + PRIORS + KL_REDUCTIONS)
def test_kl_divergence(api, case):
    assert_refused(api.kl_divergence, pair(), case)
