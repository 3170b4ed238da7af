"""Other libraries with the kernels inside; each module here needs its library, and is imported when it is asked for."""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["diffusers", "pyro"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module(f"{__name__}.{name}")


def __dir__() -> list[str]:
    return __all__
