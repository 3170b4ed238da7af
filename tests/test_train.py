"""The training command: data, noise, checkpoints, what a run writes and prints, reproducibility, errors."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import vae_fused
from vae_fused import mlp_vae
from vae_fused.train import ModelConfig, load_checkpoint, save_checkpoint
from vae_fused.train.cli import main
from vae_fused.train.data import load_data, split_data
from vae_fused.train.errors import InputError
from vae_fused.train.noise import Stream, item_keys, prior_key
from vae_fused.train.pictures import as_images, tile
from vae_fused.train.settings import Settings
from vae_fused.train.threads import fitting_threads
from vae_fused.train.trainer import evaluate

RUN_FILES = {"config.json", "metrics.jsonl", "model.safetensors", "reconstructions.png", "samples.png", "curves.png"}
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def train(out: Path, *flags: str, data: str = "digits", epochs: int = 1) -> int:
    return main(["train", "--data", data, "--out", str(out), "--epochs", str(epochs), "--device", "cpu", *flags])


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "digits"
    assert train(out, epochs=3) == 0
    return out


# What a run leaves


def test_a_run_writes_every_file_and_prints_the_held_out_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "nested" / "run"
    assert train(out, "--beta", "0.25", epochs=3) == 0
    assert {file.name for file in out.iterdir()} == RUN_FILES
    for name in ("reconstructions.png", "samples.png", "curves.png"):
        assert (out / name).read_bytes().startswith(PNG_SIGNATURE)
        with Image.open(out / name) as image:
            assert min(image.size) > 200
            assert len(image.convert("L").getcolors(256) or []) > 16

    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    for row in rows:
        for part in ("train", "held_out"):
            assert row[f"{part}_loss"] == pytest.approx(
                row[f"{part}_reconstruction"] + 0.25 * row[f"{part}_kl"], rel=1e-5
            )
    assert rows[-1]["held_out_loss"] < 0.8 * rows[0]["train_loss"]

    printed = capsys.readouterr().out
    figures = {
        name: float(re.search(rf"held-out {name}\s+(-?[\d.]+) nats", printed)[1])  # type: ignore[index]
        for name in ("ELBO", "reconstruction", "KL")
    }
    assert figures["ELBO"] == pytest.approx(-rows[-1]["held_out_loss"], abs=1e-4)
    assert figures["reconstruction"] == pytest.approx(rows[-1]["held_out_reconstruction"], abs=1e-4)
    assert figures["KL"] == pytest.approx(rows[-1]["held_out_kl"], abs=1e-4)

    config = json.loads((out / "config.json").read_text())
    assert config["settings"]["beta"] == 0.25
    assert config["settings"]["epochs"] == 3
    assert config["model"]["input_shape"] == [1, 8, 8]
    assert config["vae_fused"] == vae_fused.__version__


def test_the_checkpoint_is_the_model_of_the_last_row(finished_run: Path) -> None:
    row = json.loads((finished_run / "metrics.jsonl").read_text().splitlines()[-1])
    held_out = split_data(load_data("digits"), 0.1, 0).held_out
    model = load_checkpoint(finished_run).train()
    figures = evaluate(model, held_out, Settings(data="digits", out=finished_run))
    assert figures == pytest.approx((row["held_out_loss"], row["held_out_reconstruction"], row["held_out_kl"]))
    assert not model.training


def test_the_convolutional_model_trains(tmp_path: Path) -> None:
    assert train(tmp_path, "--model", "conv", "--latent-dim", "5", "--batch-size", "400", "--lr", "0.01") == 0
    model = load_checkpoint(tmp_path)
    assert model.latent_dim == 5
    assert any(isinstance(module, torch.nn.Conv2d) for module in model.modules())


def test_digits_become_recognisable(tmp_path: Path) -> None:
    assert train(tmp_path, epochs=25) == 0
    digits = load_data("digits")
    held_out = split_data(digits, 0.1, 0).held_out
    error = (load_checkpoint(tmp_path).reconstruct(held_out) - held_out).square().sum()
    # The mean digit, which is what a decoder without information gives, leaves all of this.
    spread = (held_out - digits.mean(0)).square().sum()
    assert error < 0.4 * spread


# Reproducibility


def test_same_seed_same_weights_bit_for_bit(finished_run: Path, tmp_path: Path) -> None:
    assert train(tmp_path / "same", epochs=3) == 0
    assert train(tmp_path / "other", "--seed", "1", epochs=3) == 0
    weights, same, other = (
        load_file(folder / "model.safetensors") for folder in (finished_run, tmp_path / "same", tmp_path / "other")
    )
    assert weights.keys() == same.keys() == other.keys()
    for name, tensor in weights.items():
        assert torch.equal(tensor, same[name]), name
        assert not torch.equal(tensor, other[name]), name
    for name in ("model.safetensors", "samples.png", "reconstructions.png"):
        assert (finished_run / name).read_bytes() == (tmp_path / "same" / name).read_bytes(), name


def test_training_leaves_generator_and_threads_of_the_process_alone(tmp_path: Path) -> None:
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    assert train(tmp_path) == 0
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads


def test_small_steps_run_on_one_thread_and_large_ones_on_all() -> None:
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        model = mlp_vae((1, 8, 8))
        with fitting_threads(model, 128):
            assert torch.get_num_threads() == 1
        with fitting_threads(model, 12800):
            assert torch.get_num_threads() == 2
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


def test_the_noise_of_an_item_depends_on_seed_epoch_and_item_alone() -> None:
    items = torch.tensor([5, 2, 9])
    keys = item_keys(Stream.TRAINING, 3, 4, items, 10, 6)
    assert keys.dtype == torch.uint64
    assert torch.equal(
        item_keys(Stream.TRAINING, 3, 4, items[1:2], 10, 6)[0].view(torch.int64), keys[1].view(torch.int64)
    )
    every_key = torch.cat(
        [
            item_keys(stream, seed, epoch, torch.arange(10), 10, 6).view(torch.int64)
            for stream in (Stream.TRAINING, Stream.HELD_OUT)
            for seed in (0, 1, 2**32 - 1)
            for epoch in range(3)
        ]
    )
    assert len(every_key.unique(dim=0)) == len(every_key)
    # 6 normals take 2 counters: neighbouring items must not share one.
    offsets = item_keys(Stream.TRAINING, 0, 0, torch.arange(10), 10, 6).view(torch.int64)[:, 1]
    assert offsets.diff().tolist() == [2] * 9
    assert prior_key(0).tolist()[0] not in every_key[:, 0].tolist()


# Checkpoints


@pytest.mark.parametrize(
    "config",
    [ModelConfig("mlp", (6,), 3, (8, 7), None), ModelConfig("conv", (2, 9, 8), 3, (4,), "sigmoid")],
    ids=["mlp", "conv"],
)
def test_checkpoint_round_trip(config: ModelConfig, tmp_path: Path) -> None:
    model = config.build()
    save_checkpoint(tmp_path / "model.safetensors", model, config)
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]
    x = torch.rand(4, *config.input_shape)
    for path in (tmp_path, tmp_path / "model.safetensors", str(tmp_path)):
        loaded = load_checkpoint(path)
        assert not loaded.training
        assert torch.equal(loaded(x).recon, model.eval()(x).recon)
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        assert ModelConfig.from_json(json.loads(file.metadata()["vae_fused"])["model"]) == config


def test_what_is_no_checkpoint_is_refused(finished_run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no checkpoint at"):
        load_checkpoint(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"not safetensors")
    with pytest.raises(InputError, match="cannot be read"):
        load_checkpoint(path)
    save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(InputError, match="is not a vae_fused checkpoint"):
        load_checkpoint(path)
    fitting = dataclasses.asdict(ModelConfig("mlp", (64,), 20, (400,), None))
    weights = load_file(finished_run / "model.safetensors")
    for state, model in (({"weight": torch.zeros(2)}, fitting), (weights, {"architecture": "mlp"}), (weights, [])):
        save_file(state, path, metadata={"vae_fused": json.dumps({"model": model})})
        with pytest.raises(InputError, match="is not a vae_fused checkpoint"):
            load_checkpoint(path)
    save_file(weights, path, metadata={"vae_fused": json.dumps({"model": fitting})})
    load_checkpoint(path)


# Data


def test_digits_are_all_there() -> None:
    digits = load_data("digits")
    assert digits.shape == (1797, 1, 8, 8)
    assert digits.dtype == torch.float32
    assert (digits.min(), digits.max()) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("array", "shape", "largest"),
    [
        (np.full((3, 4), 0.5), (3, 4), 0.5),
        (np.full((3, 5, 4), 51, np.uint8), (3, 1, 5, 4), 0.2),
        (np.full((3, 5, 4), 16, np.int64), (3, 1, 5, 4), 1.0),
        (np.full((3, 2, 5, 4), -2.5, np.float32), (3, 2, 5, 4), -2.5),
        (np.ones((7, 6, 5, 3), bool), (7, 3, 6, 5), 1.0),
        (np.ones((7, 3, 6, 4), np.float16), (7, 3, 6, 4), 1.0),
    ],
    ids=["vectors", "uint8", "int64", "channels first", "channels last", "ambiguous is channels first"],
)
def test_arrays(array: np.ndarray, shape: tuple[int, ...], largest: float, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", array)
    np.savez(tmp_path / "one.npz", anything=array)
    np.savez(tmp_path / "named.npz", y_train=np.zeros(3), x_train=array)
    for name in ("a.npy", "one.npz", "named.npz"):
        data = load_data(str(tmp_path / name))
        assert data.shape == shape
        assert data.dtype == torch.float32
        assert data.max().item() == pytest.approx(largest)


def test_channels_last_keeps_the_pixels(tmp_path: Path) -> None:
    array = np.random.default_rng(0).random((2, 6, 5, 3), dtype=np.float32)
    np.save(tmp_path / "a.npy", array)
    assert torch.equal(load_data(str(tmp_path / "a.npy")), torch.from_numpy(array).permute(0, 3, 1, 2))


def test_a_folder_of_images(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "notes.txt").write_text("no image")
    gray = np.arange(30, dtype=np.uint8).reshape(5, 6)
    Image.fromarray(gray).save(tmp_path / "a.png")
    Image.fromarray(255 - gray).save(tmp_path / "sub" / "b.PNG")
    data = load_data(str(tmp_path))
    assert data.shape == (2, 1, 5, 6)
    assert torch.equal((data * 255).round().to(torch.uint8)[:, 0], torch.from_numpy(np.stack([gray, 255 - gray])))

    Image.fromarray(np.stack([gray, 2 * gray, 3 * gray], axis=-1)).save(tmp_path / "c.png")
    colour = load_data(str(tmp_path))
    assert colour.shape == (3, 3, 5, 6)
    assert torch.equal((colour[1] * 255).round().to(torch.uint8)[2], torch.from_numpy(3 * gray))


def test_a_run_on_a_folder_and_on_data_outside_the_unit_range(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(6):
        Image.fromarray(rng.integers(0, 256, (9, 7, 3), dtype=np.uint8)).save(folder / f"{index}.png")
    assert train(tmp_path / "colour", "--model", "conv", data=str(folder)) == 0
    assert load_checkpoint(tmp_path / "colour").sample(2).shape == (2, 3, 9, 7)

    np.save(tmp_path / "vectors.npy", rng.normal(size=(12, 5)))
    assert train(tmp_path / "vectors", data=str(tmp_path / "vectors.npy")) == 0
    config = json.loads((tmp_path / "vectors" / "config.json").read_text())
    assert config["model"]["output_activation"] is None


def test_the_split_is_a_partition_that_the_seed_decides() -> None:
    data = torch.arange(20.0).unsqueeze(1)
    split, same, other = (split_data(data, 0.25, seed) for seed in (0, 0, 1))
    assert len(split.held_out) == 5
    assert sorted(torch.cat([split.train, split.held_out]).flatten().tolist()) == list(range(20))
    assert torch.equal(split.held_out, same.held_out)
    assert not torch.equal(split.held_out, other.held_out)
    assert len(split_data(data[:2], 0.99, 0).train) == 1


# Pictures


def test_tiles_lie_where_they_belong() -> None:
    images = as_images(torch.tensor([0.0, 0.5, 0.25]).view(3, 1, 1, 1).expand(3, 1, 4, 4))
    sheet = tile(images, 2)
    assert sheet.shape == (11, 11, 3)
    assert (sheet[1:5, 1:5] == 0.0).all()
    assert (sheet[1:5, 6:10] == 0.5).all()
    assert (sheet[6:10, 1:5] == 0.25).all()
    assert (sheet[6:10, 6:10] == 1.0).all()
    assert as_images(torch.zeros(2, 16)).shape == (2, 4, 4, 3)
    assert as_images(torch.zeros(2, 15)).shape == (2, 1, 15, 3)


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


def test_the_process_exits_with_the_code_and_no_traceback(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "vae_fused.train",
        "train",
        "--data",
        "missing.npy",
        "--out",
        str(tmp_path / "run"),
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
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


def test_without_the_extra_the_core_works_and_the_command_says_what_to_install() -> None:
    result = subprocess.run([sys.executable, "-c", BLOCKED_EXTRA], capture_output=True, text=True, check=False)
    assert result.returncode == 1, result.stderr
    assert result.stderr.count("\n") == 1
    assert 'pip install "vae_fused[train]"' in result.stderr
