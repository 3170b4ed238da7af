"""What the build backend decides to build: the extension or not, CUDA or not, and for which processors."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vae_fused_build import cpu_kernels, cuda_toolkit, settings
from vae_fused_build.cuda_toolkit import CudaToolkit
from vae_fused_build.settings import CudaDecision, SettingError, decide_cuda, extension_wanted

ROOT = Path(__file__).resolve().parents[1]
CUDA_13 = CudaToolkit(Path("/opt/cuda-13"), (13, 0))


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
    def test_every_kernel_is_compiled_for_every_instruction_set(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr(cpu_kernels.subprocess, "run", lambda *_, **__: None)
        objects = [Path(file) for file in cpu_kernels.compile_kernels("c++", ROOT / "csrc", tmp_path)]
        kernels = {source.stem for source in (ROOT / "csrc" / "cpu" / "kernels").glob("*.cpp")}
        assert {"reparameterize", "reconstruction", "table"} <= kernels
        sets = cpu_kernels.instruction_sets()
        assert sorted((file.parent.name, file.stem) for file in objects) == sorted(
            (name, kernel) for name in sets for kernel in kernels
        )
        assert list(dict.fromkeys(file.parent.name for file in objects)) == sets
        rules = (tmp_path / "build.ninja").read_text()
        assert all(f"build {file}: compile" in rules for file in objects)

    def test_linker_sees_the_most_modest_first(self) -> None:
        assert cpu_kernels.instruction_sets()[0] == "baseline"

    def test_other_processors_get_the_baseline_alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(cpu_kernels.platform, "machine", lambda: "aarch64")
        assert cpu_kernels.instruction_sets() == ["baseline"]
        assert cpu_kernels.definitions() == []
