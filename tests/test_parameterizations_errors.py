"""What the arguments of a posterior's scale refuse, in which words, before anything is computed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.errors import BOTH, Case, assert_refused, named

import vae_fused as vf
from vae_fused._library import ops

NAMES = "logvar, log_std, std, var, exp_std, exp_var, softplus_std, softplus_var"
KINDS = "hard, soft, straight_through"
INFINITY = float("inf")

SCALE = [
    Case({"parameterization": "sigma"}, ValueError, f"parameterization must be one of {NAMES}, got 'sigma'"),
    Case({"parameterization": None}, ValueError, f"parameterization must be one of {NAMES}, got None"),
    Case({"epsilon": -1e-4}, ValueError, "epsilon must be finite and not negative, got -0.0001"),
    Case({"epsilon": INFINITY}, ValueError, "epsilon must be finite and not negative, got inf"),
    Case({"epsilon": float("nan")}, ValueError, "epsilon must be finite and not negative, got nan"),
    Case({"epsilon": torch.zeros(2)}, TypeError, "epsilon must be a number, got Tensor"),
    Case({"epsilon": torch.tensor(0.0)}, TypeError, "epsilon must be a number, got Tensor"),
    Case({"epsilon": False}, TypeError, "epsilon must be a number, got bool"),
    Case({"epsilon": "small"}, TypeError, "epsilon must be a number, got str"),
    Case({"epsilon": torch.tensor(0.1)}, TypeError, "epsilon must be a number, got Tensor"),
    Case({"parameterization": np.ones(2)}, ValueError, f"parameterization must be one of {NAMES}, got array([1., 1.])"),
    Case({"clamp": np.ones(2)}, ValueError, f"clamp must be one of {KINDS}, got array([1., 1.])"),
    Case({"clamp": "tanh"}, ValueError, f"clamp must be one of {KINDS}, got 'tanh'"),
    Case({"clamp": "soft"}, ValueError, "clamp='soft' needs logvar_clamp, got None"),
    Case({"clamp": "straight_through"}, ValueError, "clamp='straight_through' needs logvar_clamp, got None"),
    Case({"logvar_clamp": 20.0}, TypeError, "logvar_clamp must be a pair of numbers or None, got float"),
    Case({"logvar_clamp": (20.0,)}, ValueError, "logvar_clamp must be (low, high), got 1 values"),
    Case({"logvar_clamp": (None, 20.0)}, TypeError, "logvar_clamp must hold numbers, got NoneType"),
    Case(
        {"logvar_clamp": (20, -30.5)}, ValueError, "logvar_clamp must be (low, high) with low <= high, got (20, -30.5)"
    ),
    Case(
        {"logvar_clamp": (float("nan"), 1.0)}, ValueError, "logvar_clamp must be (low, high) with low <= high, got (nan"
    ),
    Case(
        {"logvar_clamp": (-INFINITY, 1.0), "clamp": "soft"},
        ValueError,
        "clamp='soft' needs a finite logvar_clamp with low < high, got (-inf, 1)",
    ),
    Case(
        {"logvar_clamp": (1.0, 1.0), "clamp": "soft"},
        ValueError,
        "clamp='soft' needs a finite logvar_clamp with low < high, got (1, 1)",
    ),
]
TEMPERATURE = [
    Case({"temperature": -0.5}, ValueError, "temperature must be finite and not negative, got -0.5"),
    Case({"temperature": INFINITY}, ValueError, "temperature must be finite and not negative, got inf"),
    Case({"temperature": float("nan")}, ValueError, "temperature must be finite and not negative, got nan"),
    Case({"temperature": torch.ones(2)}, TypeError, "temperature must be a number, got Tensor"),
    Case({"temperature": True}, TypeError, "temperature must be a number, got bool"),
    Case({"temperature": "hot"}, TypeError, "temperature must be a number, got str"),
    Case({"temperature": torch.tensor(0.5)}, TypeError, "temperature must be a number, got Tensor"),
]
MASK = [
    Case({"mask": [1.0]}, TypeError, "mask must be a tensor, got list"),
    Case(
        {"mask": torch.ones(3, 4, dtype=torch.int64)},
        TypeError,
        "mask must be bool, float16, bfloat16, float32 or float64, got torch.int64",
    ),
    Case({"mask": torch.ones(3)}, ValueError, "mask must be broadcastable to the shape of mu, [3, 4], got [3]"),
    Case(
        {"mask": torch.ones(1, 3, 4)},
        ValueError,
        "mask must be broadcastable to the shape of mu, [3, 4], got [1, 3, 4]",
    ),
    Case({"mask": torch.ones(3, 4, device="meta")}, ValueError, "mask must be on the device of mu, cpu, got meta"),
    Case({"mask": torch.ones(3, 4, requires_grad=True)}, ValueError, "mask must not require a gradient: it has none"),
]


def good():
    return {"mu": torch.randn(3, 4), "logvar": torch.rand(3, 4)}


@BOTH
@named(SCALE + TEMPERATURE)
def test_reparameterize(api, case):
    assert_refused(api.reparameterize, good(), case)


@BOTH
@named(SCALE + MASK)
def test_reparameterize_with_kl(api, case):
    assert_refused(api.reparameterize_with_kl, good(), case)


@BOTH
@named(SCALE + MASK)
def test_kl_divergence(api, case):
    assert_refused(api.kl_divergence, good(), case)


# What Python catches first has to be refused by an operator that is called as such, in the same words.
OF_OPERATOR = [
    *(
        case
        for case in SCALE
        if "logvar_clamp" not in case.replaced and "array" not in case.message and case.error is ValueError
    ),
    Case({"logvar_min": 1.0}, ValueError, "logvar_clamp must be (low, high), got one bound"),
    Case({"logvar_min": 1.0, "logvar_max": 0.0}, ValueError, "logvar_clamp must be (low, high) with low <= high, got"),
    Case(
        {"logvar_min": -INFINITY, "logvar_max": 1.0, "clamp": "soft"},
        ValueError,
        "clamp='soft' needs a finite logvar_clamp with low < high, got (-inf, 1)",
    ),
]


@pytest.mark.skipif(not vf.build_info()["extension"], reason="built without the extension")
@pytest.mark.parametrize("device", ["cpu", "meta"])
@named([case for case in OF_OPERATOR if case.replaced.get("parameterization", "") is not None] + MASK[1:4])
def test_operators(case, device):
    if device == "meta" and case.replaced.get("mask") is not None:
        case = case._replace(replaced={"mask": case.replaced["mask"].to("meta")})
    operands = {name: tensor.to(device) for name, tensor in good().items()}
    none = {"prior_mu": None, "prior_logvar": None, "reduction": "sum"}
    assert_refused(ops.kl_divergence.default, {**operands, **none}, case)
    assert_refused(ops.reparameterize_with_kl.generator, operands, case)
