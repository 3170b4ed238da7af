"""What vmap maps is folded into the batch of one launch: beta, keys, noise, what is not mapped, and what is empty."""

from __future__ import annotations

import pytest
import torch
from helpers.inputs import key_of, keys_of, latents
from helpers.operators import fused_operators_in, storages_read_in
from helpers.transforms import ALL, F64, KEY, MAPPED, operands_of, scalar
from torch.func import grad, jacrev, vmap

import vae_fused as vf

needs_operators = pytest.mark.skipif(not vf.build_info()["extension"], reason="the reference has no operators to count")


def test_mapped_beta(device):
    recon, target, mu, logvar = operands_of(device, stacked=False)
    betas = torch.tensor([0.0, 0.5, 2.0], dtype=F64, device=device)

    def all_of(api):
        def loss(beta, mu, reduction):
            return api.elbo_loss(recon, target, mu, logvar, beta=beta, reduction=reduction)

        return [
            (
                vmap(lambda beta, r=r: loss(beta, mu, r))(betas),
                vmap(grad(lambda beta, r=r: loss(beta, mu, r).sum()))(betas),
                vmap(lambda beta, r=r: jacrev(grad(lambda b, m: loss(b, m, r).sum()), argnums=1)(beta, mu))(betas),
            )
            for r in ("batchmean", "sum", "sample", "mean")
        ]

    torch.testing.assert_close(all_of(vf), all_of(vf.reference), rtol=1e-9, atol=1e-10)


def test_terms(device):
    operands = operands_of(device, stacked=True)

    def terms(api, *o):
        return api.elbo_loss(*o, beta=0.5, return_terms=True)

    torch.testing.assert_close(
        vmap(lambda *o: terms(vf, *o))(*operands), vmap(lambda *o: terms(vf.reference, *o))(*operands)
    )
    gradients = vmap(grad(lambda *o: terms(vf, *o).kl + terms(vf, *o).reconstruction, argnums=ALL))(*operands)
    assert not any(g.any() for g in gradients)


NOT_MAPPED = {
    "objective": lambda r, t: vf.elbo_loss(r, t, kl=r.new_zeros(2), reduction="sum"),
    "objective of one item": lambda r, t: vf.elbo_loss(r[:1], t[:1], kl=r.new_zeros(1), reduction="sample"),
    "kl_divergence": lambda r, t: vf.kl_divergence(r, t, reduction="none"),
    "prior": lambda r, t: vf.kl_divergence(r, r, t, t),
    "reparameterize": lambda r, t: vf.reparameterize(r, t, key=KEY.to(r.device)),
}


@needs_operators
@pytest.mark.parametrize("function", NOT_MAPPED.values(), ids=NOT_MAPPED)
def test_what_is_not_mapped_is_not_copied(device, function):
    recon, target, _, _ = operands_of(device, stacked=True)
    shared = target[0]
    for of_one in (function, grad(scalar(function))):
        given = storages_read_in(lambda f=of_one: vmap(f, (0, None))(recon, shared))
        assert given
        assert all(shared.untyped_storage().data_ptr() in storages for storages in given)


def test_calls_without_batch_or_events(device):
    for shape in ((0, 3), (2, 0), (2,)):
        operands = [torch.rand(MAPPED, *shape, dtype=F64, device=device) for _ in range(4)]
        for reduction in ("batchmean", "sum", "sample", "mean"):
            for api_function in (
                lambda api, *o, r=reduction: api.elbo_loss(*o, reduction=r),
                lambda api, *o, r=reduction: api.kl_divergence(*o, reduction=r),
                lambda api, *o: api.reparameterize(*o[:2], num_samples=2, key=KEY.to(device)),
            ):
                for make in (vmap, lambda f: vmap(grad(lambda *o: f(*o).sum(), argnums=ALL))):
                    ours, truth = (
                        make(lambda *o, api=api, f=api_function: f(api, *o))(*operands) for api in (vf, vf.reference)
                    )
                    torch.testing.assert_close(ours, truth, equal_nan=True)


def noise_of(z, mu, logvar):
    return (z - mu) * torch.exp(-0.5 * logvar)


