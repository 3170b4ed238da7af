"""The one table of benchmark cases: what is computed, at which shapes, and the fewest bytes that it can move.

Speed and memory, CPU and GPU all take their inputs from here, so a figure of one can be set beside a figure of another.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Shapes:
    """One size of problem: the latents (of mu, logvar and z) and the data (of recon and target)."""

    name: str
    latents: tuple[int, ...]
    data: tuple[int, ...]


MNIST = Shapes("mnist", latents=(128, 20), data=(128, 784))
# A convolutional VAE on 64x64 RGB, the first stage of a latent diffusion model, and one on clips of 17 frames.
FACES = Shapes("faces", latents=(128, 64), data=(128, 3, 64, 64))
LATENT_DIFFUSION = Shapes("latent-diffusion", latents=(4, 4, 64, 64), data=(4, 3, 512, 512))
VIDEO = Shapes("video", latents=(2, 16, 5, 32, 32), data=(2, 3, 17, 256, 256))
IMAGES = Shapes("images", latents=(64, 4, 64, 64), data=(64, 3, 256, 256))
WIDE = Shapes("wide", latents=(8192, 512), data=(8192, 512))
# 2**26 elements in each tensor: several times the L2 cache of any GPU.
LARGE = Shapes("large", latents=(8192, 8192), data=(8192, 8192))


@dataclass(frozen=True)
class Operation:
    """One thing a VAE does in a step.

    ``arguments`` are the tensors of the forward, ``leaves`` those that receive a gradient, ``upstream`` the gradient
    handed to each output of the forward (``None``: a scalar loss, whose gradient is 1). ``latent_passes`` and
    ``data_passes`` count how often an ideal forward and backward together read or write one tensor of that size.
    """

    title: str
    arguments: tuple[str, ...]
    leaves: tuple[str, ...]
    upstream: tuple[str | None, ...]
    latent_passes: int
    data_passes: int


_BATCH_ARGUMENTS = ("recon", "target", "mu", "logvar")
_BATCH_LEAVES = ("recon", "mu", "logvar")

OPERATIONS = {
    # forward: read mu, logvar, write z; backward: read mu, logvar, the gradient of z, write two gradients.
    "sampling": Operation("sampling + KL", ("mu", "logvar"), ("mu", "logvar"), ("grad_z", "grad_kl"), 8, 0),
    # read recon, target, mu, logvar; write the gradients of recon, mu, logvar.
    "loss": Operation("loss (MSE + KL)", _BATCH_ARGUMENTS, _BATCH_LEAVES, (None,), 4, 3),
    # both of the above, with the KL inside the sampling; z has the gradient that a decoder would send back.
    "objective": Operation("whole objective", _BATCH_ARGUMENTS, _BATCH_LEAVES, (None, "grad_z"), 8, 3),
    # the reconstruction term alone, with the per-item KL given.
    "reconstruction": Operation("MSE, KL given", ("recon", "target", "kl"), ("recon",), (None,), 0, 3),
    # as "loss", with other reconstruction terms; pixels lie in [0, 1], and log_sigma is one learned number.
    "bce_with_logits": Operation(
        "loss (BCE of logits + KL)", ("recon", "pixels", "mu", "logvar"), _BATCH_LEAVES, (None,), 4, 3
    ),
    "gaussian_nll": Operation(
        "loss (Gaussian NLL + KL)", (*_BATCH_ARGUMENTS, "log_sigma"), (*_BATCH_LEAVES, "log_sigma"), (None,), 4, 3
    ),
    "l1": Operation("loss (L1 + KL)", _BATCH_ARGUMENTS, _BATCH_LEAVES, (None,), 4, 3),
}
TERMS = ("bce_with_logits", "gaussian_nll", "l1")


@dataclass(frozen=True)
class Case:
    """One row of the results: an operation at one set of shapes in one dtype, forward and backward."""

    operation: str
    shapes: Shapes
    dtype: torch.dtype = torch.float32

    def __str__(self) -> str:
        return f"{self.operation}-{self.shapes.name}-{self.dtype_name}"

    @property
    def title(self) -> str:
        """The case in words, as the tables show it."""
        return f"{OPERATIONS[self.operation].title}, {self.shapes.name}"

    @property
    def dtype_name(self) -> str:
        """``"float32"`` for ``torch.float32``."""
        return str(self.dtype).removeprefix("torch.")

    @property
    def latent_elements(self) -> int:
        """Elements of mu, and of z."""
        return math.prod(self.shapes.latents)

    @property
    def normals(self) -> int:
        """Normals that one forward and backward draws: the backward draws those of the forward again."""
        return 2 * self.latent_elements if "grad_z" in OPERATIONS[self.operation].upstream else 0

    @property
    def largest_tensor_bytes(self) -> int:
        """Bytes of the largest tensor that the case handles."""
        operation = OPERATIONS[self.operation]
        sizes = [self.latent_elements] if operation.latent_passes else []
        sizes += [math.prod(self.shapes.data)] if operation.data_passes else []
        return max(sizes) * self.dtype.itemsize

    @property
    def ideal_bytes(self) -> int:
        """Bytes that one forward and backward must move if every tensor is read and written no more than needed."""
        operation = OPERATIONS[self.operation]
        elements = operation.latent_passes * self.latent_elements
        elements += operation.data_passes * math.prod(self.shapes.data)
        return elements * self.dtype.itemsize


CPU_CASES = (
    *(Case(operation, shapes) for operation in ("sampling", "loss", "objective") for shapes in (MNIST, IMAGES, WIDE)),
    *(Case(operation, shapes) for operation in TERMS for shapes in (MNIST, WIDE)),
)

# The whole suite: every shape, operation and dtype.
SUITE_CASES = (
    *(
        Case(operation, shapes, dtype)
        for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64)
        for shapes in (MNIST, FACES, LATENT_DIFFUSION, IMAGES, VIDEO, WIDE)
        for operation in ("sampling", "loss", "objective")
    ),
    *(
        Case(operation, shapes, dtype)
        for dtype in (torch.float32, torch.bfloat16)
        for shapes in (MNIST, IMAGES, WIDE)
        for operation in TERMS
    ),
)

# Squares from 16 elements, where all is overhead, to 2**24, where all is memory.
SWEEP_SIDES = tuple(1 << exponent for exponent in range(2, 13))
SWEEP_CASES = tuple(
    Case(operation, Shapes(f"{side}x{side}", latents=(side, side), data=(side, side)))
    for operation in ("sampling", "loss", "objective")
    for side in SWEEP_SIDES
)

# In order of importance: a run that is short of time leaves out the end of the list, and says so.
GPU_CASES = (
    *(Case("objective", MNIST, dtype) for dtype in (torch.float32, torch.bfloat16)),
    *(Case(operation, LARGE, dtype) for dtype in (torch.float32, torch.bfloat16)
      for operation in ("sampling", "reconstruction")),
    *(Case(operation, shapes, dtype) for dtype in (torch.float32, torch.bfloat16)
      for operation, shapes in (("objective", IMAGES), ("objective", WIDE), ("sampling", IMAGES), ("sampling", WIDE),
                                ("loss", IMAGES), ("loss", WIDE), ("sampling", MNIST), ("loss", MNIST))),
)  # fmt: skip


def make_inputs(case: Case, device: torch.device) -> dict[str, Tensor]:
    """The tensors that the operation names, drawn from a fixed seed; the leaves require a gradient."""
    generator = torch.Generator(device).manual_seed(0)
    operation = OPERATIONS[case.operation]
    latents, data, batch = case.shapes.latents, case.shapes.data, case.shapes.latents[0]

    def normal(shape: tuple[int, ...]) -> Tensor:
        return torch.randn(shape, dtype=case.dtype, device=device, generator=generator)

    makers = {
        "mu": lambda: normal(latents),
        "logvar": lambda: normal(latents) * 0.5 - 1.0,
        "recon": lambda: normal(data),
        "target": lambda: normal(data),
        "grad_z": lambda: normal(latents),
        "grad_kl": lambda: torch.full((batch,), 1.0 / batch, device=device),
        "kl": lambda: normal((batch,)).float().square(),
        "pixels": lambda: torch.rand(data, dtype=case.dtype, device=device, generator=generator),
        "log_sigma": lambda: torch.full((), -0.5, device=device),
    }
    names = (*operation.arguments, *(name for name in operation.upstream if name is not None))
    inputs = {name: makers[name]() for name in names}
    for name in operation.leaves:
        inputs[name].requires_grad_()
    return inputs
