"""The command line: information, sampling, and errors in one line."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.training import train
from PIL import Image

import vae_fused
from vae_fused.train.cli import main

# Commands and their errors


def test_info_prints_the_build(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    assert json.loads(capsys.readouterr().out) == vae_fused.build_info()


def test_sample_draws_the_samples_of_the_run_again(finished_run: Path, tmp_path: Path) -> None:
    picture = tmp_path / "again.png"
    arguments = ["sample", "--checkpoint", str(finished_run), "--out", str(picture), "--device", "cpu"]
    assert main(arguments) == 0
    assert picture.read_bytes() == (finished_run / "samples.png").read_bytes()
    assert main([*arguments, "--seed", "1"]) == 0
    assert picture.read_bytes() != (finished_run / "samples.png").read_bytes()


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("vae-fused: ")
    return captured.err


@pytest.mark.parametrize(
    ("flags", "names"),
    [
        (["--epochs", "0"], "--epochs"),
        (["--batch-size", "none"], "--batch-size"),
        (["--latent-dim", "-1"], "--latent-dim"),
        (["--beta", "-0.5"], "--beta"),
        (["--beta", "inf"], "--beta"),
        (["--lr", "nan"], "--lr"),
        (["--held-out", "1"], "--held-out"),
        (["--seed", str(2**32)], "--seed"),
        (["--model", "transformer"], "--model"),
        (["--unknown", "1"], "--unknown"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_bad_flag(flags: list[str], names: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--data", "digits", "--out", str(tmp_path / "run"), *flags]) == 2
    assert names in one_line(capsys)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist"),
        (b"garbage", "cannot be read"),
        (np.array([{"an": "object"}]), "cannot be read"),
        (np.zeros(5), "2, 3 or 4 dimensions"),
        (np.zeros((0, 8, 8)), "must not be empty"),
        (np.full((4, 8, 8), np.nan), "finite"),
        (np.full((4, 8, 8), -1), "negative"),
        (np.zeros((4, 8, 8), complex), "real numbers"),
        (np.zeros((1, 8, 8)), "at least 2 items"),
    ],
    ids=["missing", "garbage", "pickle", "rank", "empty", "nan", "negative", "complex", "one item"],
)
def test_unusable_arrays(
    content: bytes | np.ndarray | None, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "data.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        np.save(path, content)
    assert train(tmp_path / "run", data=str(path)) == 1
    assert message in one_line(capsys)
    assert not (tmp_path / "run").exists()


def test_unusable_sources(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, folder = tmp_path / "run", tmp_path / "images"
    folder.mkdir()
    assert train(out, data=str(folder)) == 1
    assert "holds no images" in one_line(capsys)
    (folder / "broken.png").write_bytes(b"not a png")
    assert train(out, data=str(folder)) == 1
    assert "broken.png cannot be read" in one_line(capsys)
    Image.new("L", (4, 4)).save(folder / "broken.png")
    Image.new("L", (4, 5)).save(folder / "taller.png")
    assert train(out, data=str(folder)) == 1
    assert re.search("one size: .*broken.png is 4x4, .*taller.png is 4x5", one_line(capsys))
    (tmp_path / "data.csv").write_text("1,2")
    assert train(out, data=str(tmp_path / "data.csv")) == 1
    assert "data.csv" in one_line(capsys)
    np.savez(tmp_path / "two.npz", a=np.zeros((2, 2)), b=np.zeros((2, 2)))
    assert train(out, data=str(tmp_path / "two.npz")) == 1
    assert "one array" in one_line(capsys)
    np.save(tmp_path / "vectors.npy", np.zeros((4, 9)))
    assert train(out, "--model", "conv", data=str(tmp_path / "vectors.npy")) == 1
    assert "no conv model for these data" in one_line(capsys)
    assert not out.exists()


def test_unusable_device_and_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert main(["train", "--data", "digits", "--out", str(out), "--device", "abacus"]) == 1
    assert "--device abacus cannot be used" in one_line(capsys)
    assert not out.exists()
    out.write_text("a file")
    assert train(out) == 1
    assert "--out must be a folder" in one_line(capsys)
    assert out.read_text() == "a file"


def test_a_diverging_run_stops(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert train(tmp_path, "--lr", "1e30", epochs=5) == 1
    assert "vae-fused: the loss is not finite after epoch 1" in capfd.readouterr().err
    assert not (tmp_path / "model.safetensors").exists()


def test_sample_refuses_a_bad_checkpoint_and_a_bad_format(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sample", "--checkpoint", str(tmp_path), "--out", str(tmp_path / "x.png")]) == 1
    assert "no checkpoint at" in one_line(capsys)
    assert main(["sample", "--checkpoint", str(finished_run), "--out", str(tmp_path / "x.xyz"), "--device", "cpu"]) == 1
    assert "x.xyz cannot be written" in one_line(capsys)
    assert list(tmp_path.iterdir()) == []
    assert main(["sample", "--checkpoint", str(finished_run), "--out", str(tmp_path), "--device", "cpu"]) == 1
    assert str(tmp_path) in one_line(capsys)
    assert list(tmp_path.parent.glob(f"{tmp_path.name}*")) == [tmp_path]


def test_a_picture_without_a_suffix_has_the_name_that_was_asked_for(finished_run: Path, tmp_path: Path) -> None:
    picture = tmp_path / "samples"
    assert main(["sample", "--checkpoint", str(finished_run), "--out", str(picture), "--device", "cpu"]) == 0
    assert picture.read_bytes() == (finished_run / "samples.png").read_bytes()


@pytest.mark.parametrize("module", ["vae_fused", "vae_fused.train"])
def test_the_process_exits_with_the_code_and_no_traceback(module: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", module, "train", "--data", "missing.npy", "--out", str(tmp_path / "run")]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr.startswith("vae-fused: ")
    assert result.stderr.count("\n") == 1


BLOCKED_EXTRA = """
import sys
for name in ("typer", "rich", "matplotlib", "safetensors", "sklearn", "PIL"):
    sys.modules[name] = None
import vae_fused
vae_fused.mlp_vae(4).sample(1)
from vae_fused.train.cli import main
code = main(["info"])
try:
    vae_fused.train.load_checkpoint("run")
except ImportError as error:
    assert 'pip install "vae_fused[train]"' in str(error)
    sys.exit(code)
"""


@pytest.mark.parametrize("missing", ["typer", "rich", "matplotlib", "safetensors", "sklearn"])
def test_a_missing_package_is_found_before_anything_is_trained(missing: str, tmp_path: Path) -> None:
    blocked = f"import sys; sys.modules[{missing!r}] = None; from vae_fused.train.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", blocked, "train", "--data", "digits", "--out", "run", "--epochs", "1"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith(f"vae-fused: {missing}")
    assert " is not installed" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_without_the_extra_the_core_works_and_the_command_says_what_to_install(tmp_path: Path) -> None:
    command = [sys.executable, "-c", BLOCKED_EXTRA]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 1, result.stderr
    assert result.stderr.count("\n") == 1
    assert 'pip install "vae_fused[train]"' in result.stderr
