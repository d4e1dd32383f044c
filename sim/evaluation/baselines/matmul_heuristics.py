"""nvMatmulHeuristics' picks, where its package is installed: NVIDIA's closed model of CUTLASS.

It ranks CUTLASS kernels for a product, knowing elements, shape and GPU, no scales.  Its picks are
not among the rows that were measured, so the nearest row stands for each: in the order of the
picks, none twice.  Rows that stand for none follow by their distance from the first pick.
Source: docs.nvidia.com/cuda/nvidia-matmul-heuristics, Python API of version 0.1.
"""

from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.evaluation.baselines.gemm_view import GemmView, gemm_view
from sim.evaluation.predictor import Kind, Predicted
from sim.gpu import Gpu
from sim.measured import MeasuredTable
from tiles.problems import Gemm

__all__ = ["MISSING", "PICKS", "NvMatmulHeuristics", "installed", "order_by_picks", "precision"]

F64 = NDArray[np.float64]
#: Rows, columns and depth of a CTA tile, stages, CTAs that share K.
Pick = tuple[int, int, int, int, int]

_PACKAGE = "nvMatmulHeuristics"
_INSTALL = "pip install 'tile-workbench[rivals]'"
#: Why it is not judged.
MISSING = f"its package is not installed: {_INSTALL}"
#: Picks that are asked for: as many as the evaluation tries.
PICKS = 8
#: The package's name of a GPU, by ours.
_GPUS = {
    "a100": "A100_SXM_80GB",
    "h100": "H100_SXM",
    "h200": "H200_SXM",
    "h20": "H20_SXM",
    "l40s": "L40S",
    "rtx3090": "RTX_3090",
    "rtx4090": "RTX_4090",
    "b200": "B200",
}
#: Letters of its precisions.
_OPERANDS = {"bf16": "T", "fp16": "H", "e4m3fn": "Q", "e5m2": "R", "int8": "B"}
_OUTPUTS = {"bf16": "T", "fp16": "H", "fp32": "S"}
#: From this capability on CUTLASS 3 has the kernels.
_CUTLASS3_FROM = 90


def installed() -> bool:
    """Whether the package is there; it is not loaded."""
    return find_spec(_PACKAGE) is not None


def precision(problem: Gemm) -> str | None:
    """Letters of A, B, C, the sums and D; None for what it has no letters for."""
    operands = (problem.recipe.activation.element.name, problem.recipe.weight.element.name)
    out = _OUTPUTS.get(problem.output.element.name) if problem.output.scaling is None else None
    if out is None or not _OPERANDS.keys() >= set(operands):
        return None
    integers = operands.count("int8")
    if integers == 1:
        return None
    sums = "I" if integers else "S"
    return "".join((*(_OPERANDS[name] for name in operands), out, sums, out))


def order_by_picks(view: GemmView, picks: Sequence[Pick]) -> F64:
    """Scores of rows, the smaller the earlier: 1 to the picks' number, others beyond it.

    Args:
        picks: the best first, at least one; a tile is as wide as another in doublings.
    """
    columns = (view.block_m, view.block_n, view.block_k, view.stages, view.split_k)
    rows = np.log2(np.stack(columns, axis=1))
    far = [np.sum((rows - np.log2(pick)) ** 2, axis=1) for pick in picks]
    scores: F64 = len(picks) + 1.0 + far[0]
    taken = np.zeros(len(rows), np.bool_)
    for rank, distance in enumerate(far[: len(rows)], 1):
        nearest = int(np.argmin(np.where(taken, np.inf, distance)))
        scores[nearest], taken[nearest] = rank, True
    return scores


class NvMatmulHeuristics:
    """The package's order of a table's rows."""

    name = "nvMatmulHeuristics"
    kind = Kind.ORDER

    def __init__(self) -> None:
        self._libraries: dict[str, Any] = {}  #: its interface, by GPU

    def fit(self, train: Sequence[MeasuredTable], gpu: Gpu) -> None:
        """Nothing is fitted."""

    def predict(self, table: MeasuredTable, gpu: Gpu) -> Predicted | None:
        """The picks' order; None for a GPU, an element or a product that the package lacks.

        Raises:
            ImportError: the package is missing; names what to install.
        """
        view = gemm_view(table.problem, table.table, gpu)
        if view is None or not isinstance(table.problem, Gemm) or gpu.name not in _GPUS:
            return None
        letters = precision(table.problem)
        picks = [] if letters is None else self._picks(table.problem, letters, gpu)
        return Predicted(time_us=order_by_picks(view, picks)) if picks else None

    def _picks(self, problem: Gemm, letters: str, gpu: Gpu) -> list[Pick]:
        try:
            package: Any = import_module(_PACKAGE)
        except ImportError as error:
            raise ImportError(f"{_PACKAGE} is missing: {_INSTALL}") from error
        if gpu.name not in self._libraries:
            target = "CUTLASS3" if gpu.capability >= _CUTLASS3_FROM else "CUTLASS"
            self._libraries[gpu.name] = package.NvMatmulHeuristicsInterfaceEx(
                backend=package.NvMatmulHeuristicsTarget[target],
                flags=package.NvMatmulHeuristicsFlags.PERF_MODEL_BASED_AUTO_TUNING,
                gpu=package.NvMatmulHeuristicsNvidiaGpu[_GPUS[gpu.name]],
            )
        library = self._libraries[gpu.name]
        # Row-major A [M, K], and B [N, K] taken transposed.
        layout = package.NvMatmulHeuristicsMatmulLayout.NT_ROW_MAJOR
        asked = library.makeNvMatmulHeuristicsProblem(problem.m, problem.n, problem.k, layout)
        kernels = [found["kernel"] for found in library.get(asked, PICKS, precision=letters)]
        picks = (
            (k.cta_tile_m, k.cta_tile_n, k.cta_tile_k, k.stages, max(1, k.split_k)) for k in kernels
        )
        return list(dict.fromkeys(pick for pick in picks if min(pick) > 0))
