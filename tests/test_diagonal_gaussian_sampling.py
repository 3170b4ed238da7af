"""Where the noise of DiagonalGaussian.sample comes from, and when kl() may give what sample() computed."""

from __future__ import annotations

import copy

import pytest
import torch
from helpers.gaussian import CLAMP, Plain, moments_of
from helpers.inputs import key_of, keys_of

import vae_fused as vf


@pytest.fixture
def moments(device):
    return moments_of((3, 8, 5), device=device)


@pytest.fixture(params=["kernel", "reference"])
def path(request, monkeypatch):
    """With the kernels, and as on a device that has none."""
    if request.param == "reference":
        monkeypatch.setattr("vae_fused._library._KERNEL_DEVICES", ())
    return request.param


def close(a, b):
    torch.testing.assert_close(a, b, rtol=2e-6, atol=4e-6)


def test_key_is_that_of_reparameterize(device, moments, path):
    posterior = vf.DiagonalGaussian(moments, 1, CLAMP)
    for key in (key_of(3, 2**40, device), keys_of([5, 6, 7], device)):
        close(posterior.sample(key=key), vf.reparameterize(*Plain.of(moments, 1), key=key))


def test_sample_and_kl_of_both_paths(device, moments, path):
    moments.requires_grad_()
    posterior, other = vf.DiagonalGaussian(moments, 1, CLAMP), vf.DiagonalGaussian(moments.flip(0).detach(), 1, None)
    key, wide = key_of(1, 0, device), moments.detach().double().requires_grad_()
    plain = Plain.of(wide, 1)
    z = posterior.sample(key=key)
    expected = plain.sample(vf.standard_normal(key, z.shape).double())
    prior = Plain.of(wide.detach().flip(0), 1, None)
    for ours, theirs in [(z, expected), (posterior.kl(), plain.kl()), (posterior.kl(other), plain.kl(prior))]:
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-6, atol=4e-6)
        gradients = (
            torch.autograd.grad(v.sum(), x, retain_graph=True)[0] for v, x in ((ours, moments), (theirs, wide))
        )
        torch.testing.assert_close(next(gradients).double(), next(gradients), rtol=1e-5, atol=1e-5)


def test_every_call_draws_fresh_noise(moments, path):
    moments.requires_grad_()
    posterior = vf.DiagonalGaussian(moments)
    first, second = posterior.sample(), posterior.sample()
    assert (first != second).all()
    for z in (first, second):
        gradient = torch.autograd.grad(z.sum(), moments)[0]
        noise = (z.detach() - posterior.mean) / posterior.std
        torch.testing.assert_close(gradient[:, :4], torch.ones_like(z))
        torch.testing.assert_close(gradient[:, 4:], 0.5 * posterior.std * noise, rtol=1e-4, atol=1e-5)


def test_generator_decides(device, moments, path):
    posterior = vf.DiagonalGaussian(moments)
    generator = torch.Generator(device)
    a, b = (posterior.sample(generator.manual_seed(3)) for _ in range(2))
    assert torch.equal(a, b)
    assert (posterior.sample(generator) != a).all()
    assert torch.equal(posterior.sample([generator.manual_seed(3)]), a)
    torch.manual_seed(11)
    a = posterior.sample()
    torch.manual_seed(11)
    assert torch.equal(posterior.sample(), a)


@pytest.mark.parametrize("sequence", [list, tuple])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_generator_of_each_item(device, dtype, sequence, path):
    moments = moments_of((3, 8, 5), dtype, device)
    seeds = [5, 2**63 + 1, 5]

    def generators():
        return sequence(torch.Generator(device).manual_seed(seed) for seed in seeds)

    given = generators()
    z = vf.DiagonalGaussian(moments).sample(given)
    # An item's noise is what its generator gives it alone, and the generators go on.
    for item, generator in enumerate(generators()):
        alone = vf.DiagonalGaussian(moments[item : item + 1])
        assert torch.equal(alone.sample(generator), z[item : item + 1])
        assert torch.equal(alone.sample(generator), vf.DiagonalGaussian(moments).sample(given)[item : item + 1]) == (
            item == 0
        )
    reverse = vf.DiagonalGaussian(moments.flip(0)).sample(sequence(reversed(generators())))
    assert torch.equal(reverse, z.flip(0))


def test_one_generator_for_several_items_takes_its_turns(device, moments):
    generator = torch.Generator(device).manual_seed(9)
    z = vf.DiagonalGaussian(moments).sample([generator] * 3)
    generator.manual_seed(9)
    for item in range(3):
        assert torch.equal(vf.DiagonalGaussian(moments[item : item + 1]).sample(generator), z[item : item + 1])


