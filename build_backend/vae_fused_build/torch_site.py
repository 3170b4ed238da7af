"""Finds the torch that is already installed, from inside an isolated build.

pip runs an isolated build with the target environment's own interpreter, but with that environment's site-packages
taken off ``sys.path``. ``sysconfig`` and ``site`` still know where they are.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import site
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path

from vae_fused_build.settings import MINIMUM_TORCH, SettingError

ALREADY_IMPORTABLE = Path()


def find_torch_site(environ: Mapping[str, str]) -> Path | None:
    """The directory to import torch from.

    Returns:
        ``ALREADY_IMPORTABLE`` where nothing needs to be added to ``sys.path``, a site-packages directory that holds a
        torch, or None where there is no torch.

    Raises:
        SettingError: ``VAE_FUSED_TORCH_SITE`` names a directory without torch.
    """
    if importlib.util.find_spec("torch") is not None:
        return ALREADY_IMPORTABLE
    if named := environ.get("VAE_FUSED_TORCH_SITE"):
        if not _holds_torch(Path(named)):
            raise SettingError(f"VAE_FUSED_TORCH_SITE={named} should be a site-packages directory with torch in it")
        return Path(named)
    candidates = [*interpreter_sites(), *environment_sites(environ)]
    return next((directory for directory in candidates if _holds_torch(directory)), None)


def make_importable(environ: Mapping[str, str]) -> None:
    """Let ``import torch`` find the torch of :func:`find_torch_site`.

    The directory goes to the end of ``sys.path``: setuptools and everything else that the isolated environment
    provides still comes from there, and only torch and its dependencies come from the target environment.
    """
    directory = find_torch_site(environ)
    if directory is not None and directory != ALREADY_IMPORTABLE:
        check_torch_version(directory)
        sys.path.append(str(directory))


def interpreter_sites() -> Iterator[Path]:
    """The running interpreter's own site-packages directories, as it would have them without isolation."""
    yield Path(sysconfig.get_path("purelib"))
    yield Path(sysconfig.get_path("platlib"))
    yield from map(Path, site.getsitepackages())
    if sys.prefix == sys.base_prefix:
        yield Path(site.getusersitepackages())


def environment_sites(environ: Mapping[str, str]) -> Iterator[Path]:
    """The active environment's site-packages, for front ends that build in a virtual environment of their own."""
    python = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for variable in ("VIRTUAL_ENV", "CONDA_PREFIX"):
        if prefix := environ.get(variable):
            yield Path(prefix, "lib", python, "site-packages")
            yield Path(prefix, "Lib", "site-packages")


def check_torch_version(directory: Path) -> None:
    """Raise ``SettingError`` for a torch older than this package supports."""
    for distribution in importlib.metadata.distributions(name="torch", path=[str(directory)]):
        release = re.match(r"(\d+)\.(\d+)", distribution.version)
        if release is not None and tuple(map(int, release.groups())) < MINIMUM_TORCH:
            needed = ".".join(map(str, MINIMUM_TORCH))
            raise SettingError(
                f"vae_fused needs torch {needed} or newer, and {directory} holds torch {distribution.version}. "
                f'Upgrade it first: pip install "torch>={needed}"'
            )


def _holds_torch(directory: Path) -> bool:
    return (directory / "torch" / "__init__.py").is_file()
