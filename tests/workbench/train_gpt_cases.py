"""What the tests of the training comparison share."""

from dataclasses import replace
from pathlib import Path

from bench.train_gpt.settings import SMOKE, Settings

__all__ = ["WORDS", "settings", "write_files"]

WORDS = "the quick brown fox jumps over the lazy dog and reads what stands below it\n"


def write_files(folder: Path, count: int = 60) -> Path:
    """Files of text, each with words of its own."""
    for number in range(count):
        path = folder / f"part{number % 7}" / f"file{number}.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"chapter {number:b}\n" + WORDS * (8 + number), encoding="utf-8")
    return folder


def settings(**changes: object) -> Settings:
    """Of a tiny training."""
    return replace(SMOKE, **changes)  # type: ignore[arg-type]
