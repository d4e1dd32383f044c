"""What was measured so far: files of passes, one for each process and call, never rewritten.

A *pass* is one measurement of one configuration; the passes of a configuration lie some seconds
apart, with the other configurations of its study between them.  A file begins with a line about
where and how, and has a line a pass behind it; a process that dies leaves a torn last line at most.
"""

import contextlib
import gzip
import itertools
import json
import os
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from tuning.records import Environment, Measurement

__all__ = ["Head", "Pass", "PassFile", "read_passes"]

SCHEMA = "tile-workbench/passes/2"
SUFFIX, COMPRESSED = ".jsonl", ".jsonl.gz"


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """Where and how all passes of a file were taken."""

    gpu: str
    simulated: bool
    sampling_ms: float  #: device time that the samples of a pass aim to cover
    begun: str  #: ISO 8601, UTC
    shard: str  #: "0/2": the first of two processes
    environment: Environment

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready mapping, inverse of :meth:`from_dict`."""
        plain = {name: getattr(self, name) for name in self.__slots__ if name != "environment"}
        return {"schema": SCHEMA, **plain, "environment": self.environment.to_dict()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Head":
        """Read what :meth:`to_dict` wrote.

        Raises:
            ValueError: of another schema.
        """
        if data["schema"] != SCHEMA:
            raise ValueError(f"its schema is {data['schema']!r}, this version reads {SCHEMA!r}")
        rest = {name: data[name] for name in cls.__slots__ if name != "environment"}
        return cls(**rest, environment=Environment.from_dict(data["environment"]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """One measurement of one configuration."""

    study: str  #: a key of the design's
    config: Mapping[str, int | bool]  #: by field, so that types may grow fields with a default
    number: int  #: 0 is the one that checked the answer
    source: str  #: SHA-256 of the kernel source that ran
    measurement: Measurement
    seconds: float | None = None  #: that it took, waiting for a compiler and opening included

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready mapping, inverse of :meth:`from_dict`."""
        return {
            "study": self.study,
            "config": dict(self.config),
            "pass": self.number,
            "source": self.source,
            "seconds": self.seconds,
            "measurement": self.measurement.to_dict(),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Pass":
        """Read what :meth:`to_dict` wrote."""
        return cls(
            study=data["study"],
            config=dict(data["config"]),
            number=data["pass"],
            source=data["source"],
            measurement=Measurement.from_dict(data["measurement"]),
            seconds=data.get("seconds"),  # files of before this was told have none
        )


class PassFile:
    """A file that passes are appended to; compressed when it is closed in order."""

    def __init__(self, folder: Path, name: str, head: Head) -> None:
        """Create a file of that name, or of one with a number where an earlier call took it."""
        folder.mkdir(parents=True, exist_ok=True)
        names = itertools.chain((name,), (f"{name}-{number}" for number in itertools.count(2)))
        free = (one for one in names if not any(folder.glob(f"{one}{SUFFIX}*")))
        self._path = folder / (next(free) + SUFFIX)
        self._stream: IO[str] = self._path.open("x", encoding="utf-8")
        self._write(head.to_dict())
        self.count = 0

    def append(self, one: Pass) -> None:
        """Write a pass through to the system, so that a killed process loses none."""
        self._write(one.to_dict())
        self.count += 1

    def _write(self, content: Mapping[str, Any]) -> None:
        self._stream.write(json.dumps(content, separators=(",", ":")) + "\n")
        self._stream.flush()

    def close(self) -> None:
        """Compress what was written, or remove a file that holds no pass.

        On a full disk the file stays as it is: it is read whether compressed or not.
        """
        temporary = self._path.with_suffix(".tmp")
        try:
            with contextlib.suppress(OSError):  # the line that did not fit; it was told
                self._stream.close()
            if self.count:
                temporary.write_bytes(gzip.compress(self._path.read_bytes(), mtime=0))
                os.replace(temporary, self._path.with_suffix(COMPRESSED))
            self._path.unlink()
        except OSError:
            temporary.unlink(missing_ok=True)


def read_passes(folder: Path) -> Iterator[tuple[Head, list[Pass]]]:
    """Every file of a folder, in the order of names; a torn last line is passed over.

    Raises:
        ValueError: a file is damaged elsewhere, or of another schema.
    """
    for path in sorted(folder.glob("*" + SUFFIX)) + sorted(folder.glob("*" + COMPRESSED)):
        if path.name.endswith(SUFFIX) and path.with_suffix(COMPRESSED).exists():
            continue  # killed between compressing and removing
        try:
            data = path.read_bytes()
            if path.name.endswith(COMPRESSED):
                data = gzip.decompress(data)
            lines = data.decode("utf-8", "replace").split("\n")
            whole = [json.loads(line) for line in lines[:-1]]  # what follows the last line end
            if whole:
                yield Head.from_dict(whole[0]), [Pass.from_dict(one) for one in whole[1:]]
        except (OSError, EOFError, KeyError, TypeError, ValueError, zlib.error) as error:
            raise ValueError(
                f"{path}: damaged: {type(error).__name__}: {error}: move it away to go on without"
            ) from error
