"""What the reconstruction terms refuse, and in which words."""

from __future__ import annotations

import math
import re

import pytest
import torch
from helpers.errors import BOTH, Case, assert_refused, named
from helpers.inputs import images, latents
from torch import nn

import vae_fused as vf
from vae_fused._arguments import RECON_LOSSES
from vae_fused._library import ops

needs_kernels = pytest.mark.skipif(not vf.build_info()["extension"], reason="built without the extension")


def good(**more):
    recon, target = images((3, 5))
    mu, logvar = latents((3, 4))
    return {"recon": recon.requires_grad_(), "target": target, "mu": mu, "logvar": logvar, **more}


FLOATING = "must be float16, bfloat16, float32 or float64, got"
POSITIVE_FLOAT = "smooth_l1_beta must be positive and in the range of float32"
ONLY_SMOOTH = "smooth_l1_beta is for recon_loss smooth_l1, got 'mse'"
ONLY_LIKELIHOODS = "is for recon_loss gaussian_nll and laplace_nll, got"
NO_CONSTANT = "full adds the constant of gaussian_nll or laplace_nll, which recon_loss='mse' does not have"
WEIGHT_SHAPE = "weight must be broadcastable to the shape of recon, [3, 5], got"
ANY_TERM = [
    Case({"weight": 1.0}, TypeError, "weight must be a tensor, got float"),
    Case({"weight": [1.0]}, TypeError, "weight must be a tensor, got list"),
    Case(
        {"weight": torch.ones(3, 5, dtype=torch.int64)},
        TypeError,
        "weight must be bool, float16, bfloat16, float32 or float64, got torch.int64",
    ),
    Case({"weight": torch.ones(3, 4)}, ValueError, f"{WEIGHT_SHAPE} [3, 4]"),
    Case({"weight": torch.ones(3)}, ValueError, f"{WEIGHT_SHAPE} [3]"),
    Case({"weight": torch.ones(1, 3, 5)}, ValueError, f"{WEIGHT_SHAPE} [1, 3, 5]"),
    Case(
        {"weight": torch.ones(3, 5, device="meta")}, ValueError, "weight must be on the device of recon, cpu, got meta"
    ),
    Case(
        {"weight": torch.ones(3, 5, requires_grad=True)},
        ValueError,
        "weight must not require a gradient: it is a constant factor of the reconstruction",
    ),
    Case({"recon_weight": "1"}, TypeError, "recon_weight must be a number, got str"),
    Case({"recon_weight": torch.ones(())}, TypeError, "recon_weight must be a number, got Tensor"),
    Case({"recon_weight": True}, TypeError, "recon_weight must be a number, got bool"),
    Case({"full": 1}, TypeError, "full must be a bool, got int"),
    Case({"full": None}, TypeError, "full must be a bool, got NoneType"),
    Case({"smooth_l1_beta": None}, TypeError, "smooth_l1_beta must be a number, got NoneType"),
    Case({"smooth_l1_beta": 0}, ValueError, f"{POSITIVE_FLOAT}, got 0"),
    Case({"smooth_l1_beta": -0.5}, ValueError, f"{POSITIVE_FLOAT}, got -0.5"),
    Case({"smooth_l1_beta": 1e39}, ValueError, f"{POSITIVE_FLOAT}, got 1e+39"),
    Case({"smooth_l1_beta": math.nan}, ValueError, f"{POSITIVE_FLOAT}, got nan"),
]
SQUARED_ERROR = [
    Case({"full": True}, ValueError, NO_CONSTANT),
    Case({"smooth_l1_beta": 0.5}, ValueError, ONLY_SMOOTH),
    Case({"log_sigma": 0.0}, ValueError, f"log_sigma {ONLY_LIKELIHOODS} 'mse'"),
    Case({"log_sigma": torch.zeros(())}, ValueError, f"log_sigma {ONLY_LIKELIHOODS} 'mse'"),
    Case({"log_sigma": "optimal"}, ValueError, f"log_sigma {ONLY_LIKELIHOODS} 'mse'"),
    Case({"log_sigma_floor": -6.0}, ValueError, f"log_sigma_floor {ONLY_LIKELIHOODS} 'mse'"),
]
KINDS = "log_sigma must be a number, a tensor or 'optimal', got"
SIGMA_SHAPE = "log_sigma must be broadcastable to the shape of recon, [3, 5], got"
LIKELIHOOD = [
    Case({"log_sigma": [0.0]}, TypeError, f"{KINDS} list"),
    Case({"log_sigma": True}, TypeError, f"{KINDS} bool"),
    Case({"log_sigma": "best"}, ValueError, f"{KINDS} 'best'"),
    Case({"log_sigma": torch.zeros(3, 5, dtype=torch.int32)}, TypeError, f"log_sigma {FLOATING} torch.int32"),
    Case({"log_sigma": torch.zeros(4)}, ValueError, f"{SIGMA_SHAPE} [4]"),
    Case({"log_sigma": torch.zeros(1, 1, 5)}, ValueError, f"{SIGMA_SHAPE} [1, 1, 5]"),
    Case(
        {"log_sigma": torch.zeros(5, device="meta")},
        ValueError,
        "log_sigma must be on the device of recon, cpu, got meta",
    ),
    Case({"log_sigma_floor": "low"}, TypeError, "log_sigma_floor must be a number, got str"),
    Case({"log_sigma_floor": math.nan}, ValueError, "log_sigma_floor must be a number below infinity, got nan"),
    Case({"log_sigma_floor": math.inf}, ValueError, "log_sigma_floor must be a number below infinity, got inf"),
]