@pytest.mark.parametrize("num_samples", [None, 3])
@pytest.mark.parametrize("own_generator", [False, True])
@pytest.mark.parametrize("mapped", [True, False], ids=["mapped", "not mapped"])
@pytest.mark.parametrize("randomness", ["same", "different"])
def test_noise_without_a_key(randomness, mapped, own_generator, num_samples):
    mu, logvar = latents((MAPPED, 4, 5), F64) if mapped else latents((4, 5), F64)
    index = torch.arange(MAPPED)
    generator = torch.Generator().manual_seed(3) if own_generator else None
    dim = 0 if mapped else None

    def sample():
        return vmap(
            lambda m, v, i: vf.reparameterize(m, v, num_samples=num_samples, generator=generator),
            (dim, dim, 0),
            randomness=randomness,
        )(mu, logvar, index)

    calls = [sample(), sample()]
    shape = (MAPPED, 4, 5) if num_samples is None else (MAPPED, num_samples, 4, 5)
    lead = (MAPPED, *[1] * (len(shape) - 3), 4, 5)
    noise = [noise_of(z, mu.expand(MAPPED, 4, 5).view(lead), logvar.expand(MAPPED, 4, 5).view(lead)) for z in calls]
    assert [n.shape for n in noise] == [shape, shape]
    assert not torch.isclose(*noise).any()
    for n in noise:
        for other in n[1:]:
            assert torch.allclose(n[0], other) if randomness == "same" else not torch.isclose(n[0], other).any()
    if own_generator:
        generator.manual_seed(3)
        assert torch.equal(sample(), calls[0])


@pytest.mark.parametrize("function", [vf.reparameterize, vf.reparameterize_with_kl])
@pytest.mark.parametrize("own_generator", [False, True])
def test_no_noise_without_randomness(function, own_generator):
    mu, logvar = latents((MAPPED, 4, 5))
    generator = torch.Generator() if own_generator else None
    with pytest.raises(RuntimeError) as ours:
        vmap(lambda m, v: function(m, v, generator=generator))(mu, logvar)
    with pytest.raises(RuntimeError) as theirs:
        vmap(torch.randn_like)(mu)
    assert str(ours.value) == str(theirs.value)


@needs_operators
@pytest.mark.parametrize("dtype", [torch.float32, F64, torch.bfloat16], ids=str)
def test_noise_of_mapped_keys(device, dtype):
    keys = torch.stack([keys_of([1, 2], device), keys_of([3, 4], device), keys_of([5, 6], device)])
    expected = torch.stack([torch.stack([vf.standard_normal(key, (2, 7), dtype=dtype) for key in row]) for row in keys])
    assert torch.equal(vmap(vmap(lambda key: vf.standard_normal(key, (2, 7), dtype=dtype)))(keys), expected)
    by_item = torch.stack([vf.standard_normal(row, (2, 7), dtype=dtype) for row in keys])
    found = []
    ran = fused_operators_in(lambda: found.append(vmap(lambda k: vf.standard_normal(k, (2, 7), dtype=dtype))(keys)))
    assert torch.equal(found[0], by_item)
    assert ran == {"standard_normal": 1}


@needs_operators
@pytest.mark.parametrize("num_samples", [None, 3])
def test_mapped_keys_give_the_bits_of_a_loop(device, num_samples):
    mu, logvar = latents((MAPPED, 2, 7), device=device)
    one = torch.stack([key_of(seed, 3, device) for seed in range(MAPPED)])
    each = torch.stack([keys_of([seed, seed + 9], device) for seed in range(MAPPED)])
    for keys in (one, each):
        for dim in (0, None):
            found = []

            def mapped(keys=keys, dim=dim, found=found):
                m, v = (mu, logvar) if dim == 0 else (mu[0], logvar[0])
                function = vmap(lambda m, v, k: vf.reparameterize(m, v, num_samples=num_samples, key=k), (dim, dim, 0))
                found.append(function(m, v, keys))

            assert fused_operators_in(mapped) == {"reparameterize": 1}
            for index, key in enumerate(keys):
                item = index if dim == 0 else 0
                expected = vf.reparameterize(mu[item], logvar[item], num_samples=num_samples, key=key)
                assert torch.equal(found[0][index], expected)
