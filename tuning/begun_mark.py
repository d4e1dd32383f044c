"""The mark beside a journal that something was recorded in it.

A journal that was cut to nothing looks like one whose sweep was stopped at its very start; by the
mark they are told apart.
"""

from pathlib import Path

__all__ = ["SUFFIX", "check_begun", "is_begun", "mark_begun", "unmark_begun"]

SUFFIX = ".begun"


def _mark(journal: Path) -> Path:
    return journal.with_name(journal.name + SUFFIX)


def is_begun(journal: Path) -> bool:
    """Whether something was recorded in a journal."""
    return _mark(journal).exists()


def mark_begun(journal: Path) -> None:
    """Note that a journal holds records; once they are on disk, lest a crash leaves the mark alone.

    Raises:
        OSError: the folder cannot be written.
    """
    _mark(journal).touch()


def unmark_begun(journal: Path) -> None:
    """Take the mark back, because what was recorded has been set aside.

    Raises:
        OSError: the folder cannot be written.
    """
    _mark(journal).unlink(missing_ok=True)


def check_begun(journal: Path) -> None:
    """Refuse a journal that has lost all that was recorded in it.

    Raises:
        ValueError: it is missing or empty, and has held records.
    """
    lost = "" if journal.exists() else "is missing"
    if journal.is_file() and not journal.stat().st_size:
        lost = "is empty"
    if lost and is_begun(journal):
        raise ValueError(
            f"{journal}: {lost}, but its sweep has recorded results: bring back a copy, or sweep "
            "into another output"
        )
