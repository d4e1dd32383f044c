"""The files around the module: pyproject.toml, README.md, LICENSE."""

import importlib.metadata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tiles.kernels import Backend, kernel
from tuning.objective import Objective
from workbench.emission import patching
from workbench.emission.evidence import NEVER_MEASURED
from workbench.emission.function import TORCH_FILES
from workbench.emission.functions import FUNCTIONS
from workbench.emission.patching import patches
from workbench.emission.winners import TunedEntry, families_of

__all__ = [
    "entry_row",
    "left_table",
    "license_text",
    "pyproject_text",
    "readme_text",
    "searched_for",
]

_TORCH = ["torch>=2.11", "triton>=3.6; sys_platform == 'linux'"]
_CUPY = ["numpy>=1.26", "cupy-cuda13x>=14.0"]


def license_text() -> str:
    """The licence under which the templates are passed on.

    Raises:
        ValueError: the workbench is installed without its licence.
    """
    source = Path(__file__).resolve().parents[2] / "LICENSE"
    if source.is_file():
        return source.read_text(encoding="utf-8")
    for path in importlib.metadata.files("tile-workbench") or ():
        if path.name == "LICENSE":
            return path.read_text(encoding="utf-8")
    raise ValueError("the workbench's LICENSE is missing: install tile-workbench again")


def pyproject_text(name: str, version: str, entries: Sequence[TunedEntry]) -> str:
    """``pyproject.toml`` of a package.

    Args:
        name: has passed :func:`check_package_name`.
        version: the package's.
        entries: what ships.  CuPy is an extra where torch functions do without it, and required
            where one of them needs it or is faster with it.
    """
    used = {kernel(family).backend for entry in entries for family in families_of(entry)}
    faster = any(entry.function.needs_cupy(entry.study.kernel) for entry in entries)
    on_torch = any(
        set(TORCH_FILES) <= set(entry.function.files({entry.study.kernel})) for entry in entries
    )
    required = [
        *(_TORCH if on_torch else ()),
        *(_CUPY if not on_torch or faster else ()),
    ]
    lines = [
        "[build-system]",
        'requires = ["flit_core>=3.11,<5"]',
        'build-backend = "flit_core.buildapi"',
        "",
        "[project]",
        f'name = "{name}"',
        f'version = "{version}"',
        'description = "Tuned low-precision GPU kernels, emitted by the tile workbench."',
        'readme = "README.md"',
        'requires-python = ">=3.10"',
        'license = "Apache-2.0"',
        'license-files = ["LICENSE"]',
        "dependencies = [",
        *(f'  "{requirement}",' for requirement in required),
        "]",
    ]
    if Backend.CUPY in used and not set(_CUPY) <= set(required):
        lines += ["", "[project.optional-dependencies]", "cupy = ["]
        lines += [*(f'  "{requirement}",' for requirement in _CUPY), "]"]
    lines += ["", "[tool.flit.module]", f'name = "{name}"']
    return "\n".join(lines) + "\n"


def _time(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def entry_row(entry: TunedEntry) -> str:
    """A row of the table of tuned entries: predicted and measured times in their own columns."""
    measured = None if entry.study.simulated else entry.best.measurement.time_us
    cells = [
        entry.study.kernel,
        str(entry.problem) + ("" if entry.key is None else f", under M {entry.key}"),
        entry.study.gpu,
        entry.path.value,
        _time(entry.best.predicted_us),
        NEVER_MEASURED if entry.study.simulated else _time(measured),
        str(entry.best.config),
    ]
    return "| " + " | ".join(cells) + " |"


def _examples(name: str, entries: Sequence[TunedEntry]) -> list[str]:
    """A few lines of Python that call what the package holds."""
    lines: list[str] = []
    for function in FUNCTIONS:
        own = [entry for entry in entries if entry.function is function]
        if own:
            lines += ["", *function.example(name, own)]
    if patches(entries):
        lines += ["", *patching.example(name)]
    return lines[1:]


def _remarks(entries: Sequence[TunedEntry]) -> list[str]:
    """What the functions have to say beside their entries."""
    lines: list[str] = []
    for function in FUNCTIONS:
        lines += function.remarks([entry for entry in entries if entry.function is function])
    return lines + patching.remarks(entries)


def searched_for(entries: Sequence[TunedEntry]) -> list[str]:
    """What the entries have the least of, where that is not the time."""
    if not any(entry.study.objective is Objective.ENERGY for entry in entries):
        return []
    return [
        "The entries were searched for the least energy a launch, not for the least time;",
        "`EVIDENCE.json` has both.",
        "",
    ]


def left_table(left: Sequence[Mapping[str, str]]) -> list[str]:
    """What the run planned and the package does not hold."""
    if not left:
        return []
    return [
        "## Not in the package",
        "",
        "| kernel | problem | GPU | reason |",
        "|---|---|---|---|",
        *(f"| {x['kernel']} | {x['problem']} | {x['gpu']} | {x['reason']} |" for x in left),
        "",
    ]


def readme_text(name: str, entries: Sequence[TunedEntry], evidence: dict[str, Any]) -> str:
    """``README.md`` of a package."""
    lines = [
        f"# {name}",
        "",
        "Tuned low-precision GPU kernels, emitted by the tile workbench.",
        f"Evidence: {evidence['statement']}.",
        "`EVIDENCE.json` has samples, environment and accuracy of each entry, and the SHA-256 of",
        "every file.",
        "",
        "    pip install dist/*.whl",
        "",
        "```python",
        *_examples(name, entries),
        "```",
        "",
        "The functions work under `torch.compile(fullgraph=True)` and in CUDA graphs.",
        "They are for inference: no operator has a derivative. `out=` writes into tensors that the",
        "caller owns.",
        "",
        "## Tuned entries",
        "",
        "| kernel | problem | GPU | path | predicted, us | measured, us | configuration |",
        "|---|---|---|---|---|---|---|",
        *(entry_row(entry) for entry in entries),
        "",
        *searched_for(entries),
        "A call takes the entry with its N and K (or columns) whose M (or rows) is nearest in log",
        "space. Extents that are not in the table run a conservative default, never measured,",
        "with one warning for each of them. On another GPU every call runs a default that needs no",
        "more than NVIDIA's capability 8.0, with one warning: nothing was measured there.",
        "",
        *_remarks(entries),
        "`path` says whether the GPU's tensor cores multiply the elements as stored (native) or",
        "the kernel decodes them first (emulated).",
        "",
        *left_table(evidence["not_emitted"]),
        "    python -m pytest tests          # a GPU, or TRITON_INTERPRET=1 on a CPU",
        "    python benchmarks/benchmark.py  # a GPU",
    ]
    return "\n".join(lines) + "\n"
