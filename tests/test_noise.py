"""The noise of a key: Random123's words, the known answer, and agreement with PyTorch's stateless generator."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from helpers import philox
from helpers.inputs import key_of, keys_of
from helpers.tolerances import ROUNDING, UNDERFLOW, normal_error

import vae_fused as vf
from vae_fused._philox import philox_words

F16, BF16, F32, F64 = torch.float16, torch.bfloat16, torch.float32, torch.float64
WHOLE = 2**64
KEYS = [(42, 0), (0, 0), (WHOLE - 1, 5), (2**63, 2**32 - 2), (123456789, WHOLE - 1), (2**32 - 1, WHOLE - 9)]
SIZES = [1, 2, 3, 4, 5, 7, 63, 65, 1023, 1025, 4099]
FIXTURE = json.loads(Path(__file__).with_name("data").joinpath("stateless_normals.json").read_text())
BOTH = pytest.mark.parametrize("api", [vf, vf.reference], ids=["kernel", "reference"])


def signed(value):
    """The int64 with the bits of a uint64."""
    return value - WHOLE if value >= 2**63 else value


def torch_normal(key, size, dtype):
    """PyTorch's stateless normals, or a skip that says why not."""
    try:
        from torch.func import _random

        return _random.normal(key, (size,), dtype=dtype)
    except (ImportError, NotImplementedError):
        pytest.skip(f"torch {torch.__version__} has no stateless normals on {key.device.type}")


@pytest.mark.parametrize(("counter", "key", "expected"), philox.KNOWN_WORDS)
def test_oracle_gives_the_published_words(counter, key, expected):
    assert philox.words(counter, key) == expected


def test_reference_gives_the_published_words():
    counter, key, expected = philox.KNOWN_WORDS[0]  # the other counters reach beyond 64 bits
    zero = torch.zeros(1, dtype=torch.int64)
    assert counter == (0, 0, 0, 0)
    assert key == (0, 0)
    assert tuple(word.item() for word in philox_words(zero, zero)) == expected


def test_reference_words_of_any_counter_and_seed():
    generator = torch.Generator().manual_seed(3)
    draws = torch.empty(200, 2, dtype=torch.int64).random_(-(2**63), None, generator=generator)
    edges = [0, 1, 2**31, 2**32 - 1, 2**32, 2**63 - 1, 2**63, WHOLE - 1]
    corners = torch.tensor([[signed(a), signed(b)] for a in edges for b in edges])
    pairs = torch.cat([draws, corners])
    ours = torch.stack(philox_words(pairs[:, 0], pairs[:, 1]), dim=1)
    expected = [philox.block(seed % WHOLE, counter % WHOLE) for counter, seed in pairs.tolist()]
    assert ours.tolist() == [list(words) for words in expected]


@BOTH
def test_known_answer(device, api):
    ours = api.standard_normal(key_of(42, 0, device), (8,))
    expected = torch.tensor([-0.9702, 0.1940, -1.2356, 1.9239, -0.0732, 0.1391, -1.1067, 0.3267], device=device)
    torch.testing.assert_close(ours, expected, rtol=0, atol=5.1e-5)


@BOTH
@pytest.mark.parametrize("key", KEYS, ids=str)
@pytest.mark.parametrize("dtype", [F32, F64], ids=str)
def test_oracle(device, api, key, dtype):
    size = 131
    ours = api.standard_normal(key_of(*key, device), (size,), dtype=dtype).cpu().double()
    expected = torch.tensor([philox.normal(*key, i, dtype == F64) for i in range(size)], dtype=F64)
    assert (ours - expected).abs().max().item() <= normal_error(dtype, device)


@BOTH
@pytest.mark.parametrize("case", FIXTURE["cases"], ids=lambda c: f"{c['seed']}-{c['offset']}-{c['dtype']}-{c['size']}")
def test_recorded_normals_of_pytorch(device, api, case):
    dtype = getattr(torch, case["dtype"])
    ours = api.standard_normal(key_of(case["seed"], case["offset"], device), (case["size"],), dtype=dtype)
    last = torch.tensor(case["last"], dtype=dtype, device=device)
    torch.testing.assert_close(ours[-len(last) :], last, rtol=0, atol=normal_error(dtype, device))


@pytest.mark.parametrize("key", KEYS, ids=str)
@pytest.mark.parametrize("dtype", [F32, F64], ids=str)
@pytest.mark.parametrize("size", [*SIZES, 1_000_003])
def test_normals_of_the_running_pytorch(device, key, dtype, size):
    key = key_of(*key, device)
    expected = torch_normal(key, size, dtype)
    torch.testing.assert_close(
        vf.standard_normal(key, (size,), dtype=dtype), expected, rtol=0, atol=normal_error(dtype, device)
    )


