"""The build stamp: the version check at import, and what ``build_info`` says."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from helpers.capabilities import CAPABILITIES

import vae_fused
from vae_fused import _build
from vae_fused._build import BuildStamp, check_running_torch
from vae_fused_build import stamp as build_stamp


def stamp(torch_version: str = torch.__version__, cuda: str | None = None) -> BuildStamp:
    return BuildStamp(extension=True, torch=torch_version, cuda=cuda, cuda_architectures=["9.0"] if cuda else [])


def test_package_under_test_was_built() -> None:
    assert _build.stamp is not None, (
        f"{vae_fused.__file__} is a source tree that was never built, so everything would be tested on the reference. "
        'Install it (pip install ".[test]") and run "pytest", not "python -m pytest", which puts this folder first.'
    )


def test_build_writes_what_the_package_reads() -> None:
    written = {field.name for field in fields(build_stamp.BuildStamp)}
    assert written == {field.name for field in fields(BuildStamp)}


def test_same_torch_passes() -> None:
    check_running_torch(stamp())


@pytest.mark.parametrize(
    ("built", "running"), [("2.13.0+cpu", "2.13.1"), ("2.13.0", "2.13.0+cu130"), ("2.13.0", "2.13.0a0+git1234")]
)
def test_same_release_in_another_dress_passes(monkeypatch: pytest.MonkeyPatch, built: str, running: str) -> None:
    monkeypatch.setattr(torch, "__version__", running)
    check_running_torch(stamp(built))


@pytest.mark.parametrize(("built", "running"), [("2.11.0", "2.13.0"), ("2.13.0", "2.1.0"), ("2.1.0", "2.13.0")])
def test_another_release_is_refused_with_the_remedy(monkeypatch: pytest.MonkeyPatch, built: str, running: str) -> None:
    monkeypatch.setattr(torch, "__version__", running)
    with pytest.raises(ImportError, match=rf"built with torch {built}, but torch {running}.*pip install --force"):
        check_running_torch(stamp(built))


@pytest.mark.parametrize("running", [None, "12.8"])
def test_cuda_build_needs_its_cuda(monkeypatch: pytest.MonkeyPatch, running: str | None) -> None:
    monkeypatch.setattr(torch.version, "cuda", running)
    with pytest.raises(ImportError, match=r"and CUDA 13\.0, but torch"):
        check_running_torch(stamp(cuda="13.0"))


def test_cpu_build_runs_on_a_cuda_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    check_running_torch(stamp())


def test_check_comes_before_the_shared_object_is_loaded(tmp_path: Path) -> None:
    """A package whose stamp names another torch and whose extension leaves a mark when it is loaded."""
    package = tmp_path / "vae_fused"
    source = Path(vae_fused.__file__).parent
    shutil.copytree(source, package, ignore=shutil.ignore_patterns("__pycache__", "*.so", "_build_stamp.json"))
    facts = {"extension": True, "torch": "1.0.0", "cuda": None, "cuda_architectures": []}
    (package / "_build_stamp.json").write_text(json.dumps(facts))
    (package / "_C.py").write_text("print('extension loaded')\n")
    command = [sys.executable, "-c", "import vae_fused"]
    answer = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert answer.returncode != 0
    assert "ImportError: vae_fused" in answer.stderr
    assert "was built with torch 1.0.0" in answer.stderr
    assert "extension loaded" not in answer.stdout


def test_build_info() -> None:
    info = vae_fused.build_info()
    assert set(info) == {
        "version",
        "extension",
        "torch",
        "cuda",
        "cuda_architectures",
        "cpu_capability",
        "running_torch",
        "python",
    }
    assert info["version"] == vae_fused.__version__
    assert info["running_torch"] == torch.__version__
    assert info["cpu_capability"] in (CAPABILITIES if info["extension"] else (None,))
    assert info["torch"] == (torch.__version__ if info["extension"] else None)


def test_build_info_without_extension(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_build, "stamp", None)
    info = _build.describe(None)
    assert info["extension"] is False
    assert info["torch"] is None
    assert info["cuda_architectures"] == []
