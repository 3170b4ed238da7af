"""Adds the extension module to what pyproject.toml declares; the decisions are in build_backend/vae_fused_build."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from setuptools import setup

# The build backend has this on the path already; ``python setup.py`` does not.
sys.path.insert(0, str(Path(__file__).parent / "build_backend"))

from vae_fused_build.settings import SettingError, extension_wanted
from vae_fused_build.stamp import WITHOUT_EXTENSION, build, build_py, build_stamp

try:
    if extension_wanted(os.environ):
        from vae_fused_build.extension import plan_build

        planned = plan_build(os.environ)
        setup(
            ext_modules=[planned.extension],
            cmdclass={
                "build": build,
                "build_py": build_py,
                "build_ext": planned.command,
                "build_stamp": build_stamp(planned.stamp),
            },
        )
    else:
        setup(cmdclass={"build": build, "build_py": build_py, "build_stamp": build_stamp(WITHOUT_EXTENSION)})
except SettingError as error:
    raise SystemExit(f"error: {error}") from None
