"""Loads the compiled operators, and says what was built."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vae_fused import _build

_KERNEL_DEVICES: tuple[str, ...] = ()
_extension: Any = None

if _build.stamp is not None and _build.stamp.extension:
    _build.check_running_torch(_build.stamp)
    from vae_fused import _C as _extension  # type: ignore[no-redef]
    from vae_fused import _fake

    _fake.register()
    # "meta" goes to the operators too: their fakes give shapes and dtypes.
    _KERNEL_DEVICES = ("cpu", "meta", "cuda") if _build.stamp.cuda else ("cpu", "meta")

ops = torch.ops.vae_fused


def takes_kernels(tensor: Tensor) -> bool:
    """Whether a call on this tensor goes to the compiled operators, or to the reference in plain PyTorch.

    The transforms of ``torch.func`` do not compose with C++ autograd Functions, so inside one the reference, which is
    made of differentiable PyTorch operators, takes over.
    """
    return tensor.device.type in _KERNEL_DEVICES and torch._C._functorch.peek_interpreter_stack() is None


def build_info() -> dict[str, Any]:
    """What this installation was built with, and what runs here.

    Returns:
        A dictionary with ``version`` (of vae_fused), ``extension`` (whether there are compiled kernels), ``torch``
        and ``cuda`` (versions built against, ``None`` without), ``cuda_architectures`` (list), ``cpu_capability``
        (``"avx512"``, ``"avx2"``, ``"baseline"`` or ``None``), ``running_torch`` and ``python``.

    Example:
        >>> build_info()["cpu_capability"]  # doctest: +SKIP
        'avx512'
    """
    return _build.describe(_extension)
