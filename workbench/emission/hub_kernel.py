"""The target ``hf-kernels``: a run's winners in Triton as a kernel of Hugging Face's ``kernels``.

The source layout is that of ``build.toml`` edition 5.  ``build/torch-cuda`` is the built form of
the same files, which loads from disk; what is published on the Hub has to come from the library's
own builder.  The module is made of the files of the wheel; it may import the standard library,
torch, triton and itself, so kernels that need CuPy stay out.
"""

import ast
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tiles.intake import shown
from tiles.kernels import Backend, kernel
from tiles.kernels.closure import imported_names
from workbench.emission import configs, evidence, hub_text, project
from workbench.emission.functions import function_of
from workbench.emission.hub_configs import EXTENTS, hub_config_files
from workbench.emission.hub_variant import VARIANT, metadata, variant_digests
from workbench.emission.naming import MAX_NAME, check_file_part, check_package_name
from workbench.emission.package import module_files
from workbench.emission.selection import Selection, check_sources, select
from workbench.emission.winners import obstacle
from workbench.emission.writing import (
    check_absent,
    copy_file,
    copy_templates,
    new_folder,
    write_text,
)

if TYPE_CHECKING:
    from sim import Gpu
    from tuning import Run, StudyRecord

__all__ = ["IMPORTABLE", "EmittedKernel", "check_hub_name", "check_module", "write"]

#: Beside the standard library and the kernel itself.
IMPORTABLE = frozenset({"torch", "triton"})
#: Which syntax the Hub asks for.
SYNTAX = (3, 9)

_HERE = Path(__file__).parent
_NAME = re.compile(r"[a-z][-a-z0-9]*[a-z0-9]")
_REPO = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,95}/[A-Za-z0-9][A-Za-z0-9_.-]{0,95}")
#: Of the static files: what the library's builder writes by itself.
_BUILT = "_ops.py"


@dataclass(frozen=True, slots=True, kw_only=True)
class EmittedKernel:
    """A kernel on disk."""

    name: str
    folder: Path
    variant: Path  #: its built form
    entries: int  #: tuned entries
    left: int  #: studies that the kernel does not hold
    simulated: bool  #: some entry was never measured
    rows: tuple[str, ...]  #: how the M keys were chosen, a line each; empty: all are kept

    def lines(self) -> list[str]:
        """What a person is told."""
        lines = [f"kernel  {self.folder}", f"built   {self.variant}", *self.rows]
        if self.left:
            lines.append(f"{self.left} studies are not in the kernel: CARD.md has the reasons")
        return lines

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready mapping."""
        return {
            "schema": "tile-workbench/emitted-kernel/1",
            "name": self.name,
            "folder": str(self.folder),
            "variant": str(self.variant),
            "entries": self.entries,
            "left": self.left,
            "simulated": self.simulated,
            **({"rows": list(self.rows)} if self.rows else {}),
        }


def check_hub_name(name: str) -> str:
    """The name itself, when it may be a kernel's.

    Raises:
        ValueError: it may not; the message gives the rule.
    """
    if not _NAME.fullmatch(name) or len(name) > MAX_NAME:
        tidy = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:MAX_NAME].rstrip("-")
        hint = f", e.g. {tidy}" if _NAME.fullmatch(tidy) and tidy != name else ""
        raise ValueError(
            f"kernel name {shown(name)}: write 2 to {MAX_NAME} of a-z, 0-9 and -, a letter first, "
            f"no - last{hint}"
        )
    check_package_name(name.replace("-", "_"))
    return name


def write(
    run: "Run",
    output: Path,
    *,
    name: str | None = None,
    repo_id: str | None = None,
    rows_loss: float | None = None,
) -> EmittedKernel:
    """Write a Hub kernel with the fastest correct Triton configuration of every problem.

    The folder appears complete or not at all.

    Args:
        run: a finished sweep, or the part of one that has happened.
        output: folder to create.
        name: of the kernel, with dashes; default ``tile-kernels-<gpu>``.
        repo_id: ``OWNER/NAME`` on the Hub.
        rows_loss: keep as few M as lookup needs to lose at most this much (0.02: 2 %).
    Raises:
        ValueError: ``output`` exists, a name may not be one, or nothing of the run can ship.
    """
    check_absent(output)
    if name is not None:
        check_hub_name(name)
    if repo_id is not None and not _REPO.fullmatch(repo_id):
        raise ValueError(f"--repo-id {shown(repo_id)}: write OWNER/NAME, e.g. my-team/tile-gemm")
    chosen = select(run, obstacle=hub_obstacle, rows_loss=rows_loss)
    check_sources(run, chosen.entries)
    if name is None:
        gpu = check_file_part(chosen.entries[0].study.gpu, "gpu")
        plain = re.sub(r"[^a-z0-9]+", "-", gpu)
        name = check_hub_name(f"tile-kernels-{plain}"[:MAX_NAME].rstrip("-"))
    with new_folder(output) as folder:
        record = _write(folder, name, repo_id, chosen)
    return EmittedKernel(
        name=name,
        folder=output,
        variant=output / VARIANT,
        entries=len(chosen.entries),
        left=len(chosen.left),
        simulated=record["simulated"],
        rows=tuple(map(str, chosen.rows)),
    )


def hub_obstacle(study: "StudyRecord", gpu: "Gpu") -> str | None:
    """Why a Hub kernel cannot hold a study's winner, or ``None`` when it can."""
    reason = obstacle(study, gpu)
    if reason is not None:
        return reason
    if kernel(study.kernel).backend is not Backend.TRITON:
        return (
            "CUDA C++ runs through CuPy, which a Hub kernel may not import: sweep a Triton family"
        )
    if gpu.limits.vendor != "nvidia":
        return "Hub kernels are written for CUDA: emit a wheel"
    function = function_of(study.kernel, study.problem)
    assert function is not None  # others have an obstacle
    if function.name not in EXTENTS:
        return f"Hub kernels have {', '.join(EXTENTS)}, not {function.name}: emit a wheel"
    return None


