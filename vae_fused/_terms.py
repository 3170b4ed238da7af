"""The result types of the objective."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor
from torch.utils._pytree import _register_namedtuple


class ELBOTerms(NamedTuple):
    """The negative ELBO and its two parts, in one reduction, in nats.

    Attributes:
        loss: ``reconstruction + beta * kl``, differentiable.
        reconstruction: the reconstruction term, detached.
        kl: the KL term before ``beta``, detached.
    """

    loss: Tensor
    reconstruction: Tensor
    kl: Tensor


# torch.export.save writes a result's type down under this name.
_register_namedtuple(ELBOTerms, serialized_type_name="vae_fused.ELBOTerms")
