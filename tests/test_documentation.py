"""Every example of the documentation runs and prints what it shows: docstrings, README.md and docs/."""

from __future__ import annotations

import inspect
import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers.documents import PAGES, ROOT, blocks_of, docstring_examples, failures_of, module_names, printed_by
from torch import nn

import vae_fused as vf

NEEDS_PEERS = ("vae_fused.integrations.diffusers", "vae_fused.integrations.pyro")  # tests/peers runs them
EXAMPLES = list(docstring_examples([name for name in module_names() if name not in NEEDS_PEERS]))
PYTHON_PAGES = [page for page in PAGES if any(block.python for block in blocks_of(page))]
# Figures of a training run in float32, which differ in their digits on other processors.
PRINTS_OTHER_DIGITS = {"docs/evaluation.md"}


def names_of_a_reader() -> dict[str, Any]:
    """What a reader of a page has before the first block: a batch, a model with its output, an optimizer."""
    model = vf.mlp_vae(6, latent_dim=4, hidden_dims=(8,), output_activation=None)
    x = torch.rand(5, 6)
    recon, mu, logvar, _, kl = model(x)
    weight, bias = model.decoder[-2].weight, model.decoder[-2].bias
    return {
        **{"torch": torch, "nn": nn, "vf": vf, "model": model, "data": x, "x": x, "target": x},
        **{"recon": recon, "mu": mu, "logvar": logvar, "kl": kl},
        **{"hidden": torch.rand(5, 8), "weight": weight, "bias": bias},
        "optimizer": torch.optim.Adam(model.parameters()),
    }


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_docstring(example, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    report = failures_of(example)
    assert not report, report


def test_every_public_function_and_class_has_an_example():
    shown = {example.name.rpartition(".")[2] for example in EXAMPLES}
    public = {name for name in vf.__all__ if inspect.isroutine(getattr(vf, name)) or inspect.isclass(getattr(vf, name))}
    assert public <= shown


@pytest.mark.parametrize("page", PYTHON_PAGES)
def test_page(page):
    namespace = names_of_a_reader()
    for block in blocks_of(page):
        if block.python is None or "integrations.diffusers" in block.code:
            continue
        if page == "docs/evaluation.md":
            pytest.importorskip("sklearn", reason="the example reads its digits")
        printed = printed_by(block, namespace)
        if block.output is None:
            assert printed == "", f"{page}:{block.line} prints and does not say what"
        elif page in PRINTS_OTHER_DIGITS:
            assert re.sub(r"[\d.-]+", "", printed) == re.sub(r"[\d.-]+", "", block.output)
        else:
            assert printed == block.output, f"{page}:{block.line}"


def test_the_readme_says_the_same_number_before_and_after():
    namespace = names_of_a_reader()
    losses = []
    for block in blocks_of("README.md"):
        if block.language == "python":
            printed_by(block, namespace)
            losses.append(namespace["loss"])
    before, after, with_own_sample = losses
    torch.testing.assert_close(after, before)
    assert with_own_sample.isfinite()


def test_the_readme_says_the_same_number_of_other_losses():
    rows = re.findall(r"^\| `(F\..*?)`.*?\| `(vf\..*?)` \|$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert len(rows) == 5
    recon, x, mu, logvar = torch.rand(5, 6), torch.rand(5, 6), torch.randn(5, 4), torch.randn(5, 4)
    names = {"vf": vf, "F": F, "recon": recon, "x": x, "B": 5, "D": 6, "beta": 0.3}
    names["KL"] = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())
    for yours, ours in rows:
        torch.testing.assert_close(eval(ours, names)(recon, x, mu, logvar), eval(yours, names))


def test_commands_name_files_that_are_there():
    named = [
        (page, file)
        for page in PAGES
        for block in blocks_of(page)
        if block.language == "bash"
        for file in re.findall(r"\b(?:python|bash|pytest)\s+((?:[\w.]+/)[\w./]*)", block.code)
    ]
    assert len(named) > 8
    assert [(page, file) for page, file in named if not (ROOT / file).exists()] == []
