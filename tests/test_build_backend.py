"""The build backend: where it looks for torch, when it asks for one, and what it decides to build."""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

from vae_fused_build import cpu_kernels, cuda_toolkit, hooks, settings, torch_site
from vae_fused_build.cuda_toolkit import CudaToolkit
from vae_fused_build.settings import CudaDecision, SettingError, decide_cuda, extension_wanted

ROOT = Path(__file__).resolve().parents[1]
PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"
CUDA_13 = CudaToolkit(Path("/opt/cuda-13"), (13, 0))


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


class TestExtensionWanted:
    @pytest.mark.parametrize(("value", "wanted"), [("", True), ("0", True), ("1", False)])
    def test_switch(self, value: str, wanted: bool) -> None:
        assert extension_wanted({"VAE_FUSED_NO_EXT": value}) is wanted

    def test_anything_else_is_an_error(self) -> None:
        with pytest.raises(SettingError, match="VAE_FUSED_NO_EXT should be 0 or 1, not 'yes'"):
            extension_wanted({"VAE_FUSED_NO_EXT": "yes"})

    def test_contradiction_is_an_error(self) -> None:
        with pytest.raises(SettingError, match="unset one of the two"):
            extension_wanted({"VAE_FUSED_NO_EXT": "1", "FORCE_CUDA": "1"})


class TestCudaDecision:
    def test_cuda_torch_with_matching_toolkit(self) -> None:
        assert decide_cuda({}, "13.0", CUDA_13) == CudaDecision(enabled=True)
        assert decide_cuda({}, "13.2", CUDA_13).enabled, "minor versions are compatible"

    def test_cpu_torch_is_quiet(self) -> None:
        assert decide_cuda({}, None, CUDA_13) == CudaDecision(enabled=False)

    def test_forced_off(self) -> None:
        assert decide_cuda({"FORCE_CUDA": "0"}, "13.0", CUDA_13) == CudaDecision(enabled=False)

    def test_forced_on(self) -> None:
        assert decide_cuda({"FORCE_CUDA": "1"}, "13.0", CUDA_13) == CudaDecision(enabled=True)

    @pytest.mark.parametrize(
        ("torch_cuda", "toolkit", "reason"),
        [
            ("13.0", None, "built for CUDA 13.0 and no nvcc was found.*set CUDA_HOME"),
            ("12.8", CUDA_13, "built for CUDA 12.8 and the toolkit in /opt/cuda-13 is CUDA 13.0"),
        ],
    )
    def test_cuda_torch_without_toolkit_is_noticed_or_refused(self, torch_cuda, toolkit, reason) -> None:
        decision = decide_cuda({}, torch_cuda, toolkit)
        assert not decision.enabled
        assert decision.notice is not None
        assert "WITHOUT CUDA" in decision.notice
        with pytest.raises(SettingError, match=f"FORCE_CUDA=1, but .*{reason}"):
            decide_cuda({"FORCE_CUDA": "1"}, torch_cuda, toolkit)

    def test_forced_on_with_cpu_torch_is_an_error(self) -> None:
        with pytest.raises(SettingError, match="FORCE_CUDA=1, but the installed torch is a build without CUDA"):
            decide_cuda({"FORCE_CUDA": "1"}, None, CUDA_13)

    def test_anything_else_is_an_error(self) -> None:
        with pytest.raises(SettingError, match="FORCE_CUDA should be 0 or 1, not 'ON'"):
            decide_cuda({"FORCE_CUDA": "ON"}, "13.0", CUDA_13)

    @pytest.mark.parametrize(
        ("given", "expected"),
        [
            ("9.0", ["9.0"]),
            ("8.0;9.0a+PTX", ["8.0", "9.0a+PTX"]),
            ("8.0 9.0", ["8.0", "9.0"]),
            ("", ["8.0", "9.0", "10.0", "12.0+PTX"]),
        ],
    )
    def test_architectures(self, given: str, expected: list[str]) -> None:
        assert settings.cuda_architectures({"TORCH_CUDA_ARCH_LIST": given}, CUDA_13) == expected

    def test_default_architectures_stop_where_an_older_nvcc_does(self) -> None:
        toolkit = CudaToolkit(Path("/opt/cuda-12.6"), (12, 6))
        assert settings.cuda_architectures({}, toolkit) == ["8.0", "9.0+PTX"]


