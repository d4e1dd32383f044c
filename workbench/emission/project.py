"""The files around the module: pyproject.toml, README.md, LICENSE."""

import importlib.metadata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tiles.kernels import Backend, kernel
from tiles.problems import Gemm
from workbench.emission.evidence import NEVER_MEASURED
from workbench.emission.winners import STAND_INS, TunedEntry

__all__ = ["license_text", "pyproject_text", "readme_text"]

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


def pyproject_text(name: str, version: str, families: Iterable[str]) -> str:
    """``pyproject.toml`` of a package.

    Args:
        name: has passed :func:`check_package_name`.
        version: the package's.
        families: what ships.  CuPy is an extra where torch functions do without it, and required
            where one of them is faster with it.
    """
    shipped = set(families)
    used = {kernel(family).backend for family in shipped}
    required = [
        *(_TORCH if Backend.TRITON in used else ()),
        *(_CUPY if Backend.TRITON not in used or shipped & set(STAND_INS) else ()),
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


def _entry_row(entry: TunedEntry) -> str:
    measured = None if entry.study.simulated else entry.best.measurement.time_us
    cells = [
        entry.study.kernel,
        str(entry.problem),
        entry.study.gpu,
        entry.path.value,
        _time(entry.best.predicted_us),
        NEVER_MEASURED if entry.study.simulated else _time(measured),
        str(entry.best.config),
    ]
    return "| " + " | ".join(cells) + " |"


def _scaled(entry: TunedEntry) -> bool:
    return isinstance(entry.problem, Gemm) and entry.problem.recipe.quantized


def _examples(name: str, entries: Sequence[TunedEntry]) -> list[str]:
    """A few lines of Python that call what the package holds."""
    first: dict[str, TunedEntry] = {}
    # A recipe with scales shows more of the call than a plain one.
    for entry in sorted(entries, key=lambda e: isinstance(e.problem, Gemm) and not _scaled(e)):
        first.setdefault(entry.study.kernel, entry)
    lines: list[str] = []
    products = [first[family] for family in ("triton_gemm", *STAND_INS) if family in first]
    if products:
        entry = max(products, key=_scaled)
        recipe, out = entry.formats
        assert isinstance(entry.problem, Gemm)
        scaled = _scaled(entry)
        dtype = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}[out]
        lines += [
            "import torch",
            f"from {name} import gemm",
            "",
            f"# a (M, K) {entry.problem.recipe.activation}, b (N, K) {entry.problem.recipe.weight}",
            "# C[M, N] = A[M, K] · B[N, K]^T, value = code x scale",
            f"c = gemm(a, b{', a_scale, b_scale' if scaled else ''}, "
            f'recipe="{recipe}", out_dtype=torch.{dtype})',
        ]
    on_cupy = [first[family] for family in STAND_INS if family in first]
    if on_cupy:
        recipe, out = on_cupy[0].formats
        scales = ", a_scale, b_scale" if _scaled(on_cupy[0]) else ""
        lines += [
            "",
            f"from {name} import gemm_cuda  # CuPy arrays; imports no torch",
            "",
            f'c = gemm_cuda.gemm(a, b{scales}, recipe="{recipe}", out_format="{out}")',
        ]
    if "triton_quantize" in first:
        entry = first["triton_quantize"]
        lines += [
            *([""] if lines else []),
            f"from {name} import quantize",
            "",
            f'codes, scales = quantize(x, "{entry.formats[0]}")',
        ]
    if "cuda_quantize" in first:
        entry = first["cuda_quantize"]
        lines += [
            *([""] if lines else []),
            f"from {name} import quantize_cuda  # CuPy arrays; imports no torch",
            "",
            f'codes, scales = quantize_cuda.quantize(x, "{entry.formats[0]}")',
        ]
    return lines


def _stand_in_text(entries: Sequence[TunedEntry]) -> list[str]:
    """What runs where the CUDA C++ products cannot."""
    shipped = [name for name in STAND_INS if any(e.study.kernel == name for e in entries)]
    if not shipped:
        return []
    names = " and ".join(f"`{name}`" for name in shipped)
    return [
        f"`gemm` launches {names} through CuPy on torch's own memory and stream. Where rows",
        "do not start at multiples of 16 bytes, CuPy is missing or the GPU's capability is not",
        "9.0, a default of `triton_gemm` runs in its place, with one warning.",
        "",
    ]


def _left_table(left: Sequence[Mapping[str, str]]) -> list[str]:
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
        *(_entry_row(entry) for entry in entries),
        "",
        "A call takes the entry with its N and K (or columns) whose M (or rows) is nearest in log",
        "space. Extents that are not in the table run a conservative default, never measured,",
        "with one warning for each kernel and choice of formats. On another GPU every call runs a",
        "default that needs no more than NVIDIA's capability 8.0, with one warning: nothing was",
        "measured there.",
        "",
        *_stand_in_text(entries),
        "`path` says whether the GPU's tensor cores multiply the elements as stored (native) or",
        "the kernel decodes them first (emulated).",
        "",
        *_left_table(evidence["not_emitted"]),
        "    python -m pytest tests          # a GPU, or TRITON_INTERPRET=1 on a CPU",
        "    python benchmarks/benchmark.py  # a GPU",
    ]
    return "\n".join(lines) + "\n"
