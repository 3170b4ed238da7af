"""The two Python autograd Functions through which a transform of torch.func sees any term: its value, its gradients."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from vae_fused._functorch_terms import Operands, Term


def _mapped_to_front(operands: Operands, dims: Sequence[int | None], size: int) -> list[Any]:
    # An operand that is not mapped is expanded: the kernels read any strides.
    return [
        operand if operand is None else operand.expand(size, *operand.shape) if dim is None else operand.movedim(dim, 0)
        for operand, dim in zip(operands, dims, strict=True)
    ]


def _merged(operands: Operands) -> list[Any]:
    return [operand if operand is None else operand.flatten(0, 1) for operand in operands]


# PyTorch calls jvp with forward-mode AD switched off, which would lose, without an error, the derivative of this
# tangent in an outer jvp. Switched on again, the operands' own tangents have to be taken off.


def _derivatives_of_tangents() -> AbstractContextManager[None]:
    return forward_ad._set_fwd_grad_enabled(True)


def _primals(operands: Operands) -> list[Any]:
    # The level by its number, the only one there is: a compiled jvp enters it without telling Python.
    return [operand if operand is None else forward_ad.unpack_dual(operand, level=0).primal for operand in operands]


class Value(torch.autograd.Function):
    """The value of a term."""

    @staticmethod
    def forward(term: Term, *operands: Any) -> Tensor:
        return term.value(*operands)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.term = inputs[0]
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs[1:])
        ctx.save_for_forward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        wanted = ctx.needs_input_grad[1:]
        (grad,) = grads
        if grad is None:
            return (None,) * (1 + len(wanted))
        return None, *_spread(Gradient.apply(ctx.term, wanted, grad, *ctx.saved_tensors), wanted)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor:
        with _derivatives_of_tangents():
            return ctx.term.tangent(_primals(ctx.saved_tensors), tangents[1:])

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], term: Term, *operands: Any) -> tuple[Tensor, int]:
        front = _mapped_to_front(operands, in_dims[1:], info.batch_size)
        many, merges = term.of_many(front)
        value = Value.apply(many, *(_merged(front) if merges else front))
        dim = term.value_batch_dim
        return value.unflatten(dim, front[0].shape[:2]) if merges else value, dim


class Gradient(torch.autograd.Function):
    """The gradients of a term that are wanted, and no others."""

    @staticmethod
    def forward(term: Term, wanted: Sequence[bool], grad: Tensor, *operands: Any) -> tuple[Tensor, ...]:
        return tuple(_asked(term.gradient(wanted, grad, *operands), wanted))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.term, ctx.wanted = inputs[:2]
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs[2:])
        ctx.save_for_forward(*inputs[2:])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        # The gradient is linear in the incoming one, with the term's own derivative as its transpose.
        grad, *operands = ctx.saved_tensors
        along = _spread(grads, ctx.wanted)
        of_grad, *of_operands = ctx.needs_input_grad[2:]
        to_grad = ctx.term.tangent(operands, along) if of_grad else None
        to_operands = ctx.term.curvature(grad, operands, along) if any(of_operands) else operands
        needed = (to if asked else None for to, asked in zip(to_operands, of_operands, strict=True))
        return None, None, to_grad, *needed

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> tuple[Tensor, ...]:
        wanted = ctx.wanted
        with _derivatives_of_tangents():
            grad, *operands = _primals(ctx.saved_tensors)
            curvature = _asked(ctx.term.curvature(grad, operands, tangents[3:]), wanted)
            if tangents[2] is None:
                linear = [torch.zeros_like(operand) for operand in _asked(operands, wanted)]
            else:
                linear = Gradient.apply(ctx.term, wanted, tangents[2], *operands)
            return tuple(a if b is None else a + b for a, b in zip(linear, curvature, strict=True))

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[Any, ...],
        term: Term,
        wanted: Sequence[bool],
        grad: Tensor,
        *operands: Any,
    ) -> tuple[tuple[Tensor, ...], int]:
        grad, *front = _mapped_to_front([grad, *operands], in_dims[2:], info.batch_size)
        many, merges = term.of_many(front)
        dim = term.value_batch_dim
        grad = grad.movedim(0, dim)
        if not merges:
            return Gradient.apply(many, wanted, grad, *front), 0
        gradients = Gradient.apply(many, wanted, grad.flatten(dim, dim + 1), *_merged(front))
        return tuple(gradient.unflatten(0, front[0].shape[:2]) for gradient in gradients), 0


def _asked(values: Operands, wanted: Sequence[bool]) -> list[Any]:
    return [value for value, asked in zip(values, wanted, strict=True) if asked]


def _spread(some: Operands, wanted: Sequence[bool]) -> list[Any]:
    remaining = iter(some)
    return [next(remaining) if asked else None for asked in wanted]
