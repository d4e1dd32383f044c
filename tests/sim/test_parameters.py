"""Template parameters: defaults change nothing, each does something, bad values are refused."""

from dataclasses import fields

import numpy as np
import pytest

import sim
from sim.model import template_parameters
from sim.parameters import GEMM, TEMPLATES, GemmParameters
from tiles.kernels import ConfigTable, Kernel, kernels
from tiles.problems import Problem, parse_problem

H200 = sim.load_gpu("h200")
PROBLEMS = [
    "gemm:512x4096x4096:bf16:bf16",
    "gemm:8192x4096x4096:e4m3-row:bf16",
    "gemm:16x4096x4096:deepseek-fp8:bf16",
    "gemm:4096x4096x4096:int8-b128:bf16",
    "gemm:2048x3072x768:jetfire:bf16",
    "gemm:128x4096x4096:int8-b1x128:bf16",
    "gemm:64x4096x4096:w4a16-g128:bf16",
    "gemm:512x4096x4096:llm-int8:bf16",
    "gemm:512x4096x4096:mxfp8-e4m3:bf16",
    "batched_gemm:16x512x512x512:e4m3-row:kn:bf16",
    "grouped_gemm:8x4096x4096x1024:deepseek-fp8:contiguous:bf16",
    "quantize:4096x4096:int8.b32x32:bf16",
    "quantize:16x512:e4m3fn.b1x128:bf16",
    "quantize:4096x4096:nvfp4:bf16",
    "dequantize:4096x4096:int8.b32x32:bf16",
    "transpose:4096x4096:int8",
    "dataflow:512x4096:gelu:int8.b32x32",
    "dataflow:512x4096:layernorm:int8.b32x32",
]
#: Enough rows of a space for every branch of its cost function.
ROWS = 600


def cases() -> list[tuple[Problem, Kernel, ConfigTable]]:
    rng = np.random.default_rng(0)
    found = []
    for problem in map(parse_problem, PROBLEMS):
        for family in kernels().values():
            if family.refusal(problem, H200.limits) or sim.unpriced(problem, family):
                continue
            table = family.legal_space(problem, H200.limits).accepted
            rows = np.sort(rng.permutation(len(table))[:ROWS])
            found.append((problem, family, table.take(rows)))
    return found


CASES = cases()


def test_every_family_has_parameters_and_a_problem_here() -> None:
    assert set(TEMPLATES) == set(kernels())
    assert {family.name for _, family, _ in CASES} == set(kernels())


def test_default_parameters_predict_the_same_bits() -> None:
    for problem, family, table in CASES:
        plain = sim.price(problem, family, table, H200)
        given = sim.price(
            problem,
            family,
            table,
            H200,
            parameters={name: TEMPLATES[name]() for name in template_parameters(problem, family)},
        )
        assert np.array_equal(plain.time_us, given.time_us), (problem, family.name)
        for name, term in plain.terms_us.items():
            assert np.array_equal(term, given.terms_us[name])


@pytest.mark.parametrize(
    ("family", "parameter"),
    [(name, one.name) for name, record in TEMPLATES.items() for one in fields(record)],
)
def test_every_parameter_moves_some_time(family: str, parameter: str) -> None:
    moved = 0
    for problem, kernel, table in CASES:
        if kernel.name != family:
            continue
        defaults = TEMPLATES[family]()
        plain = sim.price(problem, kernel, table, H200).time_us
        other = sim.price(
            problem, kernel, table, H200, parameters={family: defaults.scaled({parameter: 1.5})}
        ).time_us
        assert np.isfinite(other).all()
        assert (other > 0).all()
        moved += int((plain != other).sum())
    assert moved > 0


def test_a_product_of_many_takes_the_plain_products_parameters() -> None:
    (case,) = [one for one in CASES if one[1].name == "triton_batched_gemm"]
    problem, family, table = case
    assert set(template_parameters(problem, family)) == {"triton_batched_gemm", "triton_gemm"}
    plain = sim.price(problem, family, table, H200).time_us
    slower = GEMM.scaled({"drain_clk": 2.0, "handshake_clk": 3.0, "plain_handshake_clk": 3.0})
    other = sim.price(problem, family, table, H200, parameters={"triton_gemm": slower}).time_us
    assert (other >= plain).all()
    assert (other > plain).any()


def test_parameters_read_back() -> None:
    for record in TEMPLATES.values():
        changed = record().scaled({record.names()[0]: 1.25})
        assert record.from_dict(changed.to_dict()) == changed
        assert (record.sigmas() > 0).all()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"drain_clk": -1.0}, r"drain_clk = -1.0 must lie in .*: fit it anew"),
        ({"drain_clk": float("nan")}, "drain_clk = nan must lie in"),
        ({"drain_clk": True}, "drain_clk = True must lie in"),
        ({"drain_clk": "280"}, "drain_clk = '280' must lie in"),
        ({"drain_clk": 1e9}, "drain_clk = 1000000000.0 must lie in"),
        ({"speed": 1.0}, "'speed' is unknown or missing: fit it anew"),
    ],
)
def test_a_value_that_no_fit_gives_is_refused(change: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        GemmParameters.from_dict(GEMM.to_dict() | change)
