"""The PEP 517 and PEP 660 hooks: those of setuptools, run with the torch of the target environment within reach.

Listing torch in ``build-system.requires`` would make every isolated build download a torch and compile against that
one, which is seldom the one that will run. So torch is asked for only when the target environment has none.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from setuptools import build_meta

from vae_fused_build.settings import TORCH_REQUIREMENT, extension_wanted
from vae_fused_build.torch_site import find_torch_site, make_importable

ConfigSettings = dict[str, Any] | None


@contextmanager
def _without_extension() -> Iterator[None]:
    """Metadata and the sdist do not depend on the kernels, so neither may need torch."""
    before = dict(os.environ)
    os.environ["VAE_FUSED_NO_EXT"] = "1"
    os.environ.pop("FORCE_CUDA", None)  # the two contradict each other
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _torch_if_missing() -> list[str]:
    if not extension_wanted(os.environ) or find_torch_site(os.environ) is not None:
        return []
    return [TORCH_REQUIREMENT]


def get_requires_for_build_wheel(config_settings: ConfigSettings = None) -> list[str]:
    return _torch_if_missing()


def get_requires_for_build_editable(config_settings: ConfigSettings = None) -> list[str]:
    return _torch_if_missing()


def get_requires_for_build_sdist(config_settings: ConfigSettings = None) -> list[str]:
    return []


def prepare_metadata_for_build_wheel(metadata_directory: str, config_settings: ConfigSettings = None) -> str:
    with _without_extension():
        return build_meta.prepare_metadata_for_build_wheel(metadata_directory, config_settings)


def prepare_metadata_for_build_editable(metadata_directory: str, config_settings: ConfigSettings = None) -> str:
    with _without_extension():
        return build_meta.prepare_metadata_for_build_editable(metadata_directory, config_settings)


def build_sdist(sdist_directory: str, config_settings: ConfigSettings = None) -> str:
    with _without_extension():
        return build_meta.build_sdist(sdist_directory, config_settings)


def build_wheel(
    wheel_directory: str, config_settings: ConfigSettings = None, metadata_directory: str | None = None
) -> str:
    make_importable(os.environ)
    return build_meta.build_wheel(wheel_directory, config_settings, metadata_directory)


def build_editable(
    wheel_directory: str, config_settings: ConfigSettings = None, metadata_directory: str | None = None
) -> str:
    make_importable(os.environ)
    return build_meta.build_editable(wheel_directory, config_settings, metadata_directory)
