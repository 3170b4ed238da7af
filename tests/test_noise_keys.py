"""What the noise depends on: the key or the generator, and nothing else."""

from __future__ import annotations

import pytest
import torch
from helpers.inputs import key_of, keys_of, latents
from helpers.threads import threads
from helpers.tolerances import between_batch_sizes

import vae_fused as vf

DTYPES = [torch.float16, torch.float32, torch.float64]
BOTH = pytest.mark.parametrize("api", [vf, vf.reference], ids=["kernel", "reference"])
EVENTS = [(5,), (3, 7), (1501,)]
on_events = pytest.mark.parametrize("event", EVENTS, ids=str)
on_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)


@BOTH
@on_events
@on_dtypes
def test_an_item_is_the_same_alone_and_anywhere_in_any_batch(device, api, event, dtype):
    mu, logvar = latents((9, *event), dtype, device)
    keys = keys_of(list(range(100, 109)), device)
    whole, whole_kl = api.reparameterize_with_kl(mu, logvar, key=keys)
    for chosen in ([4], [8, 4], [0, 1, 4], [4, 4, 4], list(range(8, -1, -1))):
        key = keys.view(torch.int64)[chosen].view(torch.uint64)  # unsigned ones cannot be picked on every device
        z, kl = api.reparameterize_with_kl(mu[chosen], logvar[chosen], key=key)
        assert torch.equal(z, whole[chosen])
        tolerance = between_batch_sizes(dtype, device) if api is vf.reference else {"rtol": 0, "atol": 0}
        torch.testing.assert_close(kl, whole_kl[chosen], **tolerance)
        assert torch.equal(api.reparameterize(mu[chosen], logvar[chosen], key=key), whole[chosen])
    alone = api.reparameterize(mu[4:5], logvar[4:5], key=keys[4])  # one key, not a batch of one
    assert torch.equal(alone[0], whole[4])


@BOTH
@on_events
@on_dtypes
@pytest.mark.parametrize("num_samples", [1, 4])
def test_samples_of_an_item_are_the_same_alone(device, api, event, dtype, num_samples):
    mu, logvar = latents((6, *event), dtype, device)
    keys = keys_of(list(range(6)), device)
    z = api.reparameterize(mu, logvar, num_samples=num_samples, key=keys)
    for i in range(6):
        alone = api.reparameterize(mu[i : i + 1], logvar[i : i + 1], num_samples=num_samples, key=keys[i : i + 1])
        assert torch.equal(alone[:, 0], z[:, i])
        noise = api.standard_normal(keys[i], (num_samples, *event), dtype=dtype)
        zero = torch.zeros_like(mu[i : i + 1])
        unit = api.reparameterize(zero, zero, num_samples=num_samples, key=keys[i : i + 1])
        assert torch.equal(unit[:, 0], noise)


@BOTH
def test_gradients_of_an_item_are_the_same_alone(device, api):
    mu, logvar = (t.requires_grad_() for t in latents((6, 37), torch.float64, device))
    keys = keys_of(list(range(6)), device)
    whole = torch.autograd.grad(api.reparameterize(mu, logvar, num_samples=3, key=keys).sum(), (mu, logvar))
    one = [t.detach()[2:3].clone().requires_grad_() for t in (mu, logvar)]
    alone = torch.autograd.grad(api.reparameterize(*one, num_samples=3, key=keys[2:3]).sum(), one)
    for gradient, of_one in zip(whole, alone, strict=True):
        assert torch.equal(gradient[2:3], of_one)


@BOTH
@on_dtypes
def test_different_keys_and_samples_differ(device, api, dtype):
    mu, logvar = latents((4, 50), dtype, device)
    draws = [
        api.reparameterize(mu, logvar, key=key_of(s, o, device)) for s, o in ((1, 0), (2, 0), (1, 500), (2**40, 0))
    ]
    samples = api.reparameterize(mu, logvar, num_samples=3, key=key_of(1, 0, device))
    different = [*draws, *samples[1:]]
    for i, a in enumerate(different):
        for b in different[:i]:
            assert (a != b).float().mean() > 0.8


