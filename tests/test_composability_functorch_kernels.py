"""Inside torch.func transforms the kernels run, and give what the formulas give.

Truth is the same transform of the reference in float64. How many operators of the package ran is counted below the
transforms, so a call that took plain formulas, or one kernel for every mapped item, fails.
"""

from __future__ import annotations

import pytest
import torch
from helpers import eager
from helpers.operators import fused, fused_operators_in, recording_backend
from helpers.tolerances import approximates, normal_error
from helpers.transforms import ALL, FUNCTIONS, NOISE, TRANSFORMS, on_functions, on_transforms, operands_of, scalar
from torch.func import grad, jvp, vmap
from torch.torch_version import TorchVersion
from torch.utils._pytree import tree_flatten, tree_leaves

import vae_fused as vf

# PyTorch 2.11 does not compile the Jacobian of a function with several tensors as its results.
PYTORCH_COMPILES_EVERY_JACOBIAN = TorchVersion(torch.__version__) >= (2, 13)

pytestmark = pytest.mark.skipif(not vf.build_info()["extension"], reason="the reference has no operators to count")


@on_functions
@on_transforms
def test_values_and_kernels(device, function, forward, transform, stacked, backward):
    operands = operands_of(device, stacked)
    found = []
    ran = fused_operators_in(lambda: found.append(transform(lambda *o: function(vf, *o))(*operands)))
    expected = transform(lambda *o: function(vf.reference, *o))(*operands)
    ours, structure = tree_flatten(found[0])
    truth, expected_structure = tree_flatten(expected)
    assert structure == expected_structure
    torch.testing.assert_close(ours, truth, rtol=1e-9, atol=1e-10)
    # One launch of each, whatever is mapped. Formulas may ask for noise.
    ran.pop(NOISE, None)
    backwards = [f"{name}_backward" for name in forward] if backward else []
    assert {name: 1 for name in forward}.items() <= ran.items()
    assert set(ran) <= {*forward, *backwards}
    assert not backward or set(backwards) & set(ran)


COMPILED_FUNCTIONS = {name: FUNCTIONS[name] for name in ("elbo_loss mean", "prior", "samples, key per item", "with_kl")}
COMPILED_TRANSFORMS = {
    name: TRANSFORMS[name]
    for name in (
        "grad",
        "jvp of jvp",
        "jacrev",
        "hessian",
        "vmap of some",
        "gradients of each",
        "vmap of jvp",
    )
}


@pytest.mark.parametrize(("function", "forward"), COMPILED_FUNCTIONS.values(), ids=COMPILED_FUNCTIONS)
@pytest.mark.parametrize(
    ("transform", "stacked", "backward"), COMPILED_TRANSFORMS.values(), ids=COMPILED_TRANSFORMS.keys()
)
def test_kernels_in_compiled_transforms(device, function, forward, transform, stacked, backward):
    operands = operands_of(device, stacked)
    torch.compiler.reset()
    backend, names = recording_backend()
    of_reference = transform(lambda *o: function(vf.reference, *o))
    compiled = torch.compile(transform(lambda *o: function(vf, *o)), fullgraph=True, backend=backend)
    try:
        ours = compiled(*operands)
    except torch._dynamo.exc.UserError:
        if PYTORCH_COMPILES_EVERY_JACOBIAN:
            raise
        with pytest.raises(torch._dynamo.exc.UserError):
            torch.compile(of_reference, fullgraph=True, backend=backend)(*operands)
        pytest.skip("this PyTorch does not compile this Jacobian, of plain formulas neither")
    truth = of_reference(*operands)
    torch.testing.assert_close(tree_leaves(ours), tree_leaves(truth), rtol=1e-9, atol=1e-10)
    found = fused(names)
    assert {name: 1 for name in forward}.items() <= found.items()
    assert bool({f"{name}_backward" for name in forward} & set(found)) == backward


@on_functions
def test_ordinary_autograd_around_vmap(device, function, forward):
    operands = [o.requires_grad_() for o in operands_of(device, stacked=True)]
    found = {}
    for api in (vf, vf.reference):
        loss = scalar(vmap(lambda *o, api=api: function(api, *o)))(*operands)
        first = torch.autograd.grad(loss, operands, create_graph=True, materialize_grads=True)
        second = sum((g * g.cos()).sum() for g in first)
        found[api] = [*first, *torch.autograd.grad(second, operands, materialize_grads=True)]
    torch.testing.assert_close(found[vf], found[vf.reference], rtol=1e-9, atol=1e-10)


class TrueOfNarrow:
    """The reference in float64, with the noise that narrower types have."""

    elbo_loss, kl_divergence = vf.reference.elbo_loss, vf.reference.kl_divergence

    @staticmethod
    def reparameterize(mu, logvar, *, num_samples=None, key):
        zero = torch.zeros_like(mu, dtype=torch.float32)
        noise = vf.reference.reparameterize(zero, zero, num_samples=num_samples, key=key)
        return eager.reparameterize(mu, logvar, noise.double())

    @staticmethod
    def reparameterize_with_kl(mu, logvar, *, key):
        return TrueOfNarrow.reparameterize(mu, logvar, key=key), eager.kl_divergence(mu, logvar, reduction="sample")


NARROW = {
    "vmap": vmap,
    "gradients of each": lambda f: vmap(grad(scalar(f), argnums=ALL)),
    "jvp of vmap": lambda f: lambda *o: jvp(vmap(f), o, o),
}


@on_functions
@pytest.mark.parametrize("transform", NARROW.values(), ids=NARROW)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_dtypes(device, function, forward, dtype, transform):
    operands = operands_of(device, stacked=True, dtype=dtype)
    ours, theirs = (transform(lambda *o, api=api: function(api, *o))(*operands) for api in (vf, vf.reference))
    truth = transform(lambda *o: function(TrueOfNarrow, *o))(*(o.double() for o in operands))
    for a, b, exact in zip(*map(tree_leaves, (ours, theirs, truth)), strict=True):
        assert a.dtype == b.dtype
        # The noise of a GPU, and what it is multiplied by here.
        of_noise = 4 * normal_error(torch.float32, device) if approximates(device) else 0.0
        allowed = 8 * torch.finfo(dtype).eps + of_noise
        torch.testing.assert_close(a.double(), exact, rtol=allowed, atol=allowed)
