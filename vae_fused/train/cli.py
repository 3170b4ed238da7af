"""The entry point ``vae-fused``: runs the commands and turns every expected error into one line and an exit code."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from vae_fused.train.errors import InputError, MissingExtraError, TrainingError


def _fail(message: str, exit_code: int) -> int:
    print("vae-fused:", " ".join(message.split()), file=sys.stderr)
    return exit_code


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``vae-fused`` and return its exit code.

    Args:
        arguments: the command line without the program's name; by default that of the process.

    Returns:
        0 on success; 1 if data, a path or a device cannot be used or training fails; 2 for a wrong command line;
        130 after an interrupt. Errors are one line on stderr.

    Example:
        >>> main(["info"])  # doctest: +SKIP
        0
    """
    try:
        # Imported here because the commands need the extra [train], and its absence deserves one line too.
        from vae_fused.train import commands
    except MissingExtraError as error:
        return _fail(str(error), 1)
    try:
        return commands.run(arguments)
    except commands.UsageError as error:
        return _fail(f"{commands.usage_message(error)} (see vae-fused --help)", 2)
    except (InputError, TrainingError, MissingExtraError, OSError) as error:
        return _fail(str(error), 1)
    except (KeyboardInterrupt, commands.Abort):
        return _fail("interrupted", 130)
