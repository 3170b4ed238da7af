"""vf.Normal against torch.distributions.Normal in float64: samples, gradients, KL, and what is built upon it."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.inputs import key_of, keys_of
from helpers.tolerances import DTYPES, accumulation_dtype, assert_rounded_once
from torch.distributions import Independent, kl_divergence
from torch.distributions import Normal as Original

import vae_fused as vf

on_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def parameters(shape, dtype=torch.float32, device="cpu"):
    loc = torch.randn(shape).to(device, dtype).requires_grad_()
    scale = torch.exp(0.4 * torch.randn(shape) - 0.2).to(device, dtype).requires_grad_()
    return loc, scale


def wide(*tensors):
    return [t.detach().double().requires_grad_() for t in tensors]


@on_dtypes
@pytest.mark.parametrize("shape", [(), (7,), (5, 3), (2, 3, 4)], ids=str)
@pytest.mark.parametrize("sample_shape", [(), (4,), (2, 3)], ids=str)
def test_samples_of_a_key_with_their_gradients(device, shape, sample_shape, dtype):
    loc, scale = parameters(shape, dtype, device)
    key = key_of(9, 2, device)
    z = vf.Normal(loc, scale).rsample(sample_shape, key=key)
    assert (z.dtype, z.shape) == (dtype, sample_shape + shape)
    noise = vf.standard_normal(key, z.shape or (1,), dtype=accumulation_dtype(dtype)).view(z.shape).double()
    wide_loc, wide_scale = wide(loc, scale)
    expected = wide_loc + wide_scale * noise
    assert_rounded_once(z, expected.detach(), wide_loc.detach().abs() + 8 * (wide_scale.detach() * noise).abs())
    grad = torch.randn(z.shape).to(device, dtype)
    ours = torch.autograd.grad(z, (loc, scale), grad)
    truth = torch.autograd.grad(expected, (wide_loc, wide_scale), grad.double())
    drawn = tuple(range(len(sample_shape)))
    sizes = ((grad.double() * factor).abs().sum(drawn) if drawn else (grad.double() * factor).abs()
             for factor in (torch.ones_like(noise), 8 * noise))  # fmt: skip
    for gradient, value, size in zip(ours, truth, sizes, strict=True):
        assert_rounded_once(gradient, value, size)


def test_key_for_each_item(device):
    loc, scale = parameters((3, 4), device=device)
    together = vf.Normal(loc, scale).rsample((2,), key=keys_of([5, 6, 7], device))
    for index in range(3):
        alone = vf.Normal(loc[index : index + 1], scale[index : index + 1]).rsample(
            (2,), key=keys_of([5, 6, 7], device)[index : index + 1]
        )
        assert torch.equal(alone[:, 0], together[:, index])


def test_generator_decides_the_sample(device):
    normal = vf.Normal(*parameters((3, 4), device=device))
    first, again = (normal.rsample((2,), generator=torch.Generator(device).manual_seed(1)) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, normal.rsample((2,)))
    assert torch.equal(first, normal.sample((2,), torch.Generator(device).manual_seed(1)))


def test_sample_has_no_gradient_and_rsample_has(device):
    normal = vf.Normal(*parameters((3, 4), device=device))
    assert not normal.sample().requires_grad
    assert normal.rsample().requires_grad
    assert torch.is_grad_enabled()


def test_one_variance_and_one_mean(device):
    draws = vf.Normal(torch.tensor(3.0, device=device), torch.tensor(0.5, device=device)).sample((200_000,))
    assert abs(draws.mean().item() - 3.0) < 5 * 0.5 / math.sqrt(200_000)
    assert abs(draws.std().item() - 0.5) < 0.005


def test_no_draws(device):
    assert vf.Normal(*parameters((3, 4), device=device)).rsample((0, 2)).shape == (0, 2, 3, 4)
    assert vf.Normal(*parameters((0, 4), device=device)).rsample((2,)).shape == (2, 0, 4)


def pairs(p, q):
    """The classes in every combination that has ours in it."""
    return [(vf.Normal(*p), vf.Normal(*q)), (vf.Normal(*p), Original(*q)), (Original(*p), vf.Normal(*q))]


@on_dtypes
@pytest.mark.parametrize(
    ("shape", "prior_shape"), [((), ()), ((5, 3), (5, 3)), ((5, 3), (3,)), ((5, 3), ()), ((3,), (5, 3)), ((5, 1), (3,))]
)
def test_kl_with_its_gradients(device, shape, prior_shape, dtype):
    p, q = parameters(shape, dtype, device), parameters(prior_shape, dtype, device)
    wide_p, wide_q = wide(*p), wide(*q)
    expected = kl_divergence(Original(*wide_p), Original(*wide_q))
    truth = torch.autograd.grad(expected.sum(), (*wide_p, *wide_q))
    for ours, prior in pairs(p, q):
        kl = kl_divergence(ours, prior)
        assert (kl.dtype, kl.shape) == (accumulation_dtype(dtype), expected.shape)
        torch.testing.assert_close(kl.double(), expected, rtol=1e-5, atol=1e-6)
        gradients = torch.autograd.grad(kl.sum(), (*p, *q))
        for gradient, value in zip(gradients, truth, strict=True):
            assert gradient.dtype == dtype
            coarse = 0 if dtype in (torch.float32, torch.float64) else float(torch.finfo(dtype).eps)
            torch.testing.assert_close(gradient.double(), value, rtol=1e-5 + coarse, atol=1e-5 + coarse)


def test_kl_from_the_standard_normal(device):
    loc, scale = parameters((5, 3), device=device)
    ours = kl_divergence(vf.Normal(loc, scale), vf.Normal(torch.zeros((), device=device), 1.0))
    torch.testing.assert_close(ours, vf.kl_divergence(loc, 2 * scale.log(), reduction="none"), rtol=1e-6, atol=1e-7)


def test_kl_from_a_distribution_of_two_floats(device):
    """Which is on the CPU. N(0, 1) takes the shorter way."""
    loc, scale = parameters((5, 3), device=device)
    standard, other = kl_divergence(vf.Normal(loc, scale), Original(0.0, 1.0)), Original(0.5, 2.0)
    assert torch.equal(standard, vf.kl_divergence(loc, scale, reduction="none", parameterization="std"))
    wide_loc, wide_scale = wide(loc, scale)
    expected = kl_divergence(Original(wide_loc, wide_scale), other)
    torch.testing.assert_close(kl_divergence(vf.Normal(loc, scale), other).double(), expected, rtol=1e-5, atol=1e-6)
    expected = kl_divergence(other, Original(wide_loc, wide_scale))
    torch.testing.assert_close(kl_divergence(other, vf.Normal(loc, scale)).double(), expected, rtol=1e-5, atol=1e-6)


def test_two_floats_meet_a_distribution_on_another_device():
    loc, scale = torch.zeros(5, 3, device="meta"), torch.ones(5, 3, device="meta")
    ours = vf.Normal(loc, scale, validate_args=False)
    for p, q in ((ours, Original(0.0, 1.0)), (ours, vf.Normal(0.5, 2.0)), (vf.Normal(0.5, 2.0), ours)):
        kl = kl_divergence(p, q)
        assert (kl.device.type, kl.shape) == ("meta", (5, 3))


@pytest.mark.parametrize(("prior_loc", "prior_scale"), [(0.0, 1.0), (0.0, 2.0), (1.0, 1.0)])
def test_gradient_of_a_prior_of_one_number(device, prior_loc, prior_scale):
    """N(0, 1) with a gradient is not the shorter way."""
    loc, scale = parameters((5, 3), device=device)
    prior = [torch.tensor(value, requires_grad=True) for value in (prior_loc, prior_scale)]
    ours = torch.autograd.grad(kl_divergence(vf.Normal(loc, scale), vf.Normal(*prior)).sum(), prior)
    wide_prior = wide(*prior)
    truth = kl_divergence(Original(*(t.detach().double().cpu() for t in (loc, scale))), Original(*wide_prior))
    for gradient, value in zip(ours, torch.autograd.grad(truth.sum(), wide_prior), strict=True):
        torch.testing.assert_close(gradient.double(), value, rtol=1e-5, atol=1e-5)


def test_kl_inside_a_transform(device):
    loc, scale = (t.detach() for t in parameters((5, 3), device=device))
    prior = Original(torch.zeros((), device=device), torch.ones((), device=device))

    def kl(loc, scale):
        return kl_divergence(vf.Normal(loc, scale, validate_args=False), prior)

    torch.testing.assert_close(torch.func.vmap(kl)(loc, scale), kl(loc, scale))


def test_kl_near_zero_does_not_cancel(device):
    loc = torch.linspace(-1e-3, 1e-3, 1000, device=device)
    p, q = (cls(loc, torch.ones_like(loc)) for cls in (vf.Normal, Original))
    prior = Original(torch.zeros((), device=device), torch.ones((), device=device))
    expected = 0.5 * loc.double().square()
    torch.testing.assert_close(kl_divergence(p, prior).double(), expected, rtol=1e-6, atol=0)
    error = (kl_divergence(q, prior) - expected).abs() / expected
    assert error.max() == 1.0  # PyTorch adds it to 1 and loses it


def test_kl_of_a_tiny_scale_in_half_precision(device):
    p = (
        torch.tensor([1.0], dtype=torch.float16, device=device),
        torch.tensor([1e-6], dtype=torch.float16, device=device),
    )
    prior = torch.zeros(1, dtype=torch.float16, device=device), torch.ones(1, dtype=torch.float16, device=device)
    ours = kl_divergence(vf.Normal(*p), vf.Normal(*prior))
    truth = kl_divergence(Original(*(t.double() for t in p)), Original(*(t.double() for t in prior)))
    assert kl_divergence(Original(*p), Original(*prior)).isinf()
    torch.testing.assert_close(ours.double(), truth, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("loc", "scale", "prior_scale"), [(0.0, 1e-20, 1e-20), (0.0, 1e-20, 1e-22), (1e25, 1e25, 1e25), (1.0, 1e-30, 1.0)]
)
def test_kl_at_the_ends_of_the_range(device, loc, scale, prior_scale):
    def pair(kind, dtype):
        loc_, scale_, prior = (torch.tensor([value], dtype=dtype, device=device) for value in (loc, scale, prior_scale))
        return kind(loc_, scale_), kind(torch.zeros_like(loc_), prior)

    found = kl_divergence(*pair(vf.Normal, torch.float32))
    torch.testing.assert_close(found.double(), kl_divergence(*pair(Original, torch.float64)), rtol=1e-6, atol=1e-6)


def test_independent(device):
    (loc, scale), (prior_loc, prior_scale) = parameters((5, 3), device=device), parameters((3,), device=device)
    ours = Independent(vf.Normal(loc, scale), 1)
    theirs = Independent(Original(loc, scale), 1)
    z = ours.rsample((4,))
    assert z.shape == (4, 5, 3)
    torch.testing.assert_close(ours.log_prob(z), theirs.log_prob(z))
    kl = kl_divergence(ours, Independent(vf.Normal(prior_loc, prior_scale).expand((5, 3)), 1))
    expected = kl_divergence(theirs, Independent(Original(prior_loc, prior_scale).expand((5, 3)), 1))
    assert kl.shape == (5,)
    torch.testing.assert_close(kl, expected, rtol=1e-5, atol=1e-6)


def test_it_stays_its_own_class(device):
    loc, scale = parameters((3,), device=device)
    expanded = vf.Normal(loc, scale).expand((5, 3))
    assert type(expanded) is vf.Normal
    assert expanded.rsample(key=key_of(1, 0, device)).shape == (5, 3)
    assert isinstance(expanded, Original)
    assert vf.distributions.Normal is vf.Normal


def test_compiles_without_a_break(device):
    def step(loc, scale, key):
        posterior = vf.Normal(loc, scale)
        kl = kl_divergence(posterior, vf.Normal(torch.zeros_like(loc), torch.ones_like(scale)))
        return posterior.rsample((2,), key=key), kl

    operands = (*parameters((5, 3), device=device), key_of(1, 0, device))
    torch.testing.assert_close(torch.compile(step, fullgraph=True, backend="aot_eager")(*operands), step(*operands))


def test_errors(device):
    loc, scale = parameters((5, 3), device=device)
    with pytest.raises(ValueError, match="scale"):
        vf.Normal(loc, -scale, validate_args=True)  # Dynamo turns the default off
    normal, key = vf.Normal(loc, scale), key_of(1, 0, device)
    with pytest.raises(ValueError, match="generator and key are two sources"):
        normal.rsample(generator=torch.Generator(device), key=key)
    with pytest.raises(TypeError, match="key must be uint64"):
        normal.rsample(key=key.view(torch.int64))
    with pytest.raises(TypeError, match="generator must be a torch"):
        normal.rsample(generator=1)
    with pytest.raises(TypeError, match=r"^scale must have the dtype of loc, torch\.float32, got torch\.float64$"):
        vf.Normal(loc, scale.double()).rsample()
    with pytest.raises(TypeError, match=r"^loc must be float16, bfloat16, float32 or float64, got torch\.int64$"):
        vf.Normal(torch.zeros(3, dtype=torch.int64), torch.ones(3, dtype=torch.int64)).sample()
