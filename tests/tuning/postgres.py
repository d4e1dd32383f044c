"""A private PostgreSQL server for a test: own folder, free port, gone afterwards."""

import os
import random
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

__all__ = ["MARKS", "PASSWORD", "Server"]

PASSWORD = "s3cret-word"


def _binaries() -> Path | None:
    """The folder of initdb and pg_ctl, which Debian keeps out of the search path."""
    found = shutil.which("pg_ctl")
    if found:
        return Path(found).parent
    versions = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"), key=lambda p: float(p.parts[-3])
    )
    return versions[-1].parent if versions else None


BINARIES = _binaries()
#: Of a test module that takes the fixture ``server``.
MARKS = [
    pytest.mark.slow,
    pytest.mark.skipif(BINARIES is None, reason="PostgreSQL's server is not installed"),
]


def _free_port() -> int:
    """Below those that the system hands out: while a server is down none of these takes its own."""
    for port in random.SystemRandom().sample(range(10_000, 30_000), 100):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError("no free port")


class Server:
    """A context manager; the server runs as ``postgres`` where this process is root."""

    def __init__(self) -> None:
        assert BINARIES is not None
        self._as = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        self._folder = Path(tempfile.mkdtemp(prefix="tile-workbench-postgres-"))
        self.port = _free_port()

    @property
    def url(self) -> str:
        user = "postgres"
        return f"postgresql+psycopg://{user}:{PASSWORD}@127.0.0.1:{self.port}/postgres"

    def _run(self, name: str, *arguments: str) -> None:
        assert BINARIES is not None
        subprocess.run(
            [*self._as, str(BINARIES / name), *arguments],
            check=True,
            capture_output=True,
            cwd="/",
            timeout=600,
        )

    def start(self) -> None:
        options = f"-h 127.0.0.1 -p {self.port} -k {self._folder} -c fsync=off"
        self._run(
            *("pg_ctl", "-D", str(self._folder / "data"), "-w", "-t", "300"),
            *("-l", str(self._folder / "log")),
            *("-o", options, "start"),
        )

    def stop(self) -> None:
        self._run("pg_ctl", "-D", str(self._folder / "data"), "-m", "fast", "-w", "stop")

    def restart(self, down_s: float = 1.0) -> None:
        """Down for a while: connections break, and new ones are refused."""
        self.stop()
        time.sleep(down_s)
        self.start()

    def __enter__(self) -> Self:
        secret = self._folder / "secret"
        secret.write_text(PASSWORD)
        if self._as:
            shutil.chown(self._folder, "postgres")
            shutil.chown(secret, "postgres")
        self._run(
            *("initdb", "-D", str(self._folder / "data"), "-U", "postgres"),
            *("--auth=scram-sha-256", f"--pwfile={secret}", "--no-sync"),
        )
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        subprocess.run(
            [
                *(*self._as, str(BINARIES / "pg_ctl") if BINARIES else ""),
                *("-D", str(self._folder / "data"), "-m", "immediate", "-w", "stop"),
            ],
            capture_output=True,
            cwd="/",
        )
        shutil.rmtree(self._folder, ignore_errors=True)
