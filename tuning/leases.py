"""Who is at work in a run folder: a file for each process, locked while it lives.

The kernel drops the lock when the process dies, however it dies, so a trial whose process is gone
is known at once, without clocks and waiting.
"""

import contextlib
import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self

__all__ = ["SUFFIX", "Lease", "anyone_alive", "is_alive"]

SUFFIX = ".lease"


def _path(folder: Path, name: str) -> Path:
    return folder / f"{name}{SUFFIX}"


class Lease:
    """This process's lease on a run folder; ends with :meth:`release` or with the process.

    Args:
        name: unique; what the trials of this process are known by.

    Raises:
        OSError: the folder cannot be written.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._path = _path(folder, name)
        # Locked before it has its name: nobody finds it without an owner.
        temporary = self._path.with_name(self._path.name + ".tmp")
        self._fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.write(self._fd, f"{os.getpid()}\n".encode())
            temporary.rename(self._path)
        except BaseException:
            os.close(self._fd)
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise

    def release(self) -> None:
        """Give the lease back."""
        with contextlib.suppress(OSError):
            self._path.unlink()
        os.close(self._fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()


def is_alive(folder: Path, name: str) -> bool:
    """True while the process of that lease lives; removes the file that a dead one left."""
    return _lives(_path(folder, name))


def _lives(path: Path) -> bool:
    try:
        fd = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        with contextlib.suppress(OSError):
            path.unlink()
        return False
    finally:
        os.close(fd)


def anyone_alive(folder: Path) -> bool:
    """True while any process is at work in the folder."""
    return any(_lives(path) for path in folder.glob(f"*{SUFFIX}"))
