"""The package's functions, and torch.func transforms of them, with the operators that each has to run."""

from __future__ import annotations

import pytest
import torch
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vjp, vmap
from torch.utils._pytree import tree_leaves

from helpers.inputs import images, key_of, keys_of, latents

F64 = torch.float64
LOSS, KL, SAMPLE, NOISE = "elbo_loss", "kl_divergence", "reparameterize", "standard_normal"
BATCH, MAPPED = 2, 3
KEY, KEYS = key_of(5, 7), keys_of([5, 2**64 - 1])


def prior(mu):
    return 0.1 * torch.arange(3, dtype=mu.dtype, device=mu.device), mu.new_full((BATCH, 1), 0.3)


# A function of recon, target, mu and logvar in either api, and the operators of its value.
FUNCTIONS = {
    **{
        f"elbo_loss {reduction}": (
            lambda api, r, t, m, v, reduction=reduction: api.elbo_loss(r, t, m, v, beta=0.5, reduction=reduction),
            (LOSS, KL),
        )
        for reduction in ("batchmean", "sum", "sample", "mean")
    },
    "elbo_loss beta": (lambda api, r, t, m, v: api.elbo_loss(r, t, m, v, beta=m.square().mean()), (LOSS, KL)),
    "elbo_loss kl": (lambda api, r, t, m, v: api.elbo_loss(r * v.mean(), t, kl=(m * v).sum(1), beta=0.5), (LOSS,)),
    **{
        f"kl_divergence {reduction}": (
            lambda api, r, t, m, v, reduction=reduction: api.kl_divergence(m, v, reduction=reduction),
            (KL,),
        )
        for reduction in ("batchmean", "sum", "sample", "mean", "none")
    },
    "prior": (lambda api, r, t, m, v: api.kl_divergence(m, v, *prior(m), reduction="sample"), (KL,)),
    "learned prior": (lambda api, r, t, m, v: api.kl_divergence(m, v, v, m), (KL,)),
    "one key": (lambda api, r, t, m, v: api.reparameterize(m, v, key=KEY.to(m.device)), (SAMPLE,)),
    "key per item": (lambda api, r, t, m, v: api.reparameterize(m, v, key=KEYS.to(m.device)), (SAMPLE,)),
    "samples": (lambda api, r, t, m, v: api.reparameterize(m, v, num_samples=3, key=KEY.to(m.device)), (SAMPLE,)),
    "samples, key per item": (
        lambda api, r, t, m, v: api.reparameterize(m, v, num_samples=3, key=KEYS.to(m.device)),
        (SAMPLE,),
    ),
    "with_kl": (lambda api, r, t, m, v: api.reparameterize_with_kl(m, v, key=KEY.to(m.device)), (SAMPLE, KL)),
}
on_functions = pytest.mark.parametrize(("function", "forward"), FUNCTIONS.values(), ids=FUNCTIONS)
ALL = (0, 1, 2, 3)


def scalar(function):
    return lambda *operands: sum(leaf.sin().sum() for leaf in tree_leaves(function(*operands)))


def weighted_gradient(function, order=1):
    """The gradients in all operands, up to their order, added up with different weights."""
    for _ in range(order):
        function = (lambda f: lambda *o: sum((g * (g + 1.5)).sum() for g in grad(f, argnums=ALL)(*o)))(scalar(function))
    return function


# Transforms of f(recon, target, mu, logvar); whether the operands are stacked, and whether a backward kernel runs.
TRANSFORMS = {
    "grad": (lambda f: grad(scalar(f), argnums=ALL), False, True),
    "second gradient": (lambda f: weighted_gradient(f, 2), False, True),
    "third gradient": (lambda f: weighted_gradient(f, 3), False, True),
    "jvp": (lambda f: lambda *o: jvp(f, o, tuple(x.cos() for x in o)), False, False),
    "jvp in one operand": (lambda f: lambda r, t, m, v: jvp(lambda v: f(r, t, m, v), (v,), (m,)), False, False),
    "jvp of jvp": (lambda f: lambda *o: jvp(lambda *o: jvp(f, o, o), o, tuple(x.cos() for x in o)), False, False),
    "vjp": (lambda f: lambda *o: vjp(scalar(f), *o)[1](o[0].sum()), False, True),
    "jacrev": (lambda f: lambda *o: jacrev(f, argnums=(2, 3))(*o), False, True),
    "jacfwd": (lambda f: lambda *o: jacfwd(f, argnums=(2, 3))(*o), False, False),
    "hessian": (lambda f: hessian(scalar(f), argnums=(2, 3)), False, True),
    "reverse over forward": (lambda f: jacrev(jacfwd(scalar(f), argnums=2), argnums=3), False, True),
    "reverse over reverse": (lambda f: jacrev(jacrev(scalar(f), argnums=2), argnums=3), False, True),
    "vmap": (lambda f: vmap(f), True, False),
    "vmap of some": (lambda f: lambda r, t, m, v: vmap(f, (0, None, None, 0))(r, t[0], m[0], v), True, False),
    "vmap of others": (lambda f: lambda r, t, m, v: vmap(f, (None, 0, 0, None))(r[0], t, m, v[0]), True, False),
    "vmap over a later dimension": (
        lambda f: lambda *o: vmap(f, (1, -1, 2, 0))(o[0].movedim(0, 1), o[1].movedim(0, -1), o[2].movedim(0, 2), o[3]),
        True,
        False,
    ),
    "vmap of vmap": (
        lambda f: lambda r, t, m, v: vmap(vmap(f, (0, 0, None, 0)), (None, None, 0, 0))(r, t, m, torch.stack([v] * 3)),
        True,
        False,
    ),
    "gradients of each": (lambda f: vmap(grad(scalar(f), argnums=ALL)), True, True),
    "grad of vmap": (lambda f: grad(scalar(vmap(f)), argnums=ALL), True, True),
    "jvp of vmap": (lambda f: lambda *o: jvp(vmap(f), o, tuple(x.cos() for x in o)), True, False),
    "vmap of jvp": (lambda f: vmap(lambda *o: jvp(f, o, tuple(x.cos() for x in o))), True, False),
    "hessians of each": (lambda f: vmap(hessian(scalar(f), argnums=3)), True, True),
    "second gradient of vmap": (lambda f: weighted_gradient(vmap(f), 2), True, True),
}
on_transforms = pytest.mark.parametrize(("transform", "stacked", "backward"), TRANSFORMS.values(), ids=TRANSFORMS)


def operands_of(device, stacked, dtype=F64):
    lead = (MAPPED, BATCH) if stacked else (BATCH,)
    return (*images((*lead, 4), dtype, device), *latents((*lead, 3), dtype, device))
