"""Writes ``vae_fused/_build_stamp.json``, by which the installed package knows what it was built with."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

from setuptools import Command
from setuptools.command.build import build as setuptools_build
from setuptools.command.build_py import build_py as setuptools_build_py

FILE = Path("vae_fused", "_build_stamp.json")


@dataclass(frozen=True)
class BuildStamp:
    """The facts of one build; ``vae_fused._build`` reads them back under the same names."""

    extension: bool
    torch: str | None
    cuda: str | None
    cuda_architectures: list[str]


WITHOUT_EXTENSION = BuildStamp(extension=False, torch=None, cuda=None, cuda_architectures=[])


class build(setuptools_build):
    """The build, whose last step writes the stamp: a failed compilation leaves none that promises an extension."""

    sub_commands: ClassVar = [*setuptools_build.sub_commands, ("build_stamp", None)]


class build_py(setuptools_build_py):
    """Copies the Python files into a clean directory, so that nothing of an earlier build gets into the wheel."""

    def run(self) -> None:
        if not self.editable_mode:
            shutil.rmtree(Path(self.build_lib, "vae_fused"), ignore_errors=True)
        super().run()


def build_stamp(stamp: BuildStamp) -> type[Command]:
    """The build step for one stamp, in the form setuptools asks of a sub-command (also for editable installs)."""

    class WriteBuildStamp(Command):
        description = "write what this build was made with beside the extension"
        user_options: ClassVar[list[tuple[str, str | None, str]]] = []
        editable_mode = False
        build_lib: str

        def initialize_options(self) -> None:
            self.build_lib = ""

        def finalize_options(self) -> None:
            self.build_lib = self.get_finalized_command("build_py").build_lib

        def run(self) -> None:
            target = FILE if self.editable_mode else Path(self.build_lib, FILE)
            target.write_text(json.dumps(asdict(stamp), indent=2) + "\n")

        def get_source_files(self) -> list[str]:
            return []

        def get_outputs(self) -> list[str]:
            return [str(Path(self.build_lib, FILE))]

        def get_output_mapping(self) -> dict[str, str]:
            return {self.get_outputs()[0]: str(FILE)} if self.editable_mode else {}

    return WriteBuildStamp
