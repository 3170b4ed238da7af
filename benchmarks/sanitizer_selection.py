"""Every operator, forward and backward, on small odd shapes of a GPU: what compute-sanitizer is run over.

    compute-sanitizer --tool memcheck python benchmarks/sanitizer_selection.py

Values and gradients are compared with the plain-PyTorch reference on the CPU. The tolerance is wide, since precision is
the tests' business; the comparison is here so that a kernel that did not run cannot pass.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

import vae_fused as vf
from machine import machine_facts, missing_kernels

Inputs = dict[str, Tensor]

_DEVICE = torch.device("cuda")
_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 4e-3, torch.float64: 1e-9}
# A row that fills no vector, an image, one element, and enough for several blocks with a ragged end.
_ROW, _IMAGE, _SCALAR, _BLOCKS = (3, 5), (2, 3, 7, 5), (1, 1), (3, 6007)
_SELECTION = (
    *((dtype, shape) for dtype in _TOLERANCE for shape in (_ROW, _IMAGE)),
    (torch.float32, _SCALAR),
    (torch.float32, _BLOCKS),
    (torch.bfloat16, _BLOCKS),
)


def _layouts(shape: tuple[int, ...], dtype: torch.dtype) -> Iterator[tuple[str, Callable[[], Tensor]]]:
    """Makers of random tensors of one shape in the layouts that kernels must tell apart."""

    def halves() -> Tensor:
        return torch.randn(shape[0], 2 * shape[1], *shape[2:], dtype=dtype).chunk(2, dim=1)[1]

    def misaligned() -> Tensor:
        elements = torch.Size(shape).numel()
        return torch.randn(elements + 1, dtype=dtype)[1:].view(shape)

    yield "contiguous", lambda: torch.randn(shape, dtype=dtype)
    yield "half of a chunk", halves
    yield "misaligned", misaligned
    if len(shape) == 4:
        yield "channels-last", lambda: torch.randn(shape, dtype=dtype).to(memory_format=torch.channels_last)


def _on_gpu(tensor: Tensor) -> Tensor:
    """The same values at the same strides and the same offset on the GPU."""
    storage = torch.empty(0, dtype=tensor.dtype).set_(tensor.untyped_storage()).to(_DEVICE)
    return storage.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())


def _results(module: Any, operator: str, inputs: Inputs, options: dict[str, Any]) -> list[Tensor]:
    leaves = {name: value.detach().requires_grad_(value.is_floating_point()) for name, value in inputs.items()}
    outputs = getattr(module, operator)(**leaves, **options)
    outputs = (outputs,) if isinstance(outputs, Tensor) else outputs
    differentiable = [output for output in outputs if output.requires_grad]
    if differentiable:
        generator = torch.Generator().manual_seed(1)
        upstream = [torch.randn(output.shape, generator=generator).to(output) for output in differentiable]
        torch.autograd.backward(differentiable, upstream)
    gradients = [leaf.grad for leaf in leaves.values()]
    return [*(output.detach() for output in outputs), *(gradient for gradient in gradients if gradient is not None)]


def _compare(operator: str, label: str, inputs: Inputs, precision: torch.dtype, **options: Any) -> int:
    """One call on the GPU against the reference on the CPU; returns 1, the number of calls."""
    name = f"{operator} {options} {label}"
    got = _results(vf, operator, {key: _on_gpu(value) for key, value in inputs.items()}, options)
    expected = _results(vf.reference, operator, inputs, options)
    if len(got) != len(expected):
        raise AssertionError(f"{name}: {len(got)} outputs and gradients, expected {len(expected)}")
    for actual, wanted in zip(got, expected, strict=True):
        atol = _TOLERANCE[precision] * max(1.0, float(wanted.abs().max()))
        torch.testing.assert_close(
            actual.cpu(), wanted, rtol=_TOLERANCE[precision], atol=atol, msg=lambda text: f"{name}: {text}"
        )
    return 1


def _one_key() -> Tensor:
    return torch.tensor([42, 7], dtype=torch.uint64)


def _key_per_item(batch: int) -> Tensor:
    return torch.tensor([[item + 1, 2**40 + item] for item in range(batch)], dtype=torch.uint64)


def _check_sampling(label: str, latents: Inputs) -> int:
    count, dtype = 0, latents["mu"].dtype
    for key in (_one_key(), _key_per_item(latents["mu"].shape[0])):
        inputs = {**latents, "key": key}
        count += _compare("reparameterize_with_kl", label, inputs, dtype)
        count += _compare("reparameterize", label, inputs, dtype)
        count += _compare("reparameterize", label, inputs, dtype, num_samples=3)
    for generator in (None, torch.Generator(_DEVICE).manual_seed(3)):
        mu, logvar = (_on_gpu(latents[name]).requires_grad_() for name in ("mu", "logvar"))
        z, kl = vf.reparameterize_with_kl(mu, logvar, generator=generator)
        torch.autograd.backward((z, kl), (torch.ones_like(z), torch.ones_like(kl)))
        for tensor in (z, kl, mu.grad, logvar.grad):
            if tensor is None or not tensor.isfinite().all():
                raise AssertionError(f"reparameterize_with_kl {label}: not finite with noise of a generator")
        count += 1
    return count


def _check_kl(label: str, latents: Inputs) -> int:
    mu = latents["mu"]
    general = {**latents, "prior_mu": torch.randn_like(mu), "prior_logvar": torch.randn_like(mu[:1])}
    return sum(
        _compare("kl_divergence", label, inputs, mu.dtype, reduction=reduction)
        for inputs in (latents, general)
        for reduction in ("batchmean", "sample", "none")
    )


def _check_loss(label: str, make: Callable[[], Tensor], latents: Inputs) -> int:
    dtype = latents["mu"].dtype
    batch = {"recon": make(), "target": make()}
    given_kl = {**batch, "kl": torch.rand(latents["mu"].shape[0])}
    count = sum(
        _compare("elbo_loss", label, {**batch, **latents}, dtype, reduction=reduction, beta=0.5)
        for reduction in ("batchmean", "sum", "sample", "mean")
    )
    return count + _compare("elbo_loss", label, given_kl, dtype) + _check_in_place(label, given_kl)


def _check_in_place(label: str, given: Inputs) -> int:
    """The gradient in the memory of the reconstruction, where the backward multiplies it."""
    gradients = []
    for module, on_device in ((vf, _on_gpu), (vf.reference, torch.clone)):
        leaves = {name: on_device(tensor).requires_grad_(name != "target") for name, tensor in given.items()}
        loss = module.elbo_loss(**(leaves | {"recon": leaves["recon"].neg()}), inplace=module is vf)
        gradients.append(torch.autograd.grad(3.0 * loss, (leaves["recon"], leaves["kl"])))
    for actual, expected in zip(*gradients, strict=True):
        tolerance = _TOLERANCE[expected.dtype]
        atol = tolerance * max(1.0, float(expected.abs().max()))
        torch.testing.assert_close(
            actual.cpu(), expected, rtol=tolerance, atol=atol, msg=lambda text: f"elbo_loss in place {label}: {text}"
        )
    return 1


def _check_forms(label: str, latents: Inputs) -> int:
    """A scale in another form, a temperature, and a mask of elements or of items."""
    mu, raw = latents["mu"], latents["logvar"].abs() + 0.1
    count, form = 0, {"parameterization": "softplus_std", "epsilon": 0.01}
    for mask in (torch.rand(mu.shape) < 0.5, torch.rand(mu.shape[0], *(1,) * (mu.dim() - 1)) < 0.5):
        masked = {"mu": mu, "logvar": raw, "mask": mask}
        count += _compare("kl_divergence", label, masked, mu.dtype, reduction="sample", **form)
        count += _compare("reparameterize_with_kl", label, {**masked, "key": _one_key()}, mu.dtype, **form)
    drawn = {"mu": mu, "logvar": raw, "key": _one_key()}
    return count + _compare("reparameterize", label, drawn, mu.dtype, num_samples=2, temperature=0.5, **form)


def _check_terms(label: str, make: Callable[[], Tensor], latents: Inputs) -> int:
    """Other reconstruction terms, with weights of elements or of items, and with a sigma an element."""
    batch, dtype = {"recon": make(), "target": make(), **latents}, latents["mu"].dtype
    of_items = torch.rand(batch["recon"].shape[0], *(1,) * (batch["recon"].dim() - 1)) < 0.5
    calls: tuple[tuple[str, Inputs], ...] = (
        ("l1", {"weight": of_items}),
        ("mse", {"weight": torch.rand(batch["recon"].shape) < 0.5}),
        ("gaussian_nll", {"log_sigma": make()}),
        ("laplace_nll", {"log_sigma": torch.tensor(-0.5)}),
        ("gaussian_nll", {"log_sigma": torch.randn_like(batch["recon"][:1])}),
    )
    return sum(
        _compare("elbo_loss", label, {**batch, **extra}, dtype, recon_loss=recon_loss) for recon_loss, extra in calls
    )


def _check_normals(dtype: torch.dtype) -> int:
    requests = ((_one_key(), (1,)), (_one_key(), (4099,)), (_key_per_item(2), (2, 3, 5)))
    return sum(
        _compare("standard_normal", str(dtype), {"key": key}, dtype, size=size, dtype=dtype) for key, size in requests
    )


def check_selection() -> int:
    """Run all of it and return the number of calls; raises ``AssertionError`` at the first that is wrong."""
    torch.manual_seed(0)
    count = 0
    for dtype in _TOLERANCE:
        count += _check_normals(dtype)
    for dtype, shape in _SELECTION:
        for layout, make in _layouts(shape, dtype):
            label = f"{shape} {dtype} {layout}"
            latents = {"mu": make(), "logvar": make()}
            count += _check_sampling(label, latents) + _check_kl(label, latents) + _check_loss(label, make, latents)
            if layout == "contiguous" and dtype in (torch.float32, torch.bfloat16):
                count += _check_forms(label, latents) + _check_terms(label, make, latents)
    return count


def main() -> int:
    """Run the selection; raises on the first wrong value."""
    if not torch.cuda.is_available():
        print("no CUDA device is available", file=sys.stderr)
        return 1
    warning = missing_kernels(machine_facts(_DEVICE))
    if warning is not None:
        print(warning, file=sys.stderr)
        return 1
    count = check_selection()
    torch.cuda.synchronize()
    print(f"{count} operator calls with their backwards agree with the reference")
    return 0


if __name__ == "__main__":
    sys.exit(main())
