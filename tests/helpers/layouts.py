"""The same shape at different strides. The values may change (an expanded tensor repeats), the shape never does."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def _filled(like: Tensor, empty: Tensor) -> Tensor:
    return empty.copy_(like)


def contiguous(t: Tensor) -> Tensor:
    return t.contiguous()


def channels_last(t: Tensor) -> Tensor:
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    return t.contiguous(memory_format=formats[t.dim()]) if t.dim() in formats else t


def first_half(t: Tensor) -> Tensor:
    return torch.cat([t, -t], dim=1).chunk(2, dim=1)[0] if t.dim() > 1 else torch.cat([t, -t]).chunk(2)[0]


def second_half(t: Tensor) -> Tensor:
    return torch.cat([-t, t], dim=1).chunk(2, dim=1)[1] if t.dim() > 1 else torch.cat([-t, t]).chunk(2)[1]


def channels_last_half(t: Tensor) -> Tensor:
    return channels_last(torch.cat([-t, t], dim=1)).chunk(2, dim=1)[1] if t.dim() > 1 else second_half(t)


def transposed(t: Tensor) -> Tensor:
    return t.transpose(-1, -2).contiguous().transpose(-1, -2) if t.dim() > 1 else t


def batch_innermost(t: Tensor) -> Tensor:
    return t.movedim(0, -1).contiguous().movedim(-1, 0)


def misaligned(t: Tensor) -> Tensor:
    """One element off the 16 and 64 bytes of a vector."""
    return _filled(t, t.new_empty(t.numel() + 1)[1:].view(t.shape))


def every_second(t: Tensor) -> Tensor:
    return _filled(t, t.new_empty(*t.shape, 2)[..., 1])


def padded_rows(t: Tensor) -> Tensor:
    return _filled(t, t.new_empty(*t.shape[:-1], t.shape[-1] + 3)[..., : t.shape[-1]])


def expanded_over_batch(t: Tensor) -> Tensor:
    return t[:1].expand_as(t)


def expanded_over_events(t: Tensor) -> Tensor:
    return t[..., :1].expand_as(t)


def expanded_scalar(t: Tensor) -> Tensor:
    return t.flatten()[:1].sum().expand_as(t)


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    layout.__name__: layout
    for layout in (
        contiguous,
        channels_last,
        first_half,
        second_half,
        channels_last_half,
        transposed,
        batch_innermost,
        misaligned,
        every_second,
        padded_rows,
        expanded_over_batch,
        expanded_over_events,
        expanded_scalar,
    )
}
