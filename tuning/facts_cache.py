"""Compile facts on disk, so that nothing is compiled twice to learn the same.

An entry belongs to one source, compiler, GPU architecture, problem and configuration.  Several
processes may read and write at once; what cannot be read counts as absent.
"""

import contextlib
import functools
import hashlib
import inspect
import json
import os
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tiles.kernels import Backend, ConfigTable, Kernel, Limits, TileConfig
from tiles.kernels.closure import source_digest
from tiles.kernels.compile_facts import CompileFacts
from tiles.problems import Problem
from tuning.cache_folder import cache_folder

__all__ = ["FactsCache"]

SCHEMA = "tile-workbench/compile-facts/1"
#: Variables with these beginnings change what Triton makes; those that only name places do not.
_COMPILER_VARIABLES = ("TRITON_", "LLVM_", "MLIR_", "PTXAS_", "DISABLE_")
_PLACES = ("TRITON_CACHE_DIR", "TRITON_HOME", "TRITON_DUMP_DIR", "TRITON_CACHE_MANAGER")


class FactsCache:
    """Facts by configuration, one small file each.

    Args:
        folder: ``compile-facts`` in the user's cache folder when not given.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder or cache_folder() / "compile-facts"

    def get(
        self, kernel: Kernel, problem: Problem, config: TileConfig, limits: Limits
    ) -> CompileFacts | None:
        """Facts of one configuration; None when they are not known."""
        topic = _topic(kernel, problem, limits)
        return None if topic is None else self._read(self._path(topic, config))

    def put(
        self,
        kernel: Kernel,
        problem: Problem,
        config: TileConfig,
        limits: Limits,
        facts: CompileFacts,
    ) -> None:
        """Keep facts; a disk that is full or read-only keeps none."""
        topic = _topic(kernel, problem, limits)
        if topic is None:
            return
        path = self._path(topic, config)
        entry = {
            "schema": SCHEMA,
            "kernel": kernel.name,
            "problem": str(problem),
            "config": config.to_dict(),
            "facts": facts.to_dict(),
        }
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            fd, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".tmp")
            try:
                with os.fdopen(fd, "w") as file:
                    json.dump(entry, file)
                os.replace(temporary, path)
            except OSError:
                os.unlink(temporary)

    def known(
        self, kernel: Kernel, problem: Problem, table: ConfigTable, limits: Limits
    ) -> dict[int, CompileFacts]:
        """Facts of a table's rows as far as they are known; the cost model's optional column."""
        found = {
            row: self.get(kernel, problem, table.config(row), limits) for row in range(len(table))
        }
        return {row: facts for row, facts in found.items() if facts is not None}

    def _path(self, topic: str, config: TileConfig) -> Path:
        words = json.dumps(config.to_dict(), sort_keys=True)
        key = hashlib.sha256(f"{topic}\0{words}".encode()).hexdigest()
        return self._folder / key[:2] / f"{key}.json"

    def _read(self, path: Path) -> CompileFacts | None:
        try:
            entry = json.loads(path.read_bytes())
            if entry["schema"] != SCHEMA:
                return None
            return CompileFacts.from_dict(entry["facts"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None


@functools.lru_cache(maxsize=4096)
def _topic(kernel: Kernel, problem: Problem, limits: Limits) -> str | None:
    """All that facts depend on but the configuration; None without the compiler."""
    compiler = _compiler(kernel.backend)
    if compiler is None:
        return None
    try:
        glue = Path(inspect.getfile(type(kernel))).read_bytes()  # chooses compile-time constants
    except (OSError, TypeError):
        return None  # a class without a file: nothing says when it changes
    parts: list[Any] = [
        *(SCHEMA, kernel.name, source_digest(kernel.template)),
        hashlib.sha256(glue).hexdigest(),
        *(compiler, limits.vendor, limits.capability, sorted(limits.native_elements)),
        str(problem),
    ]
    return json.dumps(parts)


def _compiler(backend: Backend) -> str | None:
    """Name, version and settings of what compiles; None when it is not there."""
    if backend is Backend.HOST:
        return "host"
    if backend is Backend.CUPY:
        from tiles.kernels.nvrtc import compiler_name

        return compiler_name()
    try:
        name = f"triton {version('triton')}"
    except PackageNotFoundError:
        return None
    settings = {
        key: value
        for key, value in os.environ.items()
        if key.startswith(_COMPILER_VARIABLES) and key not in _PLACES
    }
    return f"{name} {json.dumps(settings, sort_keys=True)}"
