"""Loads the compiled operators, and says what was built."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vae_fused import _build
from vae_fused._transforms import inside_transform

_KERNEL_DEVICES: tuple[str, ...] = ()
_extension: Any = None

if _build.stamp is not None and _build.stamp.extension:
    _build.check_running_torch(_build.stamp)
    from vae_fused import _C as _extension
    from vae_fused import _fake

    _fake.register()
    # "meta" goes to the operators too: their fakes give shapes and dtypes.
    _KERNEL_DEVICES = ("cpu", "meta", "cuda") if _build.stamp.cuda else ("cpu", "meta")

ops = torch.ops.vae_fused


def has_kernels(tensor: Tensor) -> bool:
    """Whether there are compiled operators for the device of this tensor."""
    return tensor.device.type in _KERNEL_DEVICES


def calls_operators(tensor: Tensor) -> bool:
    """Whether a call on this tensor goes straight to the compiled operators.

    The transforms of ``torch.func`` do not compose with C++ autograd Functions, so inside one the call goes to
    :mod:`vae_fused._functorch`.
    """
    return tensor.device.type in _KERNEL_DEVICES and not inside_transform()


def may_overwrite(recon: Tensor, target: Tensor) -> bool:
    """Whether the gradient of ``recon`` can take its place: there is one, and a kernel runs here and now.

    A trace has no use for it: its own plan of memory decides, and a gradient that is given away once cannot be in it.
    """
    if torch.compiler.is_compiling() or not (recon.requires_grad and torch.is_grad_enabled()):
        return False
    if torch._C._len_torch_dispatch_stack() > 0 or torch._C._get_tracing_state() is not None:
        return False
    plain = (Tensor, torch.nn.Parameter)
    return type(recon) in plain and type(target) in plain and recon.device.type != "meta"


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


def release_cpu_pool() -> int:
    """Give the memory that is kept for later results of CPU operators back to the system.

    Large results of CPU operators (1 MiB and more) use memory again that earlier ones have given up, because mapping
    fresh pages costs more than the arithmetic. The environment variable ``VAE_FUSED_POOL_MIB`` limits what is kept,
    in MiB: 1024 by default, 0 keeps nothing. Memory that belongs to a tensor is never touched.

    Returns:
        The number of bytes released.

    Example:
        >>> release_cpu_pool()  # doctest: +SKIP
        52428800
    """
    return _extension.release_pool() if _extension is not None else 0
