"""One calibration at a time in a folder: two would time each other and write the same record."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

__all__ = ["LOCK", "alone_in"]

#: Locked by the calibration at work; the kernel drops the lock when it dies, however it dies.
LOCK = "calibrate.lock"


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold a folder, made when it is missing, against other calibrations.

    Raises:
        ValueError: another one is at work there, or the folder cannot be written.
    """
    path = folder / LOCK
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise ValueError(
            f"{path}: cannot be written: {error.strerror}: choose another folder"
        ) from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(
                f"{folder}: another calibration is at work there: wait for it, or choose another "
                "folder"
            ) from error
        yield
    finally:
        os.close(lock)
