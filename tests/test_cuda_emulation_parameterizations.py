"""The CUDA code for every form of a posterior's scale, run on the host and compared with the CPU operators."""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from cuda_emulation.harness import DTYPES, KEY, LOW, assert_agree, emulated, emulating, latents, needs_emulation, on_cpu
from helpers.posteriors import CLAMP, CLAMPS, PARAMETERIZATIONS, Form, mask_of
from torch.utils._pytree import tree_leaves

pytestmark = needs_emulation

SHAPES = [(3, 6), (2, 4, 4, 8), (3, 1501)]
FORMS = [Form(name) for name in PARAMETERIZATIONS]
FORMS += [
    Form(name, epsilon, CLAMP, clamp)
    for (name, clamp), epsilon in zip(itertools.product(PARAMETERIZATIONS, CLAMPS), itertools.cycle([0.0, 0.01]))
]
# Not those that the kernels without transforms read, whose test is that of packed moments.
LOGVAR = [form for form in FORMS if form.parameterization in ("logvar", "exp_var") and form.epsilon == 0.0]
LOGVAR = [form for form in LOGVAR if form.clamp == "hard"]
FORMS = [form for form in FORMS if form not in LOGVAR]
on_forms = pytest.mark.parametrize("form", FORMS, ids=str)
on_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)
MASKS = ("none", "weights", "bool")


@pytest.fixture(autouse=True)
def emulation() -> Iterator[ctypes.CDLL]:
    with emulating() as library:
        yield library


