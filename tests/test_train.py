"""The training command: what a run leaves, reproducibility, checkpoints."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest
import torch
from helpers.training import train
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import vae_fused
from vae_fused import mlp_vae
from vae_fused.train import ModelConfig, load_checkpoint, save_checkpoint
from vae_fused.train.data import load_data, split_data
from vae_fused.train.errors import InputError
from vae_fused.train.noise import Stream, item_keys, prior_key
from vae_fused.train.settings import Settings
from vae_fused.train.threads import fitting_threads
from vae_fused.train.trainer import evaluate

RUN_FILES = {"config.json", "metrics.jsonl", "model.safetensors", "reconstructions.png", "samples.png", "curves.png"}
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


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
