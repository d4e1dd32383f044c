"""nvMatmulHeuristics as a rival, with a stand-in for its package."""

import enum
import sys
from dataclasses import replace
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from measured_cases import H200, gemm_table, measured

import sim
from sim.evaluation import default_predictors
from sim.evaluation.baselines import matmul_heuristics
from sim.evaluation.baselines.gemm_view import gemm_view
from sim.evaluation.baselines.matmul_heuristics import (
    NvMatmulHeuristics,
    order_by_picks,
    precision,
)
from sim.evaluation.predictor import Kind
from tiles.problems import Gemm, parse_problem

CUBE = "gemm:4096x4096x4096:bf16:bf16"


def gemm(text: str) -> Gemm:
    found = parse_problem(text)
    assert isinstance(found, Gemm)
    return found


@pytest.mark.parametrize(
    ("text", "letters"),
    [
        (CUBE, "TTTST"),
        ("gemm:64x64x64:fp16:fp16", "HHHSH"),
        ("gemm:64x64x64:e4m3-row:bf16", "QQTST"),
        ("gemm:64x64x64:deepseek-fp8:fp32", "QQSSS"),
        ("gemm:64x64x64:int8-row:bf16", "BBTIT"),
        ("gemm:64x64x64:w8a16:bf16", None),
        ("gemm:64x64x64:w4a16-g128:bf16", None),
        ("gemm:64x64x64:jetfire:int8.b32x32", None),
    ],
)
def test_precisions_are_spelt_as_the_package_spells_them(text: str, letters: str | None) -> None:
    assert precision(gemm(text)) == letters


def test_the_nearest_row_stands_for_a_pick_and_none_for_two() -> None:
    table = gemm_table(block_m=[64, 128], block_n=[128, 256])
    view = gemm_view(parse_problem(CUBE), table, H200)
    assert view is not None
    stages = int(view.stages[0])

    def scores(*picks: tuple[int, int]) -> dict[tuple[int, int], float]:
        found = order_by_picks(view, [(m, n, 64, stages, 1) for m, n in picks])
        tiles = zip(view.block_m.tolist(), view.block_n.tolist(), strict=True)
        return dict(zip(tiles, found.tolist(), strict=True))

    # The first pick is a row itself; the second is nearest to it, too, and takes the next one.
    found = scores((128, 256), (128, 256))
    assert found[128, 256] == 1
    assert sorted(found.values())[1] == 2
    assert found[64, 128] == 2 + 1 + 2  # two doublings from the first pick, squared and summed
    # Fewer rows than picks: every row has its rank.
    many = scores(*((64 * 2**place, 128) for place in range(6)))
    assert sorted(many.values()) == [1, 2, 3, 4]


class _Names(enum.IntEnum):
    CUTLASS, CUTLASS3, H200_SXM, A100_SXM_80GB, NT_ROW_MAJOR = range(5)


class StandIn(ModuleType):
    """What the adapter uses of the package, remembering what it was asked."""

    def __init__(self, tiles: list[tuple[int, int, int, int, int]]) -> None:
        super().__init__("nvMatmulHeuristics")
        self.asked: list[Any] = []
        self.NvMatmulHeuristicsTarget = _Names
        self.NvMatmulHeuristicsNvidiaGpu = _Names
        self.NvMatmulHeuristicsMatmulLayout = _Names
        self.NvMatmulHeuristicsFlags = SimpleNamespace(PERF_MODEL_BASED_AUTO_TUNING=8)
        names = ("cta_tile_m", "cta_tile_n", "cta_tile_k", "stages", "split_k")
        kernels = [SimpleNamespace(**dict(zip(names, one, strict=True))) for one in tiles]

        def made(**options: Any) -> Any:
            self.asked.append((options["backend"], options["gpu"]))
            return SimpleNamespace(
                makeNvMatmulHeuristicsProblem=lambda *extents: extents,
                get=lambda problem, count, precision: (
                    self.asked.append((problem, count, precision))
                    or [{"kernel": kernel, "runtime": 1.0} for kernel in kernels]
                ),
            )

        self.NvMatmulHeuristicsInterfaceEx = made


def test_the_package_is_asked_for_the_product_and_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    package = StandIn([(128, 256, 64, 3, 1), (128, 256, 64, 3, 1), (128, 128, 64, 4, 0)])
    monkeypatch.setitem(sys.modules, "nvMatmulHeuristics", package)
    rival = NvMatmulHeuristics()
    assert rival.kind is Kind.ORDER
    table = measured()
    found = rival.predict(table, H200)
    assert found is not None
    assert (found.low_us, found.high_us) == (None, None)
    assert np.sort(found.time_us)[0] == 1
    m, n, k = table.problem.shape
    assert package.asked == [
        (_Names.CUTLASS3, _Names.H200_SXM),
        ((m, n, k, _Names.NT_ROW_MAJOR), 8, precision(gemm(str(table.problem)))),
    ]
    rival.predict(table, sim.load_gpu("a100"))
    assert package.asked[2] == (_Names.CUTLASS, _Names.A100_SXM_80GB)
    # A GPU that the package does not know, and a product that it has no letters for.
    assert rival.predict(table, sim.load_gpu("mi300x")) is None
    other = replace(table, problem=parse_problem("gemm:4096x4096x4096:w4a16-g128:bf16"))
    assert rival.predict(other, H200) is None


def test_without_the_package_it_is_left_out_and_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(matmul_heuristics, "_PACKAGE", "no_such_heuristics")
    assert not matmul_heuristics.installed()
    assert "nvMatmulHeuristics" not in [one.name for one in default_predictors()]
    with pytest.raises(ImportError, match=r"is missing: pip install 'tile-workbench\[rivals\]'"):
        NvMatmulHeuristics().predict(measured(), H200)
