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
    in MiB: 256 by default, 0 keeps nothing. Memory that belongs to a tensor is never touched.

    Returns:
        The number of bytes released.

    Example:
        >>> release_cpu_pool()  # doctest: +SKIP
        52428800
    """
    return _extension.release_pool() if _extension is not None else 0
