"""Checks of one value by itself: its type, dtype, rank, range, and whether it fits another.

They raise before anything is computed or allocated, name the argument, and say what was expected and what came:
``TypeError`` for a wrong type or dtype, ``ValueError`` for a wrong shape, device or value.
"""

from __future__ import annotations

import torch
from torch import Tensor

FLOATING_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def shape_of(tensor: Tensor) -> str:
    """The shape as a list, as error messages have it."""
    return str(list(tensor.shape))


def type_name(value: object) -> str:
    """The name of a type; NumPy's in full, because its float32 and int64 would else read like PyTorch's."""
    kind = type(value)
    return f"numpy.{kind.__name__}" if kind.__module__ == "numpy" else kind.__name__


def check_tensor(name: str, value: object) -> None:
    """Raise ``TypeError`` unless ``value`` is a tensor."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type_name(value)}")


def check_dense(name: str, value: Tensor) -> None:
    """Raise ``TypeError`` unless ``value`` is a dense tensor: one with strides."""
    check_tensor(name, value)
    if value.layout is not torch.strided:
        raise TypeError(f"{name} must be a dense tensor, got one of layout {value.layout}")


def check_floating(name: str, value: Tensor) -> None:
    """Raise ``TypeError`` unless ``value`` is a tensor of one of the four supported floating dtypes."""
    check_dense(name, value)
    if value.dtype not in FLOATING_DTYPES:
        raise TypeError(f"{name} must be float16, bfloat16, float32 or float64, got {value.dtype}")


def check_batched(name: str, value: Tensor) -> None:
    """Raise unless ``value`` is a floating tensor with a batch dimension."""
    check_floating(name, value)
    if value.dim() < 1:
        raise ValueError(f"{name} must have a batch dimension 0, got a 0-dimensional tensor")


def check_same_device(name: str, value: Tensor, other_name: str, other: Tensor) -> None:
    """Raise ``ValueError`` unless two tensors are on one device."""
    if value.device != other.device:
        raise ValueError(f"{name} must be on the device of {other_name}, {other.device}, got {value.device}")


def check_expands(name: str, value: Tensor, other_name: str, other: Tensor) -> None:
    """Raise ``ValueError`` unless a tensor broadcasts to the shape of another."""
    offset = other.dim() - value.dim()
    if offset < 0 or any(size not in (1, other.shape[offset + dim]) for dim, size in enumerate(value.shape)):
        raise ValueError(
            f"{name} must be broadcastable to the shape of {other_name}, {shape_of(other)}, got {shape_of(value)}"
        )


def check_number(name: str, value: object) -> None:
    """Raise ``TypeError`` unless ``value`` is a real number."""
    if isinstance(value, bool) or not isinstance(value, (int, float, torch.SymFloat, torch.SymInt)):
        raise TypeError(f"{name} must be a number, got {type_name(value)}")


def check_bool(name: str, value: object) -> None:
    """Raise ``TypeError`` unless ``value`` is True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be a bool, got {type_name(value)}")


def check_count(name: str, value: object, smallest: int = 1, *, optional: bool = False) -> None:
    """Raise unless ``value`` is an integer, ``smallest`` or more; or None where it is ``optional``."""
    if optional and value is None:
        return
    if isinstance(value, bool) or not isinstance(value, (int, torch.SymInt)):
        raise TypeError(f"{name} must be an integer{' or None' if optional else ''}, got {type_name(value)}")
    if value < smallest:
        raise ValueError(f"{name} must be at least {smallest}, got {value}")


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Raise ``ValueError`` unless ``value`` is one of ``choices``."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


def check_callable(name: str, value: object) -> None:
    """Raise ``TypeError`` unless ``value`` can be called on tensors: a function or an instance, not a class."""
    if not callable(value) or isinstance(value, type):
        what = f"the class {value.__name__}" if isinstance(value, type) else type_name(value)
        raise TypeError(f"{name} must be a function, got {what}")
