"""Shaping the KL: free bits and capacity, alone or one after the other, for training with beta."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from vae_fused import _arguments as arguments
from vae_fused import _checks as checks

__all__ = ["Capacity", "FreeBits", "KLShaping", "shape_kl"]

_EXPECTATIONS = ("batch", "item")
_PARTS = ("dimension", "group", "total")


class KLShaping(ABC):
    """One way of shaping the KL, for ``FusedELBOLoss(kl_shaping=...)`` and :func:`shape_kl`.

    Args:
        nats: a number that is not negative, or a 0-dimensional tensor such as ``LinearSchedule(...).tensor``.
        over: ``"batch"``, the shape is that of the mean over the batch; ``"item"``, that of each item's own KL.

    Attributes:
        nats: the number as a 0-dimensional tensor, or the tensor that was given. It is read when the loss is computed:
            a schedule that writes into it does not recompile a compiled step.
    """

    needs_elements = False

    def __init__(self, nats: float | Tensor, over: str) -> None:
        checks.check_choice("over", over, _EXPECTATIONS)
        if isinstance(nats, Tensor):
            checks.check_floating("nats", nats)
            if nats.dim() != 0:
                raise ValueError(f"nats must be a number or a 0-dimensional tensor, got shape {list(nats.shape)}")
        else:
            checks.check_number("nats", nats)
            if not 0.0 <= nats < math.inf:
                raise ValueError(f"nats must be finite and not negative, got {nats}")
        self.nats = nats if isinstance(nats, Tensor) else torch.tensor(float(nats), dtype=torch.float64)
        self.over = over

    @abstractmethod
    def apply(self, kl: Tensor) -> Tensor:
        """Shape the parts of a KL.

        Args:
            kl: float64, ``[B, ...]``; with one row where a shape over the batch came before.

        Returns:
            The shaped parts: as many rows, or one with ``over="batch"``.
        """

    def _expectation(self, kl: Tensor) -> Tensor:
        return kl.mean(0, keepdim=True) if self.over == "batch" else kl

    def _settings(self) -> str:
        return f"{self.nats.item()!r}, over={self.over!r}"


class FreeBits(KLShaping):
    r"""Free bits: a part of the KL below ``nats`` costs as much as ``nats`` and has no gradient.

    :math:`\sum_j \max(\lambda,\; \mathbb E_{x \sim \text{batch}}\,\mathrm{KL}_j)` over the parts j.

    Args:
        nats: λ, for each part.
        per: what a part is: ``"dimension"``, each latent element; ``"group"``, all elements with the same index in
            ``group_dims``; ``"total"``, the whole KL.
        group_dims: with ``per="group"``, the dimensions of mu whose indices tell the groups apart. The default 1 makes
            every feature map of ``[B, C, H, W]`` a group.
        over: ``"batch"`` (default), the expectation over the batch; ``"item"``, the maximum for each item by itself.

    Raises:
        TypeError: an argument of a wrong type.
        ValueError: a negative or infinite ``nats``, an unknown ``per`` or ``over``, the batch dimension 0 or the same
            dimension twice among ``group_dims``.

    Example:
        >>> kl = torch.tensor([[0.0, 1.0], [0.5, 3.0]])
        >>> shape_kl(kl, FreeBits(0.5))  # the means are 0.25 and 2
        tensor(2.5000)

    Source: Kingma et al. 2016 (arXiv:1606.04934), appendix C.8; ``over="item"`` is that of Li et al. 2019
    (arXiv:1909.00868) per dimension, and of Hafner et al. 2023 (arXiv:2301.04104) in total.
    """

    def __init__(
        self,
        nats: float | Tensor,
        per: str = "dimension",
        *,
        group_dims: int | Sequence[int] = 1,
        over: str = "batch",
    ) -> None:
        super().__init__(nats, over)
        checks.check_choice("per", per, _PARTS)
        self.per = per
        if not isinstance(group_dims, (int, Sequence)):
            raise TypeError(f"group_dims must be an integer or a sequence of integers, got {type(group_dims).__name__}")
        self.group_dims = (group_dims,) if isinstance(group_dims, int) else tuple(group_dims)
        for dim in self.group_dims:
            if isinstance(dim, bool) or not isinstance(dim, int):
                raise TypeError(f"group_dims must hold integers, got {type(dim).__name__}")
            if dim < 1:
                raise ValueError(f"group_dims must be dimensions after the batch, 1 or more, got {dim}")
        if not self.group_dims or len(set(self.group_dims)) != len(self.group_dims):
            raise ValueError(f"group_dims must hold each dimension once, got {list(self.group_dims)}")
        self.needs_elements = per != "total"

    def apply(self, kl: Tensor) -> Tensor:
        """See :meth:`KLShaping.apply`."""
        if self.needs_elements and kl.dim() < 2:
            raise ValueError(f"per={self.per!r} needs the elementwise KL, [batch, ...], got shape {list(kl.shape)}")
        if self.per == "total":
            summed = tuple(range(1, kl.dim()))
        elif self.per == "group":
            if max(self.group_dims) >= kl.dim():
                raise ValueError(f"group_dims must be dimensions of the KL, {list(kl.shape)}, got {self.group_dims}")
            summed = tuple(dim for dim in range(1, kl.dim()) if dim not in self.group_dims)
        else:
            summed = ()
        # Dimensions are kept, so that a shape that follows still finds its groups. maximum, not where, because it lets
        # NaN through.
        parts = self._expectation(kl.sum(summed, keepdim=True) if summed else kl)
        return torch.maximum(parts, self.nats.to(parts.dtype))

    def __repr__(self) -> str:
        groups = f", group_dims={self.group_dims}" if self.per == "group" else ""
        return f"FreeBits({self._settings()}, per={self.per!r}{groups})"


class Capacity(KLShaping):
    r"""Capacity: the distance of the KL from ``nats``, :math:`|\mathrm{KL} - C|`; beta is the paper's γ.

    Args:
        nats: C; the paper raises it from 0 to 25 during training, which ``LinearSchedule(0.0, 25.0, steps).tensor``
            does.
        over: ``"batch"`` (default), the distance of the mean over the batch, as in disentangling-vae; ``"item"``, the
            mean of each item's distance, as in pythae. By Jensen's inequality the second is never smaller.

    Raises:
        TypeError: ``nats`` is not a number or a floating tensor.
        ValueError: a negative or infinite ``nats``, or an unknown ``over``.

    Example:
        >>> kl = torch.tensor([1.0, 6.0])
        >>> shape_kl(kl, Capacity(4.0)), shape_kl(kl, Capacity(4.0, over="item"))
        (tensor(0.5000), tensor(2.5000))

    Source: Burgess et al. 2018 (arXiv:1804.03599), equation 8, whose KL is of one x.
    """

    def __init__(self, nats: float | Tensor, *, over: str = "batch") -> None:
        super().__init__(nats, over)

    def apply(self, kl: Tensor) -> Tensor:
        """See :meth:`KLShaping.apply`."""
        total = kl.sum(tuple(range(1, kl.dim())), keepdim=True) if kl.dim() > 1 else kl
        return (self._expectation(total) - self.nats.to(total.dtype)).abs()

    def __repr__(self) -> str:
        return f"Capacity({self._settings()})"


def as_shapings(name: str, value: object) -> tuple[KLShaping, ...]:
    """One shaping or a sequence of them as a tuple, or an error."""
    shapings = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    for shaping in shapings:
        if not isinstance(shaping, KLShaping):
            raise TypeError(f"{name} must be FreeBits, Capacity or a sequence of them, got {type(shaping).__name__}")
    if not shapings:
        raise ValueError(f"{name} must hold at least one shaping, got an empty sequence")
    return shapings


def shaped_items(kl: Tensor, shapings: tuple[KLShaping, ...]) -> Tensor:
    """The shaped KL of each item, float64 ``[B]``; a shape over the batch gives all items the same."""
    batch, kl = kl.shape[0], kl.double()
    for shaping in shapings:
        kl = shaping.apply(kl)
    return item_sums(kl).expand(batch)


def item_sums(kl: Tensor) -> Tensor:
    """The KL of each item, float64 ``[B]``."""
    return kl.sum(tuple(range(1, kl.dim())), dtype=torch.float64) if kl.dim() > 1 else kl.double()


def reduce_items(items: Tensor, reduction: str, elements_per_item: int) -> Tensor:
    """Items ``[B]`` in one of the reductions of the loss."""
    if reduction == "sample":
        return items
    if reduction == "sum":
        return items.sum()
    return items.mean() if reduction == "batchmean" else items.mean() / elements_per_item


def shape_kl(kl: Tensor, shaping: KLShaping | Sequence[KLShaping], *, reduction: str = "batchmean") -> Tensor:
    r"""The KL after free bits, capacity, or several of them from left to right.

    Args:
        kl: a KL in nats: of each item, ``[B]``, as from :func:`vae_fused.reparameterize_with_kl`; or of each element,
            ``[B, ...]``, as from ``kl_divergence(..., reduction="none")``, which free bits per dimension and per group
            need.
        shaping: :class:`FreeBits`, :class:`Capacity` or a sequence of them. ``[FreeBits(0.1), Capacity(25.0)]`` is
            :math:`|\sum_j \max(0.1, \mathrm{KL}_j) - 25|`.
        reduction: ``"batchmean"``, ``"sum"`` (B times that), ``"sample"`` (``[B]``: a shape over the batch gives every
            item the same value, so that their mean is ``"batchmean"``) or ``"mean"`` (``"batchmean"`` divided by the
            number of elements of an item).

    Returns:
        The shaped KL, float32 (float64 for float64), differentiable in ``kl`` and in ``nats`` where they are tensors.

    Raises:
        TypeError: ``kl`` is not a floating tensor, or ``shaping`` is none.
        ValueError: ``kl`` has no batch dimension, ``per="dimension"`` or ``per="group"`` of a KL ``[B]``,
            ``group_dims`` that ``kl`` has not, or an unknown ``reduction``.

    Example:
        >>> kl = kl_divergence(torch.zeros(4, 8), torch.zeros(4, 8), reduction="none")
        >>> shape_kl(kl, FreeBits(0.25))
        tensor(2.)
    """
    checks.check_batched("kl", kl)
    checks.check_choice("reduction", reduction, arguments.REDUCTIONS)
    items = shaped_items(kl, as_shapings("shaping", shaping))
    return reduce_items(items, reduction, math.prod(kl.shape[1:])).to(arguments.accumulation_dtype(kl.dtype))