@BOTH
@named(ANY_TERM + SQUARED_ERROR)
def test_squared_error(api, case):
    assert_refused(api.elbo_loss, good(), case)


@BOTH
@named([*LIKELIHOOD, *ANY_TERM])
def test_likelihood(api, case):
    assert_refused(api.elbo_loss, good(recon_loss="gaussian_nll", log_sigma=0.5), case)


@BOTH
@pytest.mark.parametrize("recon_loss", ["gaussian_nll", "laplace_nll"])
def test_likelihood_without_a_sigma(api, recon_loss):
    case = Case({}, ValueError, f"log_sigma is missing, which recon_loss='{recon_loss}' needs")
    assert_refused(api.elbo_loss, good(recon_loss=recon_loss), case)


@BOTH
def test_optimal_sigma(api):
    of_laplace = Case({"recon_loss": "laplace_nll"}, ValueError, "log_sigma='optimal' is for recon_loss gaussian_nll")
    in_place = Case({"inplace": True}, ValueError, "log_sigma must not be 'optimal' with inplace=True")
    for case in (of_laplace, in_place):
        assert_refused(api.elbo_loss, good(recon_loss="gaussian_nll", log_sigma="optimal"), case)


@needs_kernels
def test_the_operators_say_the_same():
    # Where Python has no say: a caller of the operators, and what only they can be given.
    recon, target, mu, logvar = good().values()

    def call(recon_loss, **term):
        ops.elbo_loss.default(recon, target, mu, logvar, None, 1.0, None, recon_loss, "sum", **term)

    with pytest.raises(ValueError, match=rf"^recon_loss must be one of {', '.join(RECON_LOSSES)}, got 'huber'"):
        call("huber")
    with pytest.raises(ValueError, match=r"^log_sigma and log_sigma_value are two sources of the same"):
        call("gaussian_nll", log_sigma=torch.zeros(()), log_sigma_value=0.0)
    functions = {"log_sigma": "gaussian_nll", "weight": "mse"}
    for case in [*ANY_TERM[2:8], *LIKELIHOOD[3:7]]:
        ((name, value),) = case.replaced.items()
        with pytest.raises(case.error) as caught:
            call(functions[name], **{name: value})
        assert str(caught.value).startswith(case.message)
    for recon_loss, term, message in [
        ("gaussian_nll", {}, "log_sigma is missing, which recon_loss='gaussian_nll' needs"),
        ("mse", {"log_sigma_value": 0.0}, f"log_sigma {ONLY_LIKELIHOODS} 'mse'"),
        ("mse", {"full": True}, NO_CONSTANT),
        (
            "smooth_l1",
            {"smooth_l1_beta": -0.5},
            f"{POSITIVE_FLOAT}, got -0.5",
        ),
        ("mse", {"smooth_l1_beta": 0.5}, ONLY_SMOOTH),
    ]:
        with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
            call(recon_loss, **term)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"full": True}, ValueError, NO_CONSTANT),
        ({"recon_weight": None}, TypeError, "recon_weight must be a number, got NoneType"),
        (
            {"recon_loss": "smooth_l1", "smooth_l1_beta": 0},
            ValueError,
            "smooth_l1_beta must be positive and in the range of float32, got 0",
        ),
        ({"log_sigma": nn.Parameter(torch.zeros(()))}, ValueError, f"log_sigma {ONLY_LIKELIHOODS} 'mse'"),
        ({"recon_loss": "gaussian_nll", "log_sigma": "best"}, ValueError, f"{KINDS} 'best'"),
        (
            {"recon_loss": "gaussian_nll", "log_sigma": "optimal", "inplace": True},
            ValueError,
            "log_sigma must not be 'optimal' with inplace=True",
        ),
    ],
)
def test_constructor(arguments, error, message):
    with pytest.raises(error) as caught:
        vf.FusedELBOLoss(**arguments)
    assert str(caught.value).startswith(message)


def test_log_sigma_of_module_and_call():
    operands = good()
    criterion = vf.FusedELBOLoss(recon_loss="gaussian_nll", log_sigma=0.5)
    with pytest.raises(ValueError, match=r"^log_sigma was given to the module: give it to the module or to the call"):
        criterion(**operands, log_sigma=0.5)
    with pytest.raises(ValueError, match=r"^log_sigma is missing, which recon_loss='gaussian_nll' needs"):
        vf.FusedELBOLoss(recon_loss="gaussian_nll")(**operands)


@pytest.mark.parametrize("recon_loss", ["bce", "gaussian_nll"])
def test_a_fused_output_layer_has_no_term_that_asks_for_more_than_its_output(recon_loss):
    with pytest.raises(ValueError, match=f"^recon_loss must be one of mse, l1, .* got '{recon_loss}'$"):
        vf.FusedLinearELBOLoss(4, 5, recon_loss=recon_loss)
