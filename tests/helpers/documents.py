"""The examples of the documentation: those of docstrings, and the blocks of the Markdown pages."""

from __future__ import annotations

import contextlib
import doctest
import importlib
import io
import math
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

import vae_fused as vf

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "CONTRIBUTING.md", *sorted(f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")))
# What an example may use without an import: the public names, and what everybody has at hand.
AT_HAND: dict[str, Any] = {**{name: getattr(vf, name) for name in vf.__all__}, "torch": torch, "nn": nn, "math": math}


def module_names() -> list[str]:
    """Every module of the package, those that need another library too."""
    found = pkgutil.walk_packages(vf.__path__, "vae_fused.", onerror=lambda name: None)
    return ["vae_fused", *(one.name for one in found if not one.name.endswith(("._C", ".__main__")))]


def docstring_examples(names: list[str]) -> Iterator[doctest.DocTest]:
    """The docstrings with examples in these modules."""
    finder = doctest.DocTestFinder()
    for name in names:
        module = importlib.import_module(name)
        for found in finder.find(module, name, globs={**AT_HAND, **vars(module)}):
            if found.examples:
                yield found


def failures_of(example: doctest.DocTest) -> str:
    """What an example printed that it does not show; nothing if it is right."""
    report = io.StringIO()
    doctest.DocTestRunner(verbose=False).run(example, out=report.write)
    return report.getvalue()


class Block(NamedTuple):
    """A fenced block of a page, and what the page says that it prints."""

    page: str
    line: int
    language: str
    code: str
    output: str | None

    @property
    def python(self) -> str | None:
        """The Python of the block, be it that of ``python -c``; None where a shell runs something else."""
        if self.language == "python":
            return self.code
        inline = re.fullmatch(r"python -c '\n?(.*)'\n", self.code, re.DOTALL)
        return inline[1] if inline else None


def blocks_of(page: str) -> list[Block]:
    """The blocks of a page that somebody would run."""
    text = (ROOT / page).read_text()
    fences = list(re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE))
    found = []
    for fence, following in zip(fences, [*fences[1:], None], strict=False):
        language, code = fence.groups()
        if language == "":
            continue
        between = text[fence.end() : following.start()].strip() if following else ""
        shown = following is not None and following[1] == "" and re.match(r"(prints\b.*)?$", between, re.DOTALL)
        line = text.count("\n", 0, fence.start()) + 1
        found.append(Block(page, line, language, code, following[2] if following and shown else None))
    return found


def printed_by(block: Block, namespace: dict[str, Any]) -> str:
    """Run the Python of a block; what it printed."""
    assert block.python is not None
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(block.python, f"{block.page}:{block.line}", "exec"), namespace)
    return printed.getvalue()
