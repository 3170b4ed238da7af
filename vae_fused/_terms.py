"""The result types of the objective."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


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
