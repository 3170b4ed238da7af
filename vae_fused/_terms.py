"""The result types of the objective."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor
from torch.utils._pytree import _register_namedtuple


class ELBOTerms(NamedTuple):
    """The negative ELBO and its two parts, in one reduction, in nats.

    Each is 0-dimensional, or ``[B]`` with ``reduction="sample"``; float32, or float64 if an operand was.

    Attributes:
        loss: ``reconstruction + beta * kl``, differentiable.
        reconstruction: the reconstruction term, detached.
        kl: the KL term before ``beta``, detached.

    Example:
        >>> x = torch.zeros(2, 3)
        >>> elbo_loss(x + 1, x, torch.zeros(2, 1), torch.zeros(2, 1), return_terms=True)
        ELBOTerms(loss=tensor(3.), reconstruction=tensor(3.), kl=tensor(0.))
    """

    loss: Tensor
    reconstruction: Tensor
    kl: Tensor


# torch.export.save writes a result's type down under this name.
_register_namedtuple(ELBOTerms, serialized_type_name="vae_fused.ELBOTerms")