class TestToolkit:
    @staticmethod
    def fake_nvcc(home: Path, release: str) -> Path:
        nvcc = home / "bin" / "nvcc"
        nvcc.parent.mkdir(parents=True)
        nvcc.write_text(
            "#!/bin/sh\n"
            f'case "$1" in --version) echo "Cuda compilation tools, release {release}, V{release}.1";;\n'
            f"*) echo '#$ _HERE_={nvcc.parent}' >&2;; esac\n"
        )
        nvcc.chmod(0o755)
        return nvcc

    def test_named_home(self, tmp_path: Path) -> None:
        self.fake_nvcc(tmp_path, "12.8")
        assert cuda_toolkit.find_toolkit({"CUDA_HOME": str(tmp_path)}) == CudaToolkit(tmp_path, (12, 8))

    def test_named_home_without_nvcc_is_not_replaced_by_another(self, tmp_path: Path) -> None:
        nvcc = self.fake_nvcc(tmp_path / "other", "13.0")
        environ = {"CUDA_HOME": str(tmp_path / "missing"), "PATH": f"{nvcc.parent}:{os.defpath}"}
        assert cuda_toolkit.find_toolkit(environ) is None

    def test_wrapper_script_on_the_path(self, tmp_path: Path) -> None:
        nvcc = self.fake_nvcc(tmp_path / "cuda", "13.0")
        wrapper = tmp_path / "bin" / "nvcc"
        wrapper.parent.mkdir()
        wrapper.write_text(f'#!/bin/sh\nexec {nvcc} "$@"\n')
        wrapper.chmod(0o755)
        toolkit = cuda_toolkit.find_toolkit({"PATH": str(wrapper.parent)})
        assert toolkit == CudaToolkit(tmp_path / "cuda", (13, 0))

    def test_runtime_of_the_toolkit_comes_before_pips(self, tmp_path: Path) -> None:
        pip = tmp_path / "site" / "nvidia" / "cu13" / "lib"
        pip.mkdir(parents=True)
        (pip / "libcudart.so.13").touch()
        home = tmp_path / "cuda"
        assert cuda_toolkit.runtime_library(home, tmp_path / "site") == (str(pip), ":libcudart.so.13")
        (home / "lib64").mkdir(parents=True)
        (home / "lib64" / "libcudart.so").touch()
        assert cuda_toolkit.runtime_library(home, tmp_path / "site") == (str(home / "lib64"), "cudart")


class TestCpuKernels:
    def test_every_instruction_set_has_its_source(self) -> None:
        for name in cpu_kernels.INSTRUCTION_SETS:
            assert (ROOT / "csrc" / "cpu" / "kernels" / f"{name}.cpp").is_file()

    def test_linker_sees_the_most_modest_first(self) -> None:
        assert cpu_kernels.instruction_sets()[0] == "baseline"

    def test_other_processors_get_the_baseline_alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(cpu_kernels.platform, "machine", lambda: "aarch64")
        assert cpu_kernels.instruction_sets() == ["baseline"]
        assert cpu_kernels.definitions() == []


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
        assert {"setup.py", "csrc/cpu/kernels/avx512.cpp", "build_backend/vae_fused_build/hooks.py"} <= names
        assert not [name for name in names if name.endswith((".so", "_build_stamp.json"))]

    def test_wheel_without_extension(self, tree: Path, tmp_path: Path) -> None:
        with zipfile.ZipFile(tmp_path / hooks.build_wheel(str(tmp_path))) as wheel:
            names = wheel.namelist()
            stamp = wheel.read("vae_fused/_build_stamp.json").decode()
        assert '"extension": false' in stamp
        assert "vae_fused/py.typed" in names
        assert not [name for name in names if name.endswith(".so") or "removed_long_ago" in name]
