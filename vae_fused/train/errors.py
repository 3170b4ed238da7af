"""The errors that the command line shows as one line, without a traceback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class InputError(ValueError):
    """Something that the user gave cannot be used: a path, a data set, a checkpoint, a device, a value."""


class TrainingError(RuntimeError):
    """Training cannot go on."""


class MissingExtraError(ImportError):
    """A package of the extra ``[train]`` is not installed."""


@contextmanager
def needs_train_extra() -> Iterator[None]:
    """Turn the failing import of an optional package into a sentence that says how to install it."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f'{error.name} is not installed; the training command needs: pip install "vae_fused[train]"'
        ) from error
