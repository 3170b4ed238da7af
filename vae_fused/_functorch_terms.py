"""What a torch.func transform has to know of each operator: its kernels, its derivatives and where it has its batch.

A term is a function of tensors with settings. Its value and its gradient are the operators of ``torch.ops.vae_fused``;
``tangent`` and ``curvature``, the derivatives that no kernel computes, are formulas in differentiable PyTorch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from vae_fused._arguments import accumulation_dtype
from vae_fused._library import ops

Operands = Sequence[Any]  # tensors, or None where an operand or its tangent is absent
Tangent = Tensor | float


class Term(ABC):
    """A differentiable function of tensors, the operands, with one tensor as its value."""

    value_batch_dim = 0  # the batch dimension of the value; that of the operands is 0

    @abstractmethod
    def value(self, *operands: Any) -> Tensor:
        """The function itself, by a kernel."""

    @abstractmethod
    def gradient(self, wanted: Sequence[bool], grad: Tensor, *operands: Any) -> Operands:
        """The gradient of each operand that is wanted, for an incoming gradient, by a kernel."""

    @abstractmethod
    def tangent(self, operands: Operands, tangents: Operands) -> Tensor:
        """The derivative of the value along tangents, where None is zero."""

    @abstractmethod
    def curvature(self, grad: Tensor, operands: Operands, tangents: Operands) -> Operands:
        """The derivative along tangents of the gradient for a fixed incoming gradient; the Hessian is symmetric."""

    @abstractmethod
    def of_many(self, operands: Operands) -> tuple[Term, bool]:
        """The term that is many calls of this one, whose operands have one dimension more, in front.

        Returns:
            The term; and whether its batch is the calls' batches one after the other, instead of the calls themselves.
        """


def _tangent(tangent: Tensor | None, dtype: torch.dtype) -> Tangent:
    return 0.0 if tangent is None else tangent.to(dtype)


def _over_events(per_item: Tensor, like: Tensor) -> Tensor:
    return per_item.reshape(-1, *[1] * (like.dim() - 1)) if per_item.dim() == 1 else per_item


def sum_of(elements: Tensor, by_item: bool) -> Tensor:
    """The sum over everything, or over the events of every item, in the dtype of the elements."""
    dtype = elements.dtype
    if not by_item:
        return elements.sum(dtype=torch.float64).to(dtype)
    return elements.flatten(1).sum(1, dtype=torch.float64).to(dtype) if elements.dim() > 1 else elements


@dataclass(frozen=True)
class SquaredError(Term):
    """The sum of (recon - target)², over everything or ``by_item``."""

    by_item: bool

    def _objective(self, recon: Tensor, target: Tensor) -> tuple[object, ...]:
        # The objective without its KL: zero for every item.
        zero = recon.new_zeros(1, dtype=accumulation_dtype(recon.dtype, target.dtype)).expand(recon.shape[0])
        return recon, target, None, None, zero, 0.0, None, "mse", "sample" if self.by_item else "sum"

    def value(self, *operands: Any) -> Tensor:
        recon, target = operands
        return ops.elbo_loss.default(*self._objective(recon, target))[0]

    def gradient(self, wanted: Sequence[bool], grad: Tensor, *operands: Any) -> Operands:
        recon, target = operands
        mask = [*wanted, False, False, False, False]
        return ops.elbo_loss_backward.default(grad, mask, *self._objective(recon, target))[:2]

    def tangent(self, operands: Operands, tangents: Operands) -> Tensor:
        recon, target = operands
        dtype = accumulation_dtype(recon.dtype, target.dtype)
        along = _tangent(tangents[0], dtype) - _tangent(tangents[1], dtype)
        return sum_of(2.0 * (recon.to(dtype) - target.to(dtype)) * along, self.by_item)

    def curvature(self, grad: Tensor, operands: Operands, tangents: Operands) -> Operands:
        recon, target = operands
        along = _tangent(tangents[0], grad.dtype) - _tangent(tangents[1], grad.dtype)
        to_recon = (2.0 * _over_events(grad, recon) * along).expand(recon.shape)
        return to_recon.to(recon.dtype), (-to_recon).to(target.dtype)

    def of_many(self, operands: Operands) -> tuple[Term, bool]:
        return SquaredError(by_item=True), self.by_item


@dataclass(frozen=True)
class KLDivergence(Term):
    """The KL divergence of mu and logvar from the prior; ``reduction`` is "sum", "sample" or "none"."""

    reduction: str

    def value(self, *operands: Any) -> Tensor:
        return ops.kl_divergence.default(*operands, self.reduction)

    def gradient(self, wanted: Sequence[bool], grad: Tensor, *operands: Any) -> Operands:
        return ops.kl_divergence_backward.default(grad, list(wanted), *operands, self.reduction)

    @staticmethod
    def _parts(operands: Operands) -> tuple[Tensor, Tensor, Tangent]:
        mu, logvar, prior_mu, prior_logvar = operands
        dtype = accumulation_dtype(mu.dtype)
        difference = mu.to(dtype) - _tangent(prior_mu, dtype)
        log_ratio = logvar.to(dtype) - _tangent(prior_logvar, dtype)
        return difference, log_ratio, 1.0 if prior_logvar is None else torch.exp(-prior_logvar.to(dtype))

    @staticmethod
    def _along(tangents: Operands, dtype: torch.dtype) -> tuple[Tangent, Tangent, Tangent]:
        mu, logvar, prior_mu, prior_logvar = (_tangent(tangent, dtype) for tangent in tangents)
        return mu - prior_mu, logvar - prior_logvar, prior_logvar

    def tangent(self, operands: Operands, tangents: Operands) -> Tensor:
        difference, log_ratio, precision = self._parts(operands)
        of_difference, of_log_ratio, of_prior = self._along(tangents, difference.dtype)
        scaled = difference * precision
        elements = scaled * (of_difference - 0.5 * difference * of_prior) + 0.5 * torch.expm1(log_ratio) * of_log_ratio
        return elements if self.reduction == "none" else sum_of(elements, self.reduction == "sample")

    def curvature(self, grad: Tensor, operands: Operands, tangents: Operands) -> Operands:
        mu = operands[0]
        difference, log_ratio, precision = self._parts(operands)
        of_difference, of_log_ratio, of_prior = self._along(tangents, difference.dtype)
        weight = grad if self.reduction == "none" else _over_events(grad, mu)
        weighted = weight * precision
        to_mu = weighted * (of_difference - difference * of_prior)
        to_logvar = 0.5 * weight * torch.exp(log_ratio) * of_log_ratio
        to_prior_logvar = -to_logvar - weighted * difference * (of_difference - 0.5 * difference * of_prior)
        return tuple(to.expand(mu.shape).to(mu.dtype) for to in (to_mu, to_logvar, -to_mu, to_prior_logvar))

    def of_many(self, operands: Operands) -> tuple[Term, bool]:
        if self.reduction == "none":
            return self, False
        return replace(self, reduction="sample"), self.reduction == "sample"


@dataclass(frozen=True)
class Noise(Term):
    """The normals of a key, or of a key for each item. Not differentiable: a key is made of integers."""

    size: tuple[int, ...]
    dtype: torch.dtype

    def value(self, *operands: Any) -> Tensor:
        return ops.standard_normal.default(operands[0], self.size, dtype=self.dtype)

    def gradient(self, wanted: Sequence[bool], grad: Tensor, *operands: Any) -> Operands:
        return (None,)

    def tangent(self, operands: Operands, tangents: Operands) -> Tensor:
        return torch.zeros(self.size, dtype=self.dtype, device=operands[0].device)

    def curvature(self, grad: Tensor, operands: Operands, tangents: Operands) -> Operands:
        return (None,)

    def of_many(self, operands: Operands) -> tuple[Term, bool]:
        (keys,) = operands
        if keys.dim() == 2:
            return replace(self, size=(keys.shape[0], *self.size)), False
        return replace(self, size=(keys.shape[0] * keys.shape[1], *self.size[1:])), True


@dataclass(frozen=True)
class Sample(Term):
    """z of mu, logvar and a key; ``noise`` makes the normals of a key, differentiable or not, inside any transform."""

    num_samples: int | None
    noise: Callable[[Tensor, tuple[int, ...], torch.dtype], Tensor]

    @property
    def value_batch_dim(self) -> int:  # type: ignore[override]
        return 0 if self.num_samples is None else 1

    def value(self, *operands: Any) -> Tensor:
        return ops.reparameterize.default(*operands, num_samples=self.num_samples)

    def gradient(self, wanted: Sequence[bool], grad: Tensor, *operands: Any) -> Operands:
        _, logvar, key = operands
        gradients = ops.reparameterize_backward.default(
            grad, None, None, logvar, key, self.num_samples, list(wanted[:2])
        )
        return *gradients, None

    def _scaled_noise(self, logvar: Tensor, key: Tensor) -> Tensor:
        dtype = accumulation_dtype(logvar.dtype)
        scale = torch.exp(0.5 * logvar.to(dtype))
        if self.num_samples is None:
            return scale * self.noise(key, tuple(logvar.shape), dtype)
        if key.dim() == 1:
            return scale * self.noise(key, (self.num_samples, *logvar.shape), dtype)
        # One key per item: item i's noise has the shape of z[:, i].
        size = (logvar.shape[0], self.num_samples, *logvar.shape[1:])
        return scale * self.noise(key, size, dtype).movedim(0, 1)

    def tangent(self, operands: Operands, tangents: Operands) -> Tensor:
        _, logvar, key = operands
        scaled_noise = self._scaled_noise(logvar, key)
        of_mu, of_logvar = (_tangent(tangent, scaled_noise.dtype) for tangent in tangents[:2])
        return (of_mu + 0.5 * scaled_noise * of_logvar).to(logvar.dtype)

    def curvature(self, grad: Tensor, operands: Operands, tangents: Operands) -> Operands:
        _, logvar, key = operands
        scaled_noise = self._scaled_noise(logvar, key)
        weighted = grad.to(scaled_noise.dtype) * scaled_noise
        if self.num_samples is not None:
            weighted = weighted.sum(0)
        return None, (0.25 * weighted * _tangent(tangents[1], weighted.dtype)).to(logvar.dtype), None

    def of_many(self, operands: Operands) -> tuple[Term, bool]:
        # A call with one key is an item with a key of its own: the noise runs over the events of either.
        return self, operands[2].dim() == 3
