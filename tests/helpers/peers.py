"""The peers: libraries that are compared with, and what the comparisons share."""

from __future__ import annotations

from importlib.util import find_spec

import pytest


def need(*modules: str) -> None:
    """Skip the test file unless these libraries are installed; nothing is imported."""
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        pytest.skip(f"no {', '.join(missing)} here: needs pip install '.[peers]'", allow_module_level=True)