def operands(form: Form, shape: tuple[int, ...], dtype: torch.dtype) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    for mu, raw in latents(shape, dtype):
        if form.of_positive:  # in its whole memory, whatever part of it raw is
            memory = raw.as_strided((raw.untyped_storage().nbytes() // raw.element_size(),), (1,), 0)
            memory.abs_().add_(0.05)
        yield mu, raw


def assert_noisy_agree(actual: Any, expected: Any) -> None:
    """The error of the noise is multiplied by standard deviations or their slopes, 16 at most.

    Incoming gradients are cosines, so that a gradient multiplies it by no more.
    """
    for one, other in zip(tree_leaves(actual), tree_leaves(expected), strict=True):
        assert_agree(one / 16, other / 16, True)


def assert_transforms(library: ctypes.CDLL, wanted: bool = True) -> None:
    assert (b"= vae_fused::Transforming" in library.emulated_launcher()) is wanted


def assert_vectors(library: ctypes.CDLL, wanted: bool) -> None:
    assert (b"TransformingVectors" if wanted else b"TransformingAccess") in library.emulated_launcher()


@on_dtypes
@on_forms
def test_samples_and_their_backward(emulation: ctypes.CDLL, form: Form, dtype: torch.dtype) -> None:
    scale = {**form.for_operator, "temperature": 0.6}
    for shape, samples in zip(SHAPES, itertools.cycle([None, 2])):
        for mu, raw in operands(form, shape, dtype):
            z = emulated("reparameterize", mu, raw, KEY, num_samples=samples, **scale)
            assert_transforms(emulation)
            assert_noisy_agree(z, on_cpu("reparameterize", mu, raw, KEY, num_samples=samples, **scale))
            arguments = (z.cos(), None, None, raw, KEY, samples, (True, True))
            gradients = emulated("reparameterize_backward", *arguments, **scale)
            assert_noisy_agree(gradients, on_cpu("reparameterize_backward", *arguments, **scale))


def test_an_incoming_gradient_in_float64(emulation: ctypes.CDLL) -> None:
    mu, raw = torch.randn(2, 3, 64, generator=torch.Generator().manual_seed(1)).unbind()
    arguments = (mu.double().cos(), None, None, raw, KEY, None, (True, True))
    gradients = emulated("reparameterize_backward", *arguments, parameterization="log_std")
    assert_vectors(emulation, False)
    expected = on_cpu("reparameterize_backward", *arguments, parameterization="log_std")
    for one, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@on_dtypes
@on_forms
def test_samples_with_the_divergence(emulation: ctypes.CDLL, form: Form, dtype: torch.dtype) -> None:
    for shape in SHAPES:
        for (mu, raw), masked in zip(operands(form, shape, dtype), itertools.cycle(MASKS)):
            scale = {**form.for_operator, "mask": mask_of(shape, masked)}
            z, kl = emulated("reparameterize_with_kl", mu, raw, KEY, **scale)
            assert_noisy_agree((z, kl), on_cpu("reparameterize_with_kl", mu, raw, KEY, **scale))
            for grad_z in (z.cos(), None):
                arguments = (grad_z, kl.cos(), mu, raw, KEY, None, (True, True))
                gradients = emulated("reparameterize_backward", *arguments, **scale)
                assert_noisy_agree(gradients, on_cpu("reparameterize_backward", *arguments, **scale))


@on_dtypes
@on_forms
def test_divergence_and_its_backward(emulation: ctypes.CDLL, form: Form, dtype: torch.dtype) -> None:
    for shape, reduction in zip(SHAPES, itertools.cycle(["sample", "none", "mean"])):
        for prior in ((None, None), (torch.full(shape[1:], 0.3, dtype=dtype), torch.tensor(0.4, dtype=dtype))):
            for (mu, raw), masked in zip(operands(form, shape, dtype), MASKS, strict=False):
                scale = {**form.for_operator, "mask": mask_of(shape, masked)}
                value = emulated("kl_divergence", mu, raw, *prior, reduction, **scale)
                assert_transforms(emulation)
                assert_agree(value, on_cpu("kl_divergence", mu, raw, *prior, reduction, **scale))
                arguments = (torch.full_like(value, 0.75), (True,) * 4, mu, raw, *prior, reduction)
                gradients = emulated("kl_divergence_backward", *arguments, **scale)
                assert_agree(gradients, on_cpu("kl_divergence_backward", *arguments, **scale))


def test_the_default_takes_the_kernels_without_transforms(emulation: ctypes.CDLL) -> None:
    mu, logvar = torch.randn(3, 64), torch.randn(3, 64)
    for scale in (Form(), *LOGVAR):
        emulated("reparameterize", mu, logvar, KEY, num_samples=None, **scale.for_operator)
        assert_transforms(emulation, False)
        emulated("kl_divergence", mu, logvar, None, None, "sum", **scale.for_operator)
        assert_transforms(emulation, False)


def test_errors_are_those_of_the_cpu() -> None:
    mu = torch.zeros(3, 4)
    with pytest.raises(ValueError, match="parameterization must be one of"):
        emulated("kl_divergence", mu, mu, None, None, "sum", parameterization="sigma")
    with pytest.raises(ValueError, match="temperature must be finite and not negative"):
        emulated("reparameterize", mu, mu, KEY, temperature=-1.0)
    with pytest.raises(ValueError, match="mask must be broadcastable"):
        emulated("reparameterize_with_kl", mu, mu, KEY, mask=torch.ones(3))


# Contiguous ones of whole and of ragged vectors, rows of whole vectors; a misaligned base, and rows that end inside.
VECTORS = {
    "contiguous": (lambda t: t[:, :16].contiguous(), True),
    "ragged": (lambda t: t[:, :13].contiguous(), True),
    "many pieces": (lambda t: t.repeat(1, 300)[:, :4099].contiguous(), True),
    "rows": (lambda t: t[:, 16:], True),
    "misaligned": (lambda t: t.flatten()[1:97].view(6, 16), False),
    "ragged rows": (lambda t: t[:, :13], False),
    "transposed": (lambda t: t.t(), False),
}
SOME_FORMS = [Form("softplus_std", 0.01), Form("std"), Form("logvar", 0.0, CLAMP, "soft"), Form("var", 0.0, CLAMP)]


@pytest.mark.parametrize(("cut", "vectors"), VECTORS.values(), ids=VECTORS)
@pytest.mark.parametrize("form", SOME_FORMS, ids=str)
@pytest.mark.parametrize("dtype", LOW, ids=str)
def test_aligned_operands_move_in_vectors(
    emulation: ctypes.CDLL,
    form: Form,
    dtype: torch.dtype,
    cut: Callable[[torch.Tensor], torch.Tensor],
    vectors: bool,
) -> None:
    generator = torch.Generator().manual_seed(4)
    mu, raw = (cut((torch.rand(6, 32, generator=generator) + 0.2).to(dtype)) for _ in range(2))
    weights = cut(torch.rand(6, 32, generator=generator))
    for mask in (None, weights, weights > 0.5):
        scale = {**form.for_operator, "mask": mask}

        def check(name: str, *arguments: Any, noisy: bool, **others: Any) -> Any:
            actual = emulated(name, *arguments, **others)
            assert_vectors(emulation, vectors)
            compare = assert_noisy_agree if noisy else assert_agree
            compare(actual, on_cpu(name, *arguments, **others))
            return actual

        z, kl = check("reparameterize_with_kl", mu, raw, KEY, noisy=True, **scale)
        check("reparameterize_backward", z.cos(), kl.cos(), mu, raw, KEY, None, (True, True), noisy=True, **scale)
        for prior, reduction in (((None, None), "sample"), ((mu, mu), "none"), ((None, mu), "mean")):
            value = check("kl_divergence", mu, raw, *prior, reduction, noisy=False, **scale)
            arguments = (torch.full_like(value, 0.75), (True,) * 4, mu, raw, *prior, reduction)
            check("kl_divergence_backward", *arguments, noisy=False, **scale)
    scale = {**form.for_operator, "temperature": 0.5}
    for samples in (None, 1, 2):
        aligned = vectors and (samples != 2 or mu.numel() % 8 == 0)
        z = emulated("reparameterize", mu, raw, KEY, num_samples=samples, **scale)
        assert_vectors(emulation, aligned)
        assert_noisy_agree(z, on_cpu("reparameterize", mu, raw, KEY, num_samples=samples, **scale))
        arguments = (z.cos(), None, None, raw, KEY, samples, (True, True))
        gradients = emulated("reparameterize_backward", *arguments, **scale)
        assert_vectors(emulation, aligned)
        assert_noisy_agree(gradients, on_cpu("reparameterize_backward", *arguments, **scale))


def test_operands_that_are_no_vectors_beside_some_that_are(emulation: ctypes.CDLL) -> None:
    mu, raw = torch.rand(6, 16), torch.rand(6, 16) + 0.2
    misaligned = torch.rand(97)[1:].view(6, 16)
    # One factor for all elements of a row is read once for a vector.
    for mask, vectors in ((torch.rand(6, 1), True), (torch.rand(6, 1) > 0.5, True), (misaligned, False)):
        arguments = (mu, raw, None, None, "sample")
        value = emulated("kl_divergence", *arguments, mask=mask, parameterization="std")
        assert_vectors(emulation, vectors)
        assert_agree(value, on_cpu("kl_divergence", *arguments, mask=mask, parameterization="std"))
    half, grad = mu.half(), torch.rand(6, 16).half()
    backward = (grad, (True,) * 4, half, raw.half(), None, None, "none")
    gradients = emulated("kl_divergence_backward", *backward, parameterization="std")
    assert_vectors(emulation, False)  # a gradient in the type of mu, where float32 is usual
    assert_agree(gradients, on_cpu("kl_divergence_backward", *backward, parameterization="std"))
