"""Emission: a run's winners become a project folder and its wheel."""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tiles.kernels import kernel
from tiles.kernels.closure import source_digest, template_closure
from workbench.emission import configs, evidence, project
from workbench.emission.functions import EMITTED
from workbench.emission.naming import MAX_NAME, check_file_part, check_package_name
from workbench.emission.not_emitted import NotEmitted, not_emitted
from workbench.emission.wheel import build_wheel
from workbench.emission.winners import (
    TunedEntry,
    families_of,
    fastest,
    obstacle,
    template_folder,
)
from workbench.outfile import check_name, unwritable

if TYPE_CHECKING:
    from tuning import Run

__all__ = ["EmittedPackage", "emit"]

VERSION = "0.1.0"
_HERE = Path(__file__).parent
#: Functions that ``project_files/test_operators.py`` asks.
_OPERATORS = frozenset({"batched_gemm", "dataflow", "dequantize", "grouped_gemm", "transpose"})


@dataclass(frozen=True, slots=True, kw_only=True)
class EmittedPackage:
    """A package on disk."""

    name: str
    folder: Path
    wheel: Path
    entries: int  #: tuned entries
    studies: int  #: studies that the run planned
    without_winner: int  #: of them, those without a correct configuration, searched or not
    simulated: bool  #: some entry was never measured

    @property
    def evidence(self) -> Path:
        """Its EVIDENCE.json."""
        return self.folder / evidence.EVIDENCE

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready mapping."""
        return {
            "schema": "tile-workbench/emitted/1",
            "name": self.name,
            "folder": str(self.folder),
            "wheel": str(self.wheel),
            "entries": self.entries,
            "studies": self.studies,
            "without_winner": self.without_winner,
            "simulated": self.simulated,
        }


def emit(run: "Run", out: Path, *, name: str | None = None) -> EmittedPackage:
    """Write an installable package with the fastest correct configuration of every problem.

    Several families that tuned one problem for the same function compete: the fastest ships.

    The folder appears complete or not at all: it is written under a temporary name and renamed.

    Args:
        run: a finished sweep, or the part of one that has happened.
        out: folder to create.
        name: import name of the package; default ``tile_kernels_<gpu>``.
    Raises:
        ValueError: ``out`` exists, the name may not be one, or no study of a kernel that can be
            emitted has a correct configuration.
    """
    check_name(out)
    with unwritable(out):
        exists = os.path.lexists(out)
    if exists:
        raise ValueError(f"{out} exists and is left as it is: choose another output folder")
    entries, slower = fastest(_entries(run))
    name = check_package_name(_default_name(entries) if name is None else name)
    with unwritable(out), _workplace(out) as temporary:
        folder = temporary / "package"
        folder.mkdir()
        left = not_emitted(run, slower)
        record = _write(folder, name, entries, left, run)
        wheel = build_wheel(folder)
        if os.path.lexists(out):
            raise ValueError(f"{out} appeared meanwhile and is left as it is: emit again elsewhere")
        folder.rename(out)
    return EmittedPackage(
        name=name,
        folder=out,
        wheel=out / "dist" / wheel.name,
        entries=len(entries),
        studies=len(entries) + len(left),
        without_winner=sum(not one.has_winner for one in left),
        simulated=record["simulated"],
    )


@contextlib.contextmanager
def _workplace(out: Path) -> Iterator[Path]:
    """A temporary folder beside ``out``, so that the finished package is renamed, not copied."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".workbench-", dir=out.parent) as temporary:
        yield Path(temporary)


def _check_sources(run: "Run", entries: list[TunedEntry]) -> None:
    """What ships must be what was measured."""
    measured = run.plan.get("sources", {})
    for entry in entries:
        name = entry.study.kernel
        if measured.get(name) != source_digest(entry.kernel.template):
            raise ValueError(
                f"{run.folder}: the source of {name} is not the one that was swept: sweep again "
                "into another folder, then emit"
            )


def _entries(run: "Run") -> list[TunedEntry]:
    """The winners of the studies whose kernels a package has a function for."""
    entries = [
        TunedEntry(study=study, best=study.best, gpu=run.gpu)
        for study in run.studies
        if study.best is not None
    ]
    if not entries:
        raise ValueError(
            "no study of this run has a correct configuration yet: sweep on, then emit"
        )
    emitted = [entry for entry in entries if obstacle(entry.study, run.gpu) is None]
    if not emitted:
        name = entries[0].study.kernel
        if name in EMITTED:
            raise ValueError(
                f"{entries[0].problem} with {name} cannot be emitted: "
                f"{obstacle(entries[0].study, run.gpu)}"
            )
        raise ValueError(
            f"kernel {name!r} cannot be emitted, only {', '.join(EMITTED)}: "
            "sweep one of these too, then emit"
        )
    return emitted


def _default_name(entries: list[TunedEntry]) -> str:
    gpu = check_file_part(entries[0].study.gpu, "gpu")
    name = "tile_kernels_" + gpu.replace("-", "_").replace(".", "_")
    return name[:MAX_NAME].rstrip("_")


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="\n")


def _module_files(entries: list[TunedEntry]) -> list[str]:
    """Static files of the module that the entries need, relative to ``package_files``."""
    files = ["__init__.py", "_lookup.py", "kernels/__init__.py"]
    for function in dict.fromkeys(entry.function for entry in entries):
        tuned = {entry.study.kernel for entry in entries if entry.function is function}
        files += function.files(tuned)
    for name in {name for entry in entries for name in families_of(entry)}:
        files.append(f"kernels/{template_folder(kernel(name))}/__init__.py")
    return list(dict.fromkeys(files))


def _write(
    folder: Path, name: str, entries: list[TunedEntry], left: list[NotEmitted], run: "Run"
) -> dict[str, Any]:
    """Everything but the wheel; returns the evidence."""
    module = folder / "src" / name
    families = sorted({family for entry in entries for family in families_of(entry)})
    for file, text in configs.config_files(entries).items():
        _write_text(module / "configs" / file, text)
    _check_sources(run, entries)
    for file in _module_files(entries):
        _copy(_HERE / "package_files" / file, module / file)
    _write_text(module / "py.typed", "")
    templates = {}
    for family in map(kernel, families):
        for source in template_closure(family.template):
            path = f"src/{name}/kernels/{template_folder(family)}/{source.name}"
            _copy(source, folder / path)
            templates[path] = family.name
    _copy(_HERE / "project_files" / "test_package.py", folder / "tests" / "test_package.py")
    if {entry.function.name for entry in entries} & _OPERATORS:
        source = _HERE / "project_files" / "test_operators.py"
        _copy(source, folder / "tests" / "test_operators.py")
    _copy(_HERE / "project_files" / "benchmark.py", folder / "benchmarks" / "benchmark.py")
    _write_text(folder / "pyproject.toml", project.pyproject_text(name, VERSION, entries))
    _write_text(folder / "LICENSE", project.license_text())

    def record(files: dict[str, str]) -> dict[str, Any]:
        return evidence.evidence(
            name=name,
            package_version=VERSION,
            entries=entries,
            left=left,
            templates=templates if files else {},
            files=files,
        )

    _write_text(folder / "README.md", project.readme_text(name, entries, record({})))
    found = record(evidence.digests(folder))
    text = json.dumps(found, indent=1, allow_nan=False) + "\n"
    # One copy for who reads the folder, the same bytes again for who has the wheel alone.
    _write_text(folder / evidence.EVIDENCE, text)
    _write_text(module / evidence.EVIDENCE, text)
    return found
