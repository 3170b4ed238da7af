"""Ours and what it is measured against: the same operations in eager PyTorch, compiled and captured.

Every forward takes the tensors that its operation names and returns a tuple. Eager takes its noise as an optional last
argument and ours its key, so that both can be asked for the same sample; when timed, each draws its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import torch
import torch._inductor.config
import torch.nn.functional as F
from torch import Tensor

import vae_fused as vf
from cases import OPERATIONS, Case

Forward = Callable[..., tuple[Tensor, ...]]

# Largest difference allowed between ours and eager in full precision, relative to the largest magnitude of the tensor.
_TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}


def _eager_reparameterize(mu: Tensor, logvar: Tensor, noise: Tensor | None) -> Tensor:
    std = torch.exp(0.5 * logvar)
    return mu + std * (torch.randn_like(std) if noise is None else noise)


def _eager_sampling(mu: Tensor, logvar: Tensor, noise: Tensor | None = None) -> tuple[Tensor, ...]:
    z = _eager_reparameterize(mu, logvar, noise)
    kl = -0.5 * (1 + logvar - mu.pow(2) - logvar.exp())
    return z, kl.flatten(1).sum(1)


def _eager_loss(recon: Tensor, target: Tensor, mu: Tensor, logvar: Tensor) -> tuple[Tensor, ...]:
    batch = recon.shape[0]
    kl = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())
    return (F.mse_loss(recon, target, reduction="sum") / batch + kl / batch,)


def _eager_objective(
    recon: Tensor, target: Tensor, mu: Tensor, logvar: Tensor, noise: Tensor | None = None
) -> tuple[Tensor, ...]:
    z = _eager_reparameterize(mu, logvar, noise)
    return *_eager_loss(recon, target, mu, logvar), z


def _eager_reconstruction(recon: Tensor, target: Tensor, kl: Tensor) -> tuple[Tensor, ...]:
    return (F.mse_loss(recon, target, reduction="sum") / recon.shape[0] + kl.mean(),)


def _eager_kl(mu: Tensor, logvar: Tensor) -> Tensor:
    return -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp()) / mu.shape[0]


def _eager_bce_with_logits(recon: Tensor, pixels: Tensor, mu: Tensor, logvar: Tensor) -> tuple[Tensor, ...]:
    term = F.binary_cross_entropy_with_logits(recon, pixels, reduction="sum")
    return (term / recon.shape[0] + _eager_kl(mu, logvar),)


def _eager_gaussian_nll(
    recon: Tensor, target: Tensor, mu: Tensor, logvar: Tensor, log_sigma: Tensor
) -> tuple[Tensor, ...]:
    # As sigma-VAE writes it.
    term = (0.5 * torch.pow((target - recon) / log_sigma.exp(), 2) + log_sigma).sum()
    return (term / recon.shape[0] + _eager_kl(mu, logvar),)


def _eager_l1(recon: Tensor, target: Tensor, mu: Tensor, logvar: Tensor) -> tuple[Tensor, ...]:
    return (F.l1_loss(recon, target, reduction="sum") / recon.shape[0] + _eager_kl(mu, logvar),)


def _our_sampling(mu: Tensor, logvar: Tensor, key: Tensor | None = None) -> tuple[Tensor, ...]:
    return vf.reparameterize_with_kl(mu, logvar, key=key)


def _our_loss(recon: Tensor, target: Tensor, mu: Tensor, logvar: Tensor) -> tuple[Tensor, ...]:
    return (vf.elbo_loss(recon, target, mu, logvar),)


def _our_objective(
    recon: Tensor, target: Tensor, mu: Tensor, logvar: Tensor, key: Tensor | None = None
) -> tuple[Tensor, ...]:
    z, kl = vf.reparameterize_with_kl(mu, logvar, key=key)
    return vf.elbo_loss(recon, target, kl=kl), z


def _our_loss_in_place(recon: Tensor, target: Tensor, mu: Tensor, logvar: Tensor) -> tuple[Tensor, ...]:
    return (vf.elbo_loss(recon, target, mu, logvar, inplace=True),)


def _our_reconstruction(recon: Tensor, target: Tensor, kl: Tensor) -> tuple[Tensor, ...]:
    return (vf.elbo_loss(recon, target, kl=kl),)


def _our_bce_with_logits(recon: Tensor, pixels: Tensor, mu: Tensor, logvar: Tensor) -> tuple[Tensor, ...]:
    return (vf.elbo_loss(recon, pixels, mu, logvar, recon_loss="bce_with_logits"),)


def _our_gaussian_nll(
    recon: Tensor, target: Tensor, mu: Tensor, logvar: Tensor, log_sigma: Tensor
) -> tuple[Tensor, ...]:
    return (vf.elbo_loss(recon, target, mu, logvar, recon_loss="gaussian_nll", log_sigma=log_sigma),)


def _our_l1(recon: Tensor, target: Tensor, mu: Tensor, logvar: Tensor) -> tuple[Tensor, ...]:
    return (vf.elbo_loss(recon, target, mu, logvar, recon_loss="l1"),)


EAGER: dict[str, Forward] = {
    "sampling": _eager_sampling,
    "loss": _eager_loss,
    "objective": _eager_objective,
    "reconstruction": _eager_reconstruction,
    "bce_with_logits": _eager_bce_with_logits,
    "gaussian_nll": _eager_gaussian_nll,
    "l1": _eager_l1,
}
OURS: dict[str, Forward] = {
    "sampling": _our_sampling,
    "loss": _our_loss,
    "objective": _our_objective,
    "reconstruction": _our_reconstruction,
    "bce_with_logits": _our_bce_with_logits,
    "gaussian_nll": _our_gaussian_nll,
    "l1": _our_l1,
}


class Step:
    """What a training loop does with one rival: forward, backward, gradients released.

    The release is part of the step: a rival pays for freeing its own gradients, never for another's.
    """

    def __init__(self, forward: Forward, case: Case, inputs: dict[str, Tensor]) -> None:
        operation = OPERATIONS[case.operation]
        self._forward = forward
        self._arguments = [inputs[name] for name in operation.arguments]
        self._leaves = [inputs[name] for name in operation.leaves]
        self._upstream_names = operation.upstream
        self._inputs = inputs
        self._upstream: list[Tensor | None] = []

    def forward(self) -> tuple[Tensor, ...]:
        """The forward alone."""
        return self._forward(*self._arguments)

    def backward(self, outputs: tuple[Tensor, ...]) -> None:
        """The backward alone."""
        if not self._upstream:
            self._upstream = upstream_gradients(self._upstream_names, self._inputs, outputs)
        torch.autograd.backward(outputs, self._upstream)

    def release(self) -> None:
        """Drop the gradients."""
        for leaf in self._leaves:
            leaf.grad = None

    def __call__(self) -> None:
        """One whole step."""
        self.backward(self.forward())
        self.release()


class InPlaceStep(Step):
    """Ours with the gradient of recon in the memory of recon, which each step needs anew, as from a layer."""

    def __init__(self, case: Case, inputs: dict[str, Tensor]) -> None:
        super().__init__(_our_loss_in_place, case, inputs)
        self._recon = OPERATIONS[case.operation].arguments.index("recon")

    def prepare(self) -> None:
        """Make the reconstruction of the next step; no part of what is timed."""
        self._arguments[self._recon] = self._inputs["recon"].clone()


def upstream_gradients(
    names: tuple[str | None, ...], inputs: dict[str, Tensor], outputs: tuple[Tensor, ...]
) -> list[Tensor | None]:
    """The gradient handed to each output, in the output's dtype: eager's KL comes back in bfloat16, ours in float32."""
    return [
        None if name is None else inputs[name].to(output.dtype) for name, output in zip(names, outputs, strict=True)
    ]


def compiled_step(case: Case, inputs: dict[str, Tensor], mode: str | None = None) -> Step:
    """Eager through ``torch.compile``, specialized to these shapes; raises whatever the compiler raises.

    The first step compiles the forward and the backward, so it is taken here.
    """
    # Inductor fixes the number of threads in its code; its cache tells them apart by this setting alone.
    torch._inductor.config.cpp.threads = torch.get_num_threads()
    step = Step(torch.compile(EAGER[case.operation], dynamic=False, fullgraph=True, mode=mode), case, inputs)
    step()
    return step


@contextmanager
def _on_one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def check_agreement(case: Case, inputs: dict[str, Tensor]) -> None:
    """Raise ``AssertionError`` unless ours and eager give the same values and gradients from the same noise.

    Eager runs in float32 (float64 for float64), so that only the rounding of ours is left to compare. On one thread:
    MKL, which calculates eager's exponentials on the CPU, chooses its kernels at their first call, and of threads that
    make this call together one may be given a kernel of low accuracy (https://github.com/pytorch/pytorch/issues/188792).
    """
    wide = torch.float64 if case.dtype == torch.float64 else torch.float32
    operation = OPERATIONS[case.operation]
    ours = {name: value.detach().clone().requires_grad_(value.requires_grad) for name, value in inputs.items()}
    eager = {name: value.detach().to(wide).requires_grad_(value.requires_grad) for name, value in inputs.items()}
    our_noise: tuple[Tensor, ...] = ()
    eager_noise: tuple[Tensor, ...] = ()
    if "grad_z" in operation.upstream:
        key = torch.tensor([1234, 5], dtype=torch.uint64, device=inputs["mu"].device)
        our_noise, eager_noise = (key,), (vf.standard_normal(key, case.shapes.latents, dtype=wide),)
    results: list[list[Tensor]] = []
    for forward, values, noise in ((OURS, ours, our_noise), (EAGER, eager, eager_noise)):
        with _on_one_thread() if forward is EAGER else nullcontext():
            outputs = forward[case.operation](*(values[name] for name in operation.arguments), *noise)
            upstream = upstream_gradients(operation.upstream, values, outputs)
            torch.autograd.backward(outputs, upstream)
        gradients = [values[name].grad for name in operation.leaves]
        results.append([*(output.detach() for output in outputs), *(g for g in gradients if g is not None)])
    names = [f"output {index}" for index in range(len(operation.upstream))]
    names += [f"gradient of {name}" for name in operation.leaves]
    for name, got, expected in zip(names, *results, strict=True):
        error = ((got.to(wide) - expected).abs().max() / expected.abs().max()).item()
        # Written so that NaN fails.
        assert error <= _TOLERANCE[case.dtype], f"{case}: {name} of ours is off by {error:.2g} of its largest value"