SAMPLERS = {
    "reparameterize": lambda api, m, v, **source: api.reparameterize(m, v, **source),
    "samples": lambda api, m, v, **source: api.reparameterize(m, v, num_samples=3, **source),
    "with_kl": lambda api, m, v, **source: api.reparameterize_with_kl(m, v, **source)[0],
}
on_samplers = pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)


@BOTH
@on_samplers
def test_generator_is_reproducible_and_moves_on(device, api, sampler):
    mu, logvar = latents((5, 21), torch.float32, device)
    generator = torch.Generator(device)
    first = sampler(api, mu, logvar, generator=generator.manual_seed(11))
    second = sampler(api, mu, logvar, generator=generator)
    assert not torch.equal(first, second)
    assert torch.equal(first, sampler(api, mu, logvar, generator=generator.manual_seed(11)))
    assert torch.equal(second, sampler(api, mu, logvar, generator=generator))


@BOTH
@on_samplers
def test_default_generator_is_consumed(device, api, sampler):
    mu, logvar = latents((5, 21), torch.float32, device)
    torch.manual_seed(7)
    first, second = sampler(api, mu, logvar), sampler(api, mu, logvar)
    assert not torch.equal(first, second)
    torch.manual_seed(7)
    assert torch.equal(first, sampler(api, mu, logvar))


@BOTH
@on_samplers
def test_keys_and_given_generators_leave_the_default_generator_alone(device, api, sampler):
    mu, logvar = latents((5, 21), torch.float32, device)
    default = (
        torch.default_generator if device.type == "cpu" else torch.cuda.default_generators[torch.cuda.current_device()]
    )
    before = default.get_state()
    sampler(api, mu, logvar, key=key_of(1, 1, device))
    sampler(api, mu, logvar, generator=torch.Generator(device))
    assert torch.equal(default.get_state(), before)


@on_samplers
def test_kernel_and_reference_draw_alike_from_one_generator(sampler):
    mu, logvar = latents((5, 21), torch.float64)
    generators = [torch.Generator().manual_seed(3) for _ in range(2)]
    for _ in range(3):  # as much is consumed by both
        z, expected = (
            sampler(api, mu, logvar, generator=g) for api, g in zip((vf, vf.reference), generators, strict=True)
        )
        torch.testing.assert_close(z, expected, rtol=1e-13, atol=1e-13)
    assert torch.equal(*(g.get_state() for g in generators))


@BOTH
def test_backward_uses_the_noise_of_the_forward(device, api):
    mu, logvar = (t.requires_grad_() for t in latents((5, 21), torch.float64, device))
    generator = torch.Generator(device).manual_seed(3)
    for sampler in SAMPLERS.values():
        z = sampler(api, mu, logvar, generator=generator)
        torch.randn(5, device=device, generator=generator)  # somebody else draws in between
        (gradient,) = torch.autograd.grad(z.sum(), logvar)
        by_samples = 0.5 * (z - mu).detach()
        expected = by_samples.sum(0) if z.dim() > mu.dim() else by_samples
        torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-10)


@on_dtypes
@pytest.mark.parametrize("size", [1000, 300_001])
def test_number_of_threads_changes_nothing(dtype, size):
    mu, logvar = latents((3, size // 3), dtype)
    draws = []
    for count in (1, 2, 3, 1):
        with threads(count):
            leaves = [t.clone().requires_grad_() for t in (mu, logvar)]
            z = vf.reparameterize(*leaves, num_samples=2, key=key_of(5, 5))
            draws.append(
                [
                    z.detach(),
                    *torch.autograd.grad(z, leaves, torch.ones_like(z)),
                    *vf.reparameterize_with_kl(mu, logvar, key=keys_of([1, 2, 3])),
                    vf.standard_normal(key_of(5, 5), (size,), dtype=dtype),
                ]
            )
    for other in draws[1:]:
        assert all(torch.equal(a, b) for a, b in zip(draws[0], other, strict=True))