def _write(folder: Path, name: str, repo_id: str | None, chosen: Selection) -> dict[str, Any]:
    """Sources, then the built form, then the evidence about all of it."""
    module_name = name.replace("-", "_")
    module = folder / "torch-ext" / module_name
    functions = [one for one in EXTENTS if one in {e.function.name for e in chosen.entries}]
    templates = _write_module(module, chosen, functions, folder)
    check_module(module)
    _write_variant(folder, module, name)
    for file in ("conftest.py", "test_kernel.py"):
        copy_file(_HERE / "hub_files" / file, folder / "tests" / file)
    if timed := not hub_text.BENCHMARKED.isdisjoint(functions):
        copy_file(_HERE / "hub_files" / "benchmark.py", folder / "benchmarks" / "benchmark.py")
    write_text(folder / "build.toml", hub_text.build_toml(name, repo_id))
    write_text(folder / "flake.nix", hub_text.flake_text(name))
    write_text(folder / "LICENSE", project.license_text())

    def record(files: dict[str, str]) -> dict[str, Any]:
        return evidence.evidence(
            name=module_name,
            package_version=str(hub_text.VERSION),
            chosen=chosen,
            templates=templates if files else {},
            files=files,
        )

    card = hub_text.card_text(repo_id, chosen, functions, record({}), timed=timed)
    write_text(folder / "CARD.md", card)
    found = record(evidence.digests(folder))
    write_text(folder / evidence.EVIDENCE, json.dumps(found, indent=1, allow_nan=False) + "\n")
    return found


def _write_module(
    module: Path, chosen: Selection, functions: list[str], folder: Path
) -> dict[str, str]:
    """The module below ``torch-ext``; returns the families of its templates by path."""
    entries = chosen.entries
    owners = {entry.study.kernel: entry.function.name for entry in entries}
    for file, text in hub_config_files(configs.config_files(entries), owners).items():
        write_text(module / "configs" / file, text)
    static = [file for file in module_files(entries) if file not in ("__init__.py", _BUILT)]
    for file in (*static, "tuning.py"):
        copy_file(_HERE / "package_files" / file, module / file)
    write_text(module / "__init__.py", hub_text.init_text(functions))
    return copy_templates(entries, folder, module.relative_to(folder).as_posix())


def _write_variant(folder: Path, module: Path, name: str) -> None:
    """The built form: what stands in the module, ``_ops.py`` and the metadata."""
    variant = folder / VARIANT
    for path in sorted(module.rglob("*")):
        if path.is_file():
            copy_file(path, variant / path.relative_to(module))
    copy_file(_HERE / "package_files" / _BUILT, variant / _BUILT)
    content = metadata(name, hub_text.VERSION, variant_digests(variant), hub_text.CAPABILITIES)
    write_text(variant / "metadata.json", json.dumps(content, indent=2) + "\n")


def check_module(module: Path) -> None:
    """Hold a module's files to what the Hub takes: syntax, and what they import.

    Raises:
        ValueError: a file that it does not take.
    """
    for path in sorted(module.rglob("*.py")):
        where = path.relative_to(module).as_posix()
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"), where, feature_version=SYNTAX)
        except SyntaxError as error:
            raise ValueError(
                f"{where}, line {error.lineno}: not Python {SYNTAX[0]}.{SYNTAX[1]} ({error.msg}): "
                "a Hub kernel cannot hold it, emit a wheel"
            ) from error
        foreign = sorted(imported_names(tree) - IMPORTABLE - sys.stdlib_module_names)
        if foreign:
            raise ValueError(
                f"{where} imports {', '.join(foreign)}: a Hub kernel may import the standard "
                "library, torch, triton and itself, emit a wheel"
            )