@pytest.mark.gpu
def test_generators_on_the_cpu_for_moments_on_a_gpu():
    moments = moments_of((3, 8, 5), device="cuda")
    seeds = (1, 2, 3)
    on_cpu = vf.DiagonalGaussian(moments.cpu()).sample([torch.Generator().manual_seed(s) for s in seeds])
    z = vf.DiagonalGaussian(moments).sample([torch.Generator().manual_seed(s) for s in seeds])
    close(z.cpu(), on_cpu)
    close(
        vf.DiagonalGaussian(moments).sample(torch.Generator().manual_seed(1)).cpu(),
        vf.DiagonalGaussian(moments.cpu()).sample(torch.Generator().manual_seed(1)),
    )


def test_kl_after_sample_is_the_kl(moments, path):
    posterior = vf.DiagonalGaussian(moments)
    before = posterior.kl()
    posterior.sample()
    torch.testing.assert_close(posterior.kl(), before)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_kl_is_differentiable_where_the_sample_was_not(moments, mode):
    moments.requires_grad_()
    posterior = vf.DiagonalGaussian(moments)
    with mode():
        z, quiet = posterior.sample(), posterior.kl()
    assert not z.requires_grad
    assert not quiet.requires_grad
    kl = posterior.kl()
    assert torch.equal(kl, quiet)
    assert torch.equal(
        torch.autograd.grad(kl.sum(), moments)[0],
        torch.autograd.grad(vf.DiagonalGaussian(moments).kl().sum(), moments)[0],
    )


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_kl_records_nothing_where_the_sample_did(moments, mode):
    posterior = vf.DiagonalGaussian(moments.requires_grad_())
    posterior.sample()
    with mode():
        assert not posterior.kl().requires_grad
    assert posterior.kl().requires_grad


def test_kl_of_moments_from_inference_mode_takes_part_in_a_loss(moments):
    weight = torch.ones(3, device=moments.device, requires_grad=True)
    with torch.inference_mode():
        inference = vf.DiagonalGaussian(moments * 2)
        inference.sample()
    outside = vf.DiagonalGaussian(moments)
    with torch.inference_mode():
        outside.sample()
    for posterior in (inference, outside):
        posterior.sample()
        (posterior.kl() * weight).sum().backward()
    assert weight.grad is not None


def test_kl_follows_moments_that_were_changed(moments):
    posterior = vf.DiagonalGaussian(moments)
    posterior.sample()
    moments.mul_(2)
    torch.testing.assert_close(posterior.kl(), vf.DiagonalGaussian(moments).kl(), rtol=0, atol=0)


def test_the_kl_of_a_sample_belongs_to_the_caller(moments):
    expected = vf.DiagonalGaussian(moments).kl()
    posterior = vf.DiagonalGaussian(moments.requires_grad_())
    posterior.sample()
    first = posterior.kl()
    first.register_hook(lambda gradient: gradient * 0)
    with torch.no_grad():
        first.div_(100)
    second = posterior.kl()
    torch.testing.assert_close(second.detach(), expected, rtol=1e-6, atol=0)
    assert torch.autograd.grad(second.sum(), moments)[0].abs().sum() > 0


def test_kl_follows_moments_that_were_replaced(moments):
    posterior = vf.DiagonalGaussian(moments)
    posterior.sample()
    posterior.parameters = 2 * moments
    assert torch.equal(posterior.kl(), vf.DiagonalGaussian(2 * moments).kl())


@pytest.mark.parametrize("compiled", ["sample", "kl"])
def test_no_kl_is_kept_from_or_for_a_compiled_graph(moments, compiled):
    def compile_if(name, function):
        return torch.compile(function, fullgraph=True, backend="eager") if name == compiled else function

    posterior = vf.DiagonalGaussian(moments)
    compile_if("sample", posterior.sample)(key=key_of(1, device=moments.device))
    moments.mul_(2)
    assert torch.equal(compile_if("kl", posterior.kl)(), vf.DiagonalGaussian(moments).kl())


def test_copies_of_a_sampled_posterior_of_leaves(moments):
    posterior = vf.DiagonalGaussian(moments.requires_grad_())
    posterior.sample()
    assert torch.equal(copy.deepcopy(posterior).kl(), vf.DiagonalGaussian(moments).kl())


def test_copies(moments):
    posterior = vf.DiagonalGaussian(moments, 1, CLAMP)
    posterior.sample()
    twin = copy.deepcopy(posterior)
    moments.zero_()
    assert twin.kl().min() > 0
    assert repr(twin) == repr(posterior)
