"""What the integrations say where their library is missing, or of a version that nobody has tested."""

from __future__ import annotations

import importlib
import subprocess
import sys
import types

import pytest

import vae_fused as vf
from vae_fused.integrations import _libraries


@pytest.fixture(params=[("diffusers", "diffusers"), ("pyro", "pyro-ppl")], ids=lambda names: names[0])
def library(request, monkeypatch):
    module, distribution = request.param
    for name in list(sys.modules):
        if name.startswith(f"vae_fused.integrations.{module}"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(vars(vf.integrations), module, raising=False)
    return module, distribution


def test_missing_library_names_the_extra(library, monkeypatch):
    module, distribution = library
    monkeypatch.setitem(sys.modules, module, None)
    text = (
        rf"vae_fused\.integrations\.{module} needs {distribution}, which is not installed: "
        r"pip install 'vae_fused\[peers\]'"
    )
    with pytest.raises(ImportError, match=text):
        getattr(vf.integrations, module)
    with pytest.raises(ImportError, match=text):
        importlib.import_module(f"vae_fused.integrations.{module}")


def test_error_inside_the_library_is_its_own(monkeypatch):
    def fail(name):
        raise ModuleNotFoundError("No module named 'inner'", name="inner")

    monkeypatch.setattr(_libraries.importlib, "import_module", fail)
    with pytest.raises(ModuleNotFoundError, match="inner"):
        _libraries.require("diffusers", _libraries.DIFFUSERS)


@pytest.mark.parametrize(
    ("found", "warns"),
    [("1.2", False), ("1.2.0", False), ("1.9.7", False), ("1.10.0.dev0", True), ("2.0", True), ("1.1.9", True)],
)
def test_untested_version_warns(found, warns, monkeypatch, recwarn):
    tested = _libraries.TestedRange("some-library", (1, 2), (1, 10))
    monkeypatch.setitem(sys.modules, "some_library", types.ModuleType("some_library"))
    monkeypatch.setattr(_libraries, "version", {"some-library": found}.__getitem__)
    assert _libraries.require("some_library", tested) is sys.modules["some_library"]
    texts = [str(warning.message) for warning in recwarn]
    expected = f"vae_fused.integrations.some_library was tested with some-library>=1.2,<1.10, and {found} is installed"
    assert texts == ([expected] if warns else [])


def test_unknown_integration_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"'vae_fused\.integrations' has no attribute 'tensorflow'"):
        vf.integrations.tensorflow  # noqa: B018


def test_importing_the_package_imports_no_library():
    assert dir(vf.integrations) == ["diffusers", "pyro"]
    script = "import sys, vae_fused; sys.exit(any(name in sys.modules for name in ('diffusers', 'pyro')))"
    assert subprocess.run([sys.executable, "-c", script], timeout=120).returncode == 0
