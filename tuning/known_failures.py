"""What failed before, in any study of this user: it is not launched again."""

import contextlib
import fcntl
import hashlib
import inspect
import json
import os
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tiles.kernels import Kernel, Status, TileConfig
from tiles.kernels.closure import source_digest
from tuning.cache_folder import cache_folder
from tuning.family import family
from tuning.plan import Plan, StudyPlan
from tuning.records import Environment, Measurement

__all__ = ["FAILURES_FILE", "KnownFailures", "failures_path"]

FAILURES_FILE = "known-failures.jsonl"
SCHEMA = "tile-workbench/known-failure/1"

#: With another version of these the same configuration may pass.
_VERSIONS = ("torch", "triton", "cuda", "nvrtc", "cupy", "tile-workbench")
#: A cache that has grown beyond this begins anew with its younger half.
_MAX_BYTES = 8 * 2**20


def failures_path() -> Path:
    """The file that this user's sweeps share."""
    return cache_folder() / FAILURES_FILE


class KnownFailures:
    """Failures of a plan's kernels on one device, remembered in a file across studies.

    A failure belongs to the kernel's source, what opens and judges it, the configuration, the
    problem, the device and the versions of torch, triton, CUDA, NVRTC, cupy and the workbench.  The
    file is a cache: it may be deleted at any time, lines that cannot be read are passed over, and
    where it cannot be written nothing is remembered.

    Args:
        trust: False launches everything again; what fails is remembered still.
    """

    def __init__(self, plan: Plan, *, trust: bool = True) -> None:
        kernels = {study.kernel: family(study.kernel) for study in plan.studies}
        self._sources = {
            name: [source_digest(kernel.template), _judges_digest(kernel)]
            for name, kernel in kernels.items()
        }
        self._cache = plan.cache
        self._path = failures_path()
        self._known = _read(self._path) if trust else {}

    def known(
        self, study: StudyPlan, config: TileConfig, environment: Environment
    ) -> Measurement | None:
        """The outcome that is known already, or None."""
        entry = self._known.get(self._key(study, config, environment))
        if entry is None:
            return None
        return Measurement(
            status=Status(entry["status"]),
            simulated=False,
            reason=f"known failure of {entry['date']}: {entry['reason']}",
        )

    def remember(
        self, study: StudyPlan, config: TileConfig, environment: Environment, outcome: Measurement
    ) -> None:
        """Add a failure to the file."""
        entry = {
            "schema": SCHEMA,
            "key": self._key(study, config, environment),
            "date": datetime.now(tz=UTC).date().isoformat(),
            "status": outcome.status.value,
            "reason": outcome.reason,
            "problem": str(study.problem),
            "kernel": study.kernel,
            "config": config.to_dict(),
            "gpu": environment.gpu,
        }
        with contextlib.suppress(OSError):  # a cache on a full disk is no reason to stop
            _append(self._path, json.dumps(entry))

    def _key(self, study: StudyPlan, config: TileConfig, environment: Environment) -> str:
        parts = {
            "source": self._sources[study.kernel],
            "kernel": study.kernel,
            "problem": str(study.problem),
            "config": config.to_dict(),
            "cache": self._cache,
            "gpu": environment.gpu,
            "driver": environment.driver,
            "versions": {name: environment.versions.get(name) for name in _VERSIONS},
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _judges_digest(kernel: Kernel) -> str:
    """SHA-256 of what stands beside a descriptor and its bases: workloads, references, bounds.

    A failure may be theirs.  All of it, since a failure that is forgotten costs one launch.
    """
    folders = set()
    for base in type(kernel).__mro__:
        if issubclass(base, Kernel):
            with contextlib.suppress(OSError, TypeError):  # a class without a file
                folders.add(Path(inspect.getfile(base)).parent)
    digest = hashlib.sha256()
    for file in sorted(file for folder in folders for file in folder.glob("*.py")):
        with contextlib.suppress(OSError):
            content = file.read_bytes()
            digest.update(f"{file.name}\0{len(content)}\0".encode())
            digest.update(content)
    return digest.hexdigest()


def _read(path: Path) -> dict[str, Mapping[str, Any]]:
    """Entries by key, the youngest of each."""
    try:
        data = path.read_bytes()
    except OSError:
        return {}
    entries = {}
    failed = {status.value for status in Status} - {Status.CORRECT.value}
    for line in data.splitlines():
        try:
            entry = json.loads(line)
            sound = entry["schema"] == SCHEMA and entry["status"] in failed
            texts = [entry[name] for name in ("key", "date", "reason")]
        except (ValueError, RecursionError, KeyError, TypeError):
            continue
        if sound and all(isinstance(text, str) for text in texts):
            entries[entry["key"]] = entry
    return entries


def _append(path: Path, line: str) -> None:
    """Add a line as a whole, also when several processes do so at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        size = os.fstat(fd).st_size
        if size > _MAX_BYTES:
            kept = os.pread(fd, size, size // 2).partition(b"\n")[2]
            _replace(path, kept + line.encode() + b"\n")
            return
        # A process that was killed may have left half a line: it must not spoil this one.
        cut = size > 0 and os.pread(fd, 1, size - 1) != b"\n"
        os.write(fd, (b"\n" if cut else b"") + line.encode() + b"\n")
    finally:
        os.close(fd)


def _replace(path: Path, data: bytes) -> None:
    """Give the file other content at one blow.

    A process that waits for the old file's lock then writes its line to a file without a name:
    that line is lost, as any may be of a cache.
    """
    temporary, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".tmp")
    try:
        with os.fdopen(temporary, "wb") as file:
            file.write(data)
        os.replace(name, path)
    except OSError:
        os.unlink(name)
        raise