@pytest.mark.parametrize("key", KEYS, ids=str)
@pytest.mark.parametrize("dtype", [F32, F64], ids=str)
@pytest.mark.parametrize("size", SIZES)
def test_kernel_and_reference_agree(device, key, dtype, size):
    key = key_of(*key, device)
    ours, reference = (api.standard_normal(key, (size,), dtype=dtype) for api in (vf, vf.reference))
    torch.testing.assert_close(ours, reference, rtol=0, atol=normal_error(dtype, device))


@BOTH
@pytest.mark.parametrize("dtype", [F32, F64], ids=str)
def test_offset_counts_blocks_and_wraps(device, api, dtype):
    lanes = 2 if dtype == F64 else 4
    whole = api.standard_normal(key_of(9, WHOLE - 3, device), (40,), dtype=dtype)
    for step in (1, 2, 3, 4, 7):
        later = api.standard_normal(key_of(9, WHOLE - 3 + step, device), (40,), dtype=dtype)
        assert torch.equal(whole[step * lanes :], later[: 40 - step * lanes])


@BOTH
@pytest.mark.parametrize("dtype", [F16, BF16, F32, F64], ids=str)
def test_a_shorter_draw_is_a_prefix_and_shape_is_row_major(device, api, dtype):
    key = key_of(77, 1, device)
    whole = api.standard_normal(key, (4099,), dtype=dtype)
    for size in SIZES:
        assert torch.equal(api.standard_normal(key, (size,), dtype=dtype), whole[:size])
    assert torch.equal(api.standard_normal(key, (3, 5, 7), dtype=dtype).flatten(), whole[:105])


@BOTH
@pytest.mark.parametrize("dtype", [F16, BF16], ids=str)
def test_half_types_are_float32_rounded_once(device, api, dtype):
    key = key_of(5, 6, device)
    assert torch.equal(api.standard_normal(key, (5001,), dtype=dtype), api.standard_normal(key, (5001,)).to(dtype))
    # z is rounded once as well, from arithmetic in float32.
    mu, logvar = torch.randn(5001).to(device, dtype), torch.randn(5001).to(device, dtype)
    z = api.reparameterize(mu, logvar, key=key)
    exact = mu.double() + torch.exp(0.5 * logvar.double()) * api.standard_normal(key, (5001,)).double()
    allowed = ROUNDING[dtype] * exact.abs() + UNDERFLOW[dtype] + 1e-6 * (1 + mu.double().abs())
    assert ((z.double() - exact).abs() <= allowed).all()


@BOTH
def test_a_key_per_item(device, api):
    keys = keys_of([3, 1, WHOLE - 1, 3], device)
    ours = api.standard_normal(keys, (4, 3, 5))
    for key, item in zip(keys, ours, strict=True):
        assert torch.equal(item, api.standard_normal(key, (3, 5)))


@BOTH
@pytest.mark.parametrize("dtype", [F16, BF16, F32, F64], ids=str)
def test_is_the_sample_of_the_standard_normal(device, api, dtype):
    zero = torch.zeros(7, 3, 11, dtype=dtype, device=device)
    for key in (key_of(8, 2, device), keys_of(list(range(7)), device)):
        noise = api.standard_normal(key, zero.shape, dtype=dtype)
        assert noise.dtype == dtype
        assert torch.equal(api.reparameterize(zero, zero, key=key), noise)
        assert torch.equal(api.reparameterize_with_kl(zero, zero, key=key)[0], noise)
    key = key_of(8, 2, device)
    samples = api.reparameterize(zero, zero, num_samples=5, key=key)
    assert torch.equal(samples, api.standard_normal(key, (5, *zero.shape), dtype=dtype))


@BOTH
def test_key_at_any_stride(device, api):
    keys = keys_of([3, 1, 4], device)
    strided = torch.stack([keys, keys], dim=-1)[..., 0]
    assert not strided.is_contiguous()
    assert torch.equal(api.standard_normal(strided, (3, 9)), api.standard_normal(keys, (3, 9)))
    assert torch.equal(api.standard_normal(strided[1], (9,)), api.standard_normal(keys[1], (9,)))
    mu = torch.randn(3, 9, device=device, requires_grad=True)
    by_strided, by_keys = (api.reparameterize(mu, mu, key=k) for k in (strided, keys))
    assert torch.equal(by_strided, by_keys)
    assert torch.equal(*(torch.autograd.grad(z.sum(), mu)[0] for z in (by_strided, by_keys)))


@BOTH
def test_device_argument_takes_the_key_there(device, api):
    noise = api.standard_normal(key_of(42, 0), (9,), device=device)
    assert noise.device.type == device.type
    assert torch.equal(noise, api.standard_normal(key_of(42, 0, device), (9,)))
