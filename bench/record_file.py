"""Files of what a command of bench measured in one go: what ran, when and where, and its rows."""

import argparse
import json
import time
from collections.abc import Mapping
from typing import Any

from workbench.outfile import write_outfile

__all__ = ["moment", "write_record"]


def moment() -> str:
    """Now, in UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def write_record(
    arguments: argparse.Namespace,
    content: Mapping[str, Any],
    *,
    schema: str,
    command: str,
    started: str,
    environment: Mapping[str, Any],
) -> None:
    """Write ``--output``, where it was given.

    Args:
        arguments: with ``output``, ``gpu``, ``dry_run`` and ``commit``.
        content: what this command has to say; no NaN.
        command: as it was called.
        started: :func:`moment` before the first measurement.
    """
    if arguments.output is None:
        return
    head = {
        "schema": schema,
        "gpu": arguments.gpu,
        "dry_run": arguments.dry_run,
        "commit": arguments.commit,
        "command": command,
        "started": started,
        "environment": environment,
    }
    text = json.dumps({**head, **content}, indent=1, allow_nan=False)
    write_outfile(arguments.output, text + "\n")
