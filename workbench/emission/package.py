"""The target ``wheel``: a run's winners become a project folder and its wheel."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tiles.kernels import kernel
from workbench.emission import configs, evidence, project
from workbench.emission.naming import MAX_NAME, check_file_part, check_package_name
from workbench.emission.patching import PATCH_FILES, patches
from workbench.emission.selection import Selection, check_sources, select
from workbench.emission.wheel import build_wheel
from workbench.emission.winners import TunedEntry, families_of, template_folder
from workbench.emission.writing import (
    check_absent,
    copy_file,
    copy_templates,
    new_folder,
    write_text,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tuning import Run

__all__ = ["VERSION", "EmittedPackage", "emit", "module_files", "write"]

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
    rows: tuple[str, ...] = ()  #: how the M keys were chosen, a line each; empty: all are kept

    @property
    def evidence(self) -> Path:
        """Its EVIDENCE.json."""
        return self.folder / evidence.EVIDENCE

    def lines(self) -> list[str]:
        """What a person is told."""
        lines = [f"package {self.folder}", f"wheel   {self.wheel}", *self.rows]
        if self.without_winner:
            lines.append(f"{self.without_winner} of {self.studies} studies have no winner")
        return lines

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
            **({"rows": list(self.rows)} if self.rows else {}),
        }


def emit(
    run: "Run", out: Path, *, name: str | None = None, rows_loss: float | None = None
) -> EmittedPackage:
    """Write an installable package with the fastest correct configuration of every problem.

    Several families that tuned one problem for the same function compete: the fastest ships.

    The folder appears complete or not at all: it is written under a temporary name and renamed.

    Args:
        run: a finished sweep, or the part of one that has happened.
        out: folder to create.
        name: import name of the package; default ``tile_kernels_<gpu>``.
        rows_loss: keep as few M as lookup needs to lose at most this much (0.02: 2 %).
    Raises:
        ValueError: ``out`` exists, the name may not be one, no study of a kernel that can be
            emitted has a correct configuration, or no M keep the loss.
    """
    check_absent(out)
    chosen = select(run, rows_loss=rows_loss)
    name = check_package_name(_default_name(chosen.entries) if name is None else name)
    with new_folder(out) as folder:
        record = _write(folder, name, chosen, run)
        wheel = build_wheel(folder)
    return EmittedPackage(
        name=name,
        folder=out,
        wheel=out / "dist" / wheel.name,
        entries=len(chosen.entries),
        studies=len(chosen.entries) + len(chosen.left),
        without_winner=sum(not one.has_winner for one in chosen.left),
        simulated=record["simulated"],
        rows=tuple(map(str, chosen.rows)),
    )


write = emit


def _default_name(entries: "Sequence[TunedEntry]") -> str:
    gpu = check_file_part(entries[0].study.gpu, "gpu")
    name = "tile_kernels_" + gpu.replace("-", "_").replace(".", "_")
    return name[:MAX_NAME].rstrip("_")


def module_files(entries: "Sequence[TunedEntry]") -> list[str]:
    """Static files of the module that the entries need, relative to ``package_files``."""
    files = ["__init__.py", "_lookup.py", "kernels/__init__.py"]
    for function in dict.fromkeys(entry.function for entry in entries):
        tuned = {entry.study.kernel for entry in entries if entry.function is function}
        files += function.files(tuned)
    for name in {name for entry in entries for name in families_of(entry)}:
        files.append(f"kernels/{template_folder(kernel(name))}/__init__.py")
    return list(dict.fromkeys(files))


def _write(folder: Path, name: str, chosen: Selection, run: "Run") -> dict[str, Any]:
    """Everything but the wheel; returns the evidence."""
    entries = chosen.entries
    module = folder / "src" / name
    for file, text in configs.config_files(entries).items():
        write_text(module / "configs" / file, text)
    check_sources(run, entries)
    extra = PATCH_FILES if patches(entries) else ()
    for file in (*module_files(entries), *extra):
        copy_file(_HERE / "package_files" / file, module / file)
    write_text(module / "py.typed", "")
    templates = copy_templates(entries, folder, f"src/{name}")
    copy_file(_HERE / "project_files" / "test_package.py", folder / "tests" / "test_package.py")
    if {entry.function.name for entry in entries} & _OPERATORS:
        source = _HERE / "project_files" / "test_operators.py"
        copy_file(source, folder / "tests" / "test_operators.py")
    copy_file(_HERE / "project_files" / "benchmark.py", folder / "benchmarks" / "benchmark.py")
    write_text(folder / "pyproject.toml", project.pyproject_text(name, VERSION, entries))
    write_text(folder / "LICENSE", project.license_text())

    def record(files: dict[str, str]) -> dict[str, Any]:
        return evidence.evidence(
            name=name,
            package_version=VERSION,
            chosen=chosen,
            templates=templates if files else {},
            files=files,
        )

    write_text(folder / "README.md", project.readme_text(name, entries, record({})))
    found = record(evidence.digests(folder))
    text = json.dumps(found, indent=1, allow_nan=False) + "\n"
    # One copy for who reads the folder, the same bytes again for who has the wheel alone.
    write_text(folder / evidence.EVIDENCE, text)
    write_text(module / evidence.EVIDENCE, text)
    return found
