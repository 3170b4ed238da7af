"""What the sampling functions and standard_normal refuse, and in which words."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.errors import BOTH, Case, assert_refused, named
from helpers.inputs import key_of, keys_of

FLOATING = "must be float16, bfloat16, float32 or float64, got"


def zeros(*shape, **options):
    return torch.zeros(*shape, **options)


PAIR = [
    Case({"mu": 1.0}, TypeError, "mu must be a tensor, got float"),
    Case({"mu": None}, TypeError, "mu must be a tensor, got NoneType"),
    Case({"logvar": [0.0]}, TypeError, "logvar must be a tensor, got list"),
    Case({"mu": zeros(3, 4, dtype=torch.int64)}, TypeError, f"mu {FLOATING} torch.int64"),
    Case({"mu": zeros(3, 4, dtype=torch.int32)}, TypeError, f"mu {FLOATING} torch.int32"),
    Case({"mu": zeros(3, 4, dtype=torch.bool)}, TypeError, f"mu {FLOATING} torch.bool"),
    Case({"mu": zeros(3, 4, dtype=torch.complex64)}, TypeError, f"mu {FLOATING} torch.complex64"),
    Case({"mu": zeros(3, 4, dtype=torch.float8_e4m3fn)}, TypeError, f"mu {FLOATING} torch.float8_e4m3fn"),
    Case({"mu": zeros(()), "logvar": zeros(())}, ValueError, "mu must have a batch dimension 0, got a 0-dimensional"),
    Case(
        {"logvar": zeros(3, 4, dtype=torch.float16)},
        TypeError,
        "logvar must have the dtype of mu, torch.float32, got torch.float16",
    ),
    Case({"logvar": zeros(3, 5)}, ValueError, "logvar must have the shape of mu, [3, 4], got [3, 5]"),
    Case({"logvar": zeros(3)}, ValueError, "logvar must have the shape of mu, [3, 4], got [3]"),
    Case({"logvar": zeros(1, 4)}, ValueError, "logvar must have the shape of mu, [3, 4], got [1, 4]"),
    Case({"logvar": zeros(3, 4, device="meta")}, ValueError, "logvar must be on the device of mu, cpu, got meta"),
    Case({"mu": zeros(3, 4, device="meta")}, ValueError, "logvar must be on the device of mu, meta, got cpu"),
]
SOURCES = [
    Case({"key": [1, 2]}, TypeError, "key must be a tensor, got list"),
    Case({"key": 42}, TypeError, "key must be a tensor, got int"),
    Case({"key": zeros(2, dtype=torch.int64)}, TypeError, "key must be uint64, got torch.int64"),
    Case({"key": zeros(2)}, TypeError, "key must be uint64, got torch.float32"),
    Case({"key": key_of(1)[0]}, ValueError, "key must have shape [2] or [batch, 2], got []"),
    Case({"key": zeros(3, dtype=torch.uint64)}, ValueError, "key must have shape [2] or [batch, 2], got [3]"),
    Case({"key": zeros(3, 4, dtype=torch.uint64)}, ValueError, "key must have shape [2] or [batch, 2], got [3, 4]"),
    Case(
        {"key": zeros(1, 3, 2, dtype=torch.uint64)}, ValueError, "key must have shape [2] or [batch, 2], got [1, 3, 2]"
    ),
    Case({"key": keys_of([1, 2])}, ValueError, "key must have shape [2] or [batch, 2] with batch 3, got [2, 2]"),
    Case({"key": keys_of([1])}, ValueError, "key must have shape [2] or [batch, 2] with batch 3, got [1, 2]"),
    Case(
        {"key": zeros(2, dtype=torch.uint64, device="meta")},
        ValueError,
        "key must be on the device of the samples, cpu, got meta",
    ),
    Case({"generator": 42}, TypeError, "generator must be a torch.Generator, got int"),
    Case({"generator": key_of(1)}, TypeError, "generator must be a torch.Generator, got Tensor"),
    Case(
        {"generator": torch.Generator(), "key": key_of(1)},
        ValueError,
        "generator and key are two sources of the same noise: give one of them, got both",
    ),
]
COUNTS = [
    Case({"num_samples": 0}, ValueError, "num_samples must be at least 1, got 0"),
    Case({"num_samples": -1}, ValueError, "num_samples must be at least 1, got -1"),
    Case({"num_samples": 1.5}, TypeError, "num_samples must be an integer or None, got float"),
    Case({"num_samples": 2.0}, TypeError, "num_samples must be an integer or None, got float"),
    Case({"num_samples": True}, TypeError, "num_samples must be an integer or None, got bool"),
    Case({"num_samples": "3"}, TypeError, "num_samples must be an integer or None, got str"),
    Case({"num_samples": torch.tensor(3)}, TypeError, "num_samples must be an integer or None, got Tensor"),
]


def good():
    return {"mu": torch.randn(3, 4), "logvar": torch.randn(3, 4)}


@BOTH
@named(PAIR + SOURCES + COUNTS)
def test_reparameterize(api, case):
    assert_refused(api.reparameterize, good(), case)


@BOTH
@named(PAIR + SOURCES)
def test_reparameterize_with_kl(api, case):
    assert_refused(api.reparameterize_with_kl, good(), case)


@BOTH
@named(PAIR + COUNTS)
@pytest.mark.parametrize("source", ["generator", "key"])
def test_refusal_leaves_the_generator_where_it_was(api, case, source):
    noise = {"generator": torch.Generator().manual_seed(3)} if source == "generator" else {"key": key_of(1)}
    if case.replaced.get("mu") is not None and getattr(case.replaced["mu"], "is_meta", False):
        noise = {}  # neither would be on the device of mu, which is said first
    assert_refused(api.reparameterize, {**good(), **noise}, case)


@BOTH
@pytest.mark.parametrize("sampler", ["reparameterize", "reparameterize_with_kl"])
@pytest.mark.gpu
def test_generator_of_another_device(api, sampler):
    for generator, device in ((torch.Generator("cuda"), "cpu"), (torch.Generator(), "cuda")):
        for operands in (good(), {name: t[:0] for name, t in good().items()}):
            moved = {name: t.to(device) for name, t in operands.items()}
            with pytest.raises(ValueError, match="generator must be on the device of mu"):
                getattr(api, sampler)(**moved, generator=generator)


def test_a_backward_of_the_kl_and_of_several_samples():
    leaf = torch.zeros(2, 3)
    with pytest.raises(ValueError, match="num_samples must be None where grad_kl is given, got 4"):
        torch.ops.vae_fused.reparameterize_backward(
            torch.zeros(4, 2, 3), torch.zeros(2), leaf, leaf, key_of(1), 4, (True, True)
        )


NORMAL = [
    *(case for case in SOURCES[:8]),
    Case({"size": (-1,)}, ValueError, "size must not be negative, got [-1]"),
    Case({"size": (3, -2)}, ValueError, "size must not be negative, got [3, -2]"),
    Case({"size": (2.5,)}, TypeError, "size must hold integers, got float"),
    Case({"size": ("3",)}, TypeError, "size must hold integers, got str"),
    Case({"size": (True,)}, TypeError, "size must hold integers, got bool"),
    Case({"dtype": torch.int64}, TypeError, f"dtype {FLOATING} torch.int64"),
    Case({"dtype": torch.complex64}, TypeError, f"dtype {FLOATING} torch.complex64"),
    Case({"dtype": "float32"}, TypeError, f"dtype {FLOATING} 'float32'"),
    Case({"size": (np.int64(4),)}, TypeError, "size must hold integers, got numpy.int64"),
    Case({"key": keys_of([1, 2])}, ValueError, "size must begin with the number of keys, 2, got [3, 4]"),
    Case({"key": keys_of([1, 2]), "size": ()}, ValueError, "size must begin with the number of keys, 2, got []"),
]


@BOTH
@named(NORMAL)
def test_standard_normal(api, case):
    assert_refused(api.standard_normal, {"key": key_of(1), "size": (3, 4)}, case)


@BOTH
@pytest.mark.parametrize("size", [3, 2.5, None])
def test_size_that_is_no_sequence(api, size):
    with pytest.raises(TypeError, match="size"):
        api.standard_normal(key_of(1), size)
