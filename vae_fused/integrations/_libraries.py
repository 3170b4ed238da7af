"""The other libraries: whether they are there, and in a version that the tests have seen."""

from __future__ import annotations

import importlib
import warnings
from importlib.metadata import version
from types import ModuleType
from typing import NamedTuple


class TestedRange(NamedTuple):
    """The versions of a library that the parity tests have passed with, from ``first`` up to and without ``end``."""

    distribution: str
    first: tuple[int, ...]
    end: tuple[int, ...]

    def __str__(self) -> str:
        first, end = (".".join(map(str, bound)) for bound in (self.first, self.end))
        return f"{self.distribution}>={first},<{end}"


DIFFUSERS = TestedRange("diffusers", (0, 36), (0, 43))
PYRO = TestedRange("pyro-ppl", (1, 9), (1, 10))


def _numbers(text: str) -> tuple[int, ...]:
    """The leading numbers of a version: (0, 36, 0) of "0.36.0.dev0"."""
    numbers = []
    for part in text.split("."):
        if not part.isdigit():
            break
        numbers.append(int(part))
    return tuple(numbers)


def require(module: str, tested: TestedRange) -> ModuleType:
    """Import a library, and warn if its version is outside of what was tested.

    Raises:
        ImportError: it is not installed; the text names the extra that brings it.
    """
    try:
        library = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise ImportError(
            f"vae_fused.integrations.{module} needs {tested.distribution}, which is not installed: "
            "pip install 'vae_fused[peers]'"
        ) from error
    found = version(tested.distribution)
    if not tested.first <= _numbers(found) < tested.end:
        warnings.warn(
            f"vae_fused.integrations.{module} was tested with {tested}, and {found} is installed",
            stacklevel=3,
        )
    return library
