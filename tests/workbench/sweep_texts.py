"""Sweep files as texts."""

from pathlib import Path

import pytest

from workbench.sweepfile import load_sweepfile

MINIMAL = """\
schema: 1
gpu: h200
problems:
  - {shape: [512, 1024, 2048]}
recipes: [bf16, e4m3-row]
output: runs/minimal
"""


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "sweep.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def refused(folder: Path, text: str | bytes) -> str:
    """The message of a refused file, without its name."""
    path = written(folder, text)
    with pytest.raises(ValueError, match=r"sweep\.yaml") as caught:
        load_sweepfile(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")
