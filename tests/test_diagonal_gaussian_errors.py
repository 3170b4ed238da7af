"""What DiagonalGaussian refuses, and in which words; what the operators below it refuse is the same."""

from __future__ import annotations

import math
import re

import pytest
import torch
from helpers.errors import Case, assert_refused, named
from helpers.inputs import key_of, keys_of

import vae_fused as vf
from vae_fused._library import ops

FLOATING = "must be float16, bfloat16, float32 or float64, got"


def zeros(*shape, **options):
    return torch.zeros(*shape, **options)


MOMENTS = [
    Case({"moments": zeros(3, 4, dtype=torch.int64)}, TypeError, f"moments {FLOATING} torch.int64"),
    Case({"moments": zeros(3, 4, dtype=torch.complex64)}, TypeError, f"moments {FLOATING} torch.complex64"),
    Case({"moments": zeros(())}, ValueError, "moments must have a batch dimension 0, got a 0-dimensional tensor"),
    Case(
        {"moments": zeros(4)},
        ValueError,
        "moments must have a batch dimension 0 and one that holds mean and logvar, got shape [4]",
    ),
    Case(
        {"moments": zeros(3, 5)},
        ValueError,
        "moments must have an even size in dimension 1 to hold mean and logvar, got shape [3, 5]",
    ),
    Case({"dim": 0}, ValueError, "dim must not be the batch dimension 0, got 0"),
    Case({"dim": -2}, ValueError, "dim must not be the batch dimension 0, got -2"),
    Case({"dim": 2}, ValueError, "dim must be between -2 and 1 for moments of shape [3, 4], got 2"),
    Case({"dim": -3}, ValueError, "dim must be between -2 and 1 for moments of shape [3, 4], got -3"),
]
BOUNDS = [
    Case({"logvar_clamp": (1.0, 0.5)}, ValueError, "logvar_clamp must be (low, high) with low <= high, got (1, 0.5)"),
    Case({"logvar_clamp": (math.nan, 1.0)}, ValueError, "logvar_clamp must be (low, high) with low <= high, got (nan"),
    Case({"logvar_clamp": (0.0, math.nan)}, ValueError, "logvar_clamp must be (low, high) with low <= high, got (0, n"),
]
IN_PYTHON = [
    Case({"moments": None}, TypeError, "moments must be a tensor, got NoneType"),
    Case({"moments": [[0.0, 0.0]]}, TypeError, "moments must be a tensor, got list"),
    Case({"dim": True}, TypeError, "dim must be an integer, got bool"),
    Case({"dim": 1.0}, TypeError, "dim must be an integer, got float"),
    Case({"logvar_clamp": 30.0}, TypeError, "logvar_clamp must be a pair of numbers or None, got float"),
    Case({"logvar_clamp": "ab"}, TypeError, "logvar_clamp must be a pair of numbers or None, got str"),
    Case({"logvar_clamp": (1.0,)}, ValueError, "logvar_clamp must be (low, high), got 1 values"),
    Case({"logvar_clamp": (None, 1.0)}, TypeError, "logvar_clamp must hold numbers, got NoneType"),
    Case({"deterministic": 1}, TypeError, "deterministic must be a bool, got int"),
]


@named(MOMENTS + BOUNDS + IN_PYTHON)
def test_construction(case):
    assert_refused(vf.DiagonalGaussian, {"moments": zeros(3, 4)}, case)


def test_the_second_argument_is_not_deterministic():
    with pytest.raises(TypeError, match="dim must be an integer, got bool"):
        vf.DiagonalGaussian(zeros(3, 4), True)


def sampled(moments, dim=1, logvar_clamp=(-1.0, 1.0), key=None):
    low, high = logvar_clamp
    return ops.packed_reparameterize_with_kl.default(
        moments, key_of(1) if key is None else key, dim=dim, logvar_min=low, logvar_max=high
    )


def drawn(moments, dim=1, logvar_clamp=(-1.0, 1.0)):
    low, high = logvar_clamp
    return ops.packed_reparameterize_with_kl.generator(moments, dim=dim, logvar_min=low, logvar_max=high)


def divergence(moments, dim=1, logvar_clamp=(-1.0, 1.0)):
    return ops.packed_kl_divergence.default(moments, None, dim, *logvar_clamp, dim, *logvar_clamp)


@pytest.mark.skipif(not vf.build_info()["extension"], reason="built without the extension")
@pytest.mark.parametrize("operator", [sampled, drawn, divergence])
@pytest.mark.parametrize("device", ["cpu", "meta"])
@named(MOMENTS + BOUNDS)
def test_operators(operator, device, case):
    on_device = {name: v.to(device) if isinstance(v, torch.Tensor) else v for name, v in case.replaced.items()}
    if device == "meta":  # the fakes check for tracing
        with pytest.raises(case.error, match=f"^{re.escape(case.message)}"):
            operator(**{"moments": zeros(3, 4, device="meta"), **on_device})
    else:
        assert_refused(operator, {"moments": zeros(3, 4)}, case)


