"""The build backend: where it looks for torch, when it asks for one, and the packages that it makes."""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

from vae_fused_build import hooks, torch_site
from vae_fused_build.settings import SettingError, extension_wanted

ROOT = Path(__file__).resolve().parents[1]
PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"


def site_with_torch(directory: Path, version: str = "2.13.0") -> Path:
    """A site-packages directory that looks as if this torch were installed in it."""
    (directory / "torch").mkdir(parents=True)
    (directory / "torch" / "__init__.py").touch()
    metadata = directory / f"torch-{version}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n")
    return directory


@pytest.fixture
def isolated(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """No torch on the path and none in the interpreter's own directories, as in an isolated build without torch."""
    monkeypatch.setattr(torch_site.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(torch_site, "interpreter_sites", lambda: iter(()))
    for name in ("VAE_FUSED_TORCH_SITE", "VIRTUAL_ENV", "CONDA_PREFIX", "VAE_FUSED_NO_EXT", "FORCE_CUDA"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


class TestTorchSearch:
    """Importable torch, VAE_FUSED_TORCH_SITE, the interpreter's directories, the active environment: in this order."""

    def test_importable_torch_comes_first(self, tmp_path: Path) -> None:
        environ = {"VAE_FUSED_TORCH_SITE": str(site_with_torch(tmp_path))}
        assert torch_site.find_torch_site(environ) == torch_site.ALREADY_IMPORTABLE

    def test_named_site_comes_before_the_interpreters(self, isolated: pytest.MonkeyPatch, tmp_path: Path) -> None:
        named, own = site_with_torch(tmp_path / "named"), site_with_torch(tmp_path / "own")
        isolated.setattr(torch_site, "interpreter_sites", lambda: iter([own]))
        assert torch_site.find_torch_site({"VAE_FUSED_TORCH_SITE": str(named)}) == named
        assert torch_site.find_torch_site({}) == own

    def test_interpreters_sites_come_before_the_environment(self, isolated: pytest.MonkeyPatch, tmp_path: Path) -> None:
        own = site_with_torch(tmp_path / "own")
        active = site_with_torch(tmp_path / "venv" / "lib" / PYTHON / "site-packages")
        environ = {"VIRTUAL_ENV": str(tmp_path / "venv")}
        assert torch_site.find_torch_site(environ) == active
        isolated.setattr(torch_site, "interpreter_sites", lambda: iter([tmp_path / "empty", own]))
        assert torch_site.find_torch_site(environ) == own

    def test_virtual_environment_comes_before_conda(self, isolated: pytest.MonkeyPatch, tmp_path: Path) -> None:
        conda = site_with_torch(tmp_path / "conda" / "lib" / PYTHON / "site-packages")
        environ = {"VIRTUAL_ENV": str(tmp_path / "venv"), "CONDA_PREFIX": str(tmp_path / "conda")}
        assert torch_site.find_torch_site(environ) == conda
        active = site_with_torch(tmp_path / "venv" / "lib" / PYTHON / "site-packages")
        assert torch_site.find_torch_site(environ) == active

    def test_interpreter_sites_are_those_of_the_running_interpreter(self) -> None:
        sites = list(torch_site.interpreter_sites())
        assert sites[:2] == [Path(sysconfig.get_path("purelib")), Path(sysconfig.get_path("platlib"))]

    def test_no_torch_anywhere(self, isolated: pytest.MonkeyPatch, tmp_path: Path) -> None:
        assert torch_site.find_torch_site({"VIRTUAL_ENV": str(tmp_path)}) is None

    def test_named_site_without_torch_is_an_error(self, isolated: pytest.MonkeyPatch, tmp_path: Path) -> None:
        with pytest.raises(SettingError, match=r"VAE_FUSED_TORCH_SITE=.* with torch in it"):
            torch_site.find_torch_site({"VAE_FUSED_TORCH_SITE": str(tmp_path)})

    def test_site_goes_to_the_end_of_the_path(self, isolated: pytest.MonkeyPatch, tmp_path: Path) -> None:
        site = site_with_torch(tmp_path)
        isolated.setattr(sys, "path", ["/isolated/overlay"])
        torch_site.make_importable({"VAE_FUSED_TORCH_SITE": str(site)})
        assert sys.path == ["/isolated/overlay", str(site)]

    @pytest.mark.parametrize("version", ["2.10.1", "1.13.1+cu117"])
    def test_old_torch_is_refused(self, isolated: pytest.MonkeyPatch, tmp_path: Path, version: str) -> None:
        site = site_with_torch(tmp_path, version)
        with pytest.raises(SettingError, match=r'needs torch 2\.11 or newer.*pip install "torch>=2\.11"'):
            torch_site.make_importable({"VAE_FUSED_TORCH_SITE": str(site)})

    @pytest.mark.parametrize("version", ["2.11.0", "2.15.0.dev20260801+cu130", "3.0.0"])
    def test_supported_torch_is_taken(self, tmp_path: Path, version: str) -> None:
        torch_site.check_torch_version(site_with_torch(tmp_path, version))


class TestHooks:
    @pytest.mark.parametrize("hook", [hooks.get_requires_for_build_wheel, hooks.get_requires_for_build_editable])
    def test_torch_is_asked_for_only_when_there_is_none(
        self, isolated: pytest.MonkeyPatch, tmp_path: Path, hook
    ) -> None:
        assert hook() == ["torch>=2.11"]
        isolated.setenv("VAE_FUSED_TORCH_SITE", str(site_with_torch(tmp_path)))
        assert hook() == []

    def test_nothing_is_asked_for_without_the_extension(self, isolated: pytest.MonkeyPatch) -> None:
        isolated.setenv("VAE_FUSED_NO_EXT", "1")
        assert hooks.get_requires_for_build_wheel() == []
        assert hooks.get_requires_for_build_editable() == []

    def test_sdist_never_needs_torch(self, isolated: pytest.MonkeyPatch) -> None:
        assert hooks.get_requires_for_build_sdist() == []

    def test_metadata_hooks_see_no_extension_and_restore_the_environment(self, monkeypatch) -> None:
        monkeypatch.setenv("FORCE_CUDA", "1")
        monkeypatch.delenv("VAE_FUSED_NO_EXT", raising=False)
        seen = {}

        def prepare(directory, config_settings):
            seen.update(os.environ)
            return "vae_fused.dist-info"

        monkeypatch.setattr(hooks.build_meta, "prepare_metadata_for_build_wheel", prepare)
        hooks.prepare_metadata_for_build_wheel("unused")
        assert not extension_wanted(seen)
        assert os.environ["FORCE_CUDA"] == "1"
        assert "VAE_FUSED_NO_EXT" not in os.environ


class TestPackages:
    """Real builds, of what needs no compiler: the sdist, and the wheel without the extension."""

    @pytest.fixture
    def tree(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A source tree in which an earlier build left a stamp and a shared object."""
        tree = tmp_path / "tree"
        tree.mkdir()
        for file in filter(Path.is_file, ROOT.iterdir()):
            shutil.copy(file, tree)
        for name in ("vae_fused", "build_backend", "csrc"):
            shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        (tree / "vae_fused" / "_build_stamp.json").write_text('{"stale": true}')
        (tree / "vae_fused" / "_C.cpython-311-x86_64-linux-gnu.so").touch()
        stale = tree / "build" / "lib" / "vae_fused"
        stale.mkdir(parents=True)
        (stale / "removed_long_ago.py").touch()
        monkeypatch.chdir(tree)
        monkeypatch.setattr(sys, "argv", ["setup.py"])
        monkeypatch.setattr(sys, "path", list(sys.path))
        monkeypatch.setenv("VAE_FUSED_NO_EXT", "1")
        monkeypatch.delenv("FORCE_CUDA", raising=False)
        return tree

    def test_sdist_has_the_sources_and_nothing_built(self, tree: Path, tmp_path: Path) -> None:
        with tarfile.open(tmp_path / hooks.build_sdist(str(tmp_path))) as archive:
            names = {name.partition("/")[2] for name in archive.getnames()}
        assert {"setup.py", "csrc/cpu/kernels/reparameterize.cpp", "build_backend/vae_fused_build/hooks.py"} <= names
        assert not [name for name in names if name.endswith((".so", "_build_stamp.json"))]

    def test_wheel_without_extension(self, tree: Path, tmp_path: Path) -> None:
        with zipfile.ZipFile(tmp_path / hooks.build_wheel(str(tmp_path))) as wheel:
            names = wheel.namelist()
            stamp = wheel.read("vae_fused/_build_stamp.json").decode()
        assert '"extension": false' in stamp
        assert "vae_fused/py.typed" in names
        assert not [name for name in names if name.endswith(".so") or "removed_long_ago" in name]
