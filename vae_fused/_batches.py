"""The batches of held-out data: slices of a tensor, or what an iterable gives, behind a progress bar if asked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from operator import length_hint

import torch
from torch import Tensor

from vae_fused import _checks as checks


def batches_of(
    data: Tensor | Iterable[object], batch_size: int, device: torch.device | None, progress: bool
) -> Iterator[Tensor]:
    """The batches ``[B, ...]`` that hold items, in their order.

    Args:
        data: the items, ``[N, ...]``; or an iterable of batches, where a tuple counts with its first entry.
        batch_size: items of a batch, of a tensor; an iterable has its own.
        device: where each batch goes; None leaves it where it is.
        progress: show a progress bar on the standard error.

    Raises:
        TypeError: the data are neither, or not floating.
        ValueError: the data have no batch dimension.
        ImportError: ``progress`` without the package for it.
    """
    if isinstance(data, Tensor):
        checks.check_batched("data", data)
        source: Iterable[object] = data.split(batch_size)
    elif isinstance(data, Iterable):
        source = data
    else:
        raise TypeError(f"data must be a tensor or an iterable of batches, got {type(data).__name__}")
    batches = _checked(source, device)
    # A DataLoader has a method len that may not work.
    return _with_progress(batches, length_hint(source) or None) if progress else batches


def _checked(source: Iterable[object], device: torch.device | None) -> Iterator[Tensor]:
    for batch in source:
        x = batch[0] if isinstance(batch, (list, tuple)) and batch else batch
        if not isinstance(x, Tensor):
            raise TypeError(f"data must hold tensors, or tuples that begin with one, got {type(x).__name__}")
        checks.check_batched("data", x)
        if len(x):
            yield x if device is None else x.to(device)


def _with_progress(batches: Iterator[Tensor], total: int | None) -> Iterator[Tensor]:
    try:
        from rich.console import Console
        from rich.progress import track
    except ModuleNotFoundError as error:
        raise ImportError('rich is not installed; progress=True needs: pip install "vae_fused[train]"') from error
    return iter(track(batches, "evaluate", total=total, console=Console(stderr=True)))
