"""Checks of packed moments, one tensor that holds mean and logvar as the halves of one dimension, and of their samples.

``csrc/packed_moments.h`` has the same checks of the moments with the same words.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from vae_fused._checks import check_batched, check_floating, check_same_device, type_name


def check_moments(name: str, moments: Tensor, dim: int, logvar_min: float, logvar_max: float) -> None:
    """Raise unless ``moments`` holds mean and logvar as the halves of ``dim``, an event dimension."""
    check_batched(name, moments)
    rank = moments.dim()
    if rank < 2:
        raise ValueError(
            f"{name} must have a batch dimension 0 and one that holds mean and logvar, got shape {list(moments.shape)}"
        )
    if isinstance(dim, bool) or not isinstance(dim, int):
        raise TypeError(f"dim must be an integer, got {type(dim).__name__}")
    if not -rank <= dim < rank:
        raise ValueError(
            f"dim must be between {-rank} and {rank - 1} for {name} of shape {list(moments.shape)}, got {dim}"
        )
    if dim % rank == 0:
        raise ValueError(f"dim must not be the batch dimension 0, got {dim}")
    if moments.shape[dim] % 2 != 0:
        raise ValueError(
            f"{name} must have an even size in dimension {dim} to hold mean and logvar, got shape {list(moments.shape)}"
        )
    if not logvar_min <= logvar_max:
        raise ValueError(f"logvar_clamp must be (low, high) with low <= high, got ({logvar_min:g}, {logvar_max:g})")


def check_prior_moments(prior: Tensor, prior_dim: int, moments: Tensor, dim: int) -> None:
    """Raise unless checked moments of a prior fit those of the posterior: same dtype, device and shape of the mean."""
    if prior.dtype != moments.dtype:
        raise TypeError(f"prior_moments must have the dtype of moments, {moments.dtype}, got {prior.dtype}")
    if prior.device != moments.device:
        raise ValueError(f"prior_moments must be on the device of moments, {moments.device}, got {prior.device}")
    shape, prior_shape = list(moments.shape), list(prior.shape)
    shape[dim] //= 2
    prior_shape[prior_dim] //= 2
    if prior_shape != shape:
        raise ValueError(f"prior_moments must hold a mean of shape {shape}, got {prior_shape}")


def check_sample(sample: Tensor, mean: Tensor) -> None:
    """Raise unless ``sample`` is floating, on the device of the mean, and broadcasts against it."""
    check_floating("sample", sample)
    check_same_device("sample", sample, "moments", mean)
    pairs = zip(reversed(sample.shape), reversed(mean.shape), strict=False)
    if not all(size == of_mean or 1 in (size, of_mean) for size, of_mean in pairs):
        raise ValueError(f"sample must be broadcastable against the mean, {list(mean.shape)}, got {list(sample.shape)}")


def checked_dims(dims: object, rank: int) -> tuple[int, ...]:
    """``dims``, an integer or a sequence of them, as a tuple; raise unless each is a dimension of a tensor, once."""
    several = (dims,) if isinstance(dims, int) else dims
    if isinstance(several, str) or not isinstance(several, Sequence):
        raise TypeError(f"dims must be an integer or a sequence of integers, got {type_name(dims)}")
    for dim in several:
        if isinstance(dim, bool) or not isinstance(dim, int):
            raise TypeError(f"dims must hold integers, got {type_name(dim)}")
        if not -rank <= dim < rank:
            raise ValueError(f"dims must be between {-rank} and {rank - 1}, got {dim}")
    if len({dim % rank for dim in several}) != len(several):
        raise ValueError(f"dims must hold each dimension once, got {list(several)}")
    return tuple(several)