@pytest.mark.skipif(not vf.build_info()["extension"], reason="built without the extension")
@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize(
    ("prior", "error", "message"),
    [
        (zeros(3, 6), ValueError, "prior_moments must hold a mean of shape [3, 2], got [3, 3]"),
        (
            zeros(3, 4).half(),
            TypeError,
            "prior_moments must have the dtype of moments, torch.float32, got torch.float16",
        ),
        (zeros(3, 5), ValueError, "prior_moments must have an even size in dimension 1 to hold mean and logvar"),
    ],
    ids=str,
)
def test_prior_of_the_operator(device, prior, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}"):
        ops.packed_kl_divergence.default(zeros(3, 4, device=device), prior.to(device), 1, -1.0, 1.0, 1, -1.0, 1.0)


SAMPLE = [
    Case({"key": [1, 2]}, TypeError, "key must be a tensor, got list"),
    Case({"key": zeros(2)}, TypeError, "key must be uint64, got torch.float32"),
    Case({"key": keys_of([1, 2])}, ValueError, "key must have shape [2] or [batch, 2] with batch 3, got [2, 2]"),
    Case(
        {"key": zeros(2, dtype=torch.uint64, device="meta")},
        ValueError,
        "key must be on the device of the samples, cpu, got meta",
    ),
    Case({"generator": 42}, TypeError, "generator must be a torch.Generator or a list of them, got int"),
    Case({"generator": key_of(1)}, TypeError, "generator must be a torch.Generator or a list of them, got Tensor"),
    Case({"generator": [torch.Generator(), 3, 4]}, TypeError, "generator must hold torch.Generators, got int"),
    Case(
        {"generator": [torch.Generator(), torch.Generator()]},
        ValueError,
        "generator must be one or hold one for each of 3 items, got 2",
    ),
    Case({"generator": []}, ValueError, "generator must be one or hold one for each of 3 items, got 0"),
    Case(
        {"generator": torch.Generator(), "key": key_of(1)},
        ValueError,
        "generator and key are two sources of the same noise: give one of them, got both",
    ),
]


@named(SAMPLE)
@pytest.mark.parametrize("deterministic", [False, True])
def test_sample(case, deterministic):
    assert_refused(vf.DiagonalGaussian(zeros(3, 4), deterministic=deterministic).sample, {}, case)


class OnCuda(torch.Generator):
    """A generator as a CUDA build would make it."""

    device = torch.device("cuda")


def test_generator_of_another_device():
    with pytest.raises(ValueError, match="generator must be on the CPU or on the device of moments, cpu, got cuda"):
        vf.DiagonalGaussian(zeros(3, 4)).sample(OnCuda())


OTHER = [
    Case({"other": zeros(3, 4)}, TypeError, "other must be a DiagonalGaussian, got Tensor"),
    Case({"other": 0.0}, TypeError, "other must be a DiagonalGaussian, got float"),
    Case(
        {"other": vf.DiagonalGaussian(zeros(3, 4).double())},
        TypeError,
        "other must have the dtype of the mean, torch.float32, got torch.float64",
    ),
    Case(
        {"other": vf.DiagonalGaussian(zeros(3, 6))},
        ValueError,
        "other must be broadcastable to the shape of the mean, [3, 2], got [3, 3]",
    ),
    Case(
        {"other": vf.DiagonalGaussian(zeros(3, 4, device="meta"))},
        ValueError,
        "other must be on the device of the mean, cpu, got meta",
    ),
]


@named(OTHER)
def test_kl(case):
    assert_refused(vf.DiagonalGaussian(zeros(3, 4)).kl, {}, case)


@named(
    [
        Case({"sample": 1.0}, TypeError, "sample must be a tensor, got float"),
        Case({"sample": zeros(3, 2, dtype=torch.int64)}, TypeError, f"sample {FLOATING} torch.int64"),
        Case({"sample": zeros(3, 5)}, ValueError, "sample must be broadcastable against the mean, [3, 2], got [3, 5]"),
        Case(
            {"sample": zeros(3, 2, device="meta")}, ValueError, "sample must be on the device of moments, cpu, got meta"
        ),
        Case({"dims": 2}, ValueError, "dims must be between -2 and 1, got 2"),
        Case({"dims": (1, -1)}, ValueError, "dims must hold each dimension once, got [1, -1]"),
        Case({"dims": (1.0,)}, TypeError, "dims must hold integers, got float"),
        Case({"dims": True}, TypeError, "dims must hold integers, got bool"),
        Case({"dims": 1.5}, TypeError, "dims must be an integer or a sequence of integers, got float"),
    ]
)
def test_nll(case):
    assert_refused(vf.DiagonalGaussian(zeros(3, 4)).nll, {"sample": zeros(3, 2)}, case)
