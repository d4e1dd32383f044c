"""The accuracy check accepts honest outputs and rejects what a broken kernel would write."""

import math
import re

import pytest

torch = pytest.importorskip("torch")

from tiles.kernels.accuracy import (  # noqa: E402 - torch is optional
    Reference,
    compare,
    gemm_reference,
)
from tiles.kernels.arithmetic import gemm_arithmetic  # noqa: E402 - torch is optional
from tiles.kernels.gemm_workload import dequantize  # noqa: E402
from tiles.kernels.quantize_torch import quantize_torch  # noqa: E402
from tiles.problems import Gemm  # noqa: E402
from tiles.recipes import recipe  # noqa: E402

M, N, K = 200, 264, 4096
#: The recipes whose arithmetic differs: 14-bit accumulation, promotion, int32, fp32.
KINDS = ("bf16", "e4m3-row", "deepseek-fp8", "int8-row", "int8-b128", "jetfire")
#: Products beside them that a kernel computes: without scales, and with others on either side.
MORE = ("fp16", "fp8-ptq-e4m3", "fp8-ptq-e5m2", "unit-scaling", "e5m2-b128", "jetfire-64")


class Case:
    """Operands, an honest output and its reference for one recipe."""

    def __init__(self, name: str, out: str = "bf16", k: int = K) -> None:
        self.problem = Gemm(m=M, n=N, k=k, recipe=recipe(name), out=out)
        generator = torch.Generator().manual_seed(1)
        chosen = self.problem.recipe
        self.a, self.a_scale = quantize_torch(
            torch.randn(M, k, generator=generator), chosen.activation
        )
        self.b, self.b_scale = quantize_torch(torch.randn(N, k, generator=generator), chosen.weight)
        self.a64 = dequantize(self.a, self.a_scale, chosen.activation)
        self.b64 = dequantize(self.b, self.b_scale, chosen.weight)
        self.dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[out]
        self.reference: Reference = gemm_reference(
            self.a64, self.b64, gemm_arithmetic(self.problem, decode=False)
        )

    @property
    def honest(self) -> torch.Tensor:
        return (self.a64 @ self.b64.T).to(self.dtype)


@pytest.fixture(scope="module")
def cases() -> dict[str, Case]:
    return {name: Case(name) for name in KINDS}


@pytest.mark.parametrize("name", KINDS)
def test_accepts_the_rounded_product(cases: dict[str, Case], name: str) -> None:
    verdict = compare(cases[name].honest, cases[name].reference)
    assert verdict.ok
    assert verdict.max_error_over_bound <= 1
    assert 1e-4 < verdict.relative_rms < 3e-3


def _accumulate_like_hopper(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """32 products and the accumulator aligned to the largest, 14 bits kept, by truncation."""
    total = torch.zeros(a.shape[0], b.shape[0], dtype=torch.float64)
    for k in range(0, a.shape[1], 32):
        addends = a[:, None, k : k + 32] * b[None, :, k : k + 32]
        addends = torch.cat([addends, total[:, :, None]], dim=2)
        _, exponent = torch.frexp(addends.abs().amax(dim=2, keepdim=True))
        unit = 2.0 ** (exponent - 14).double()
        total = (torch.trunc(addends / unit) * unit).sum(dim=2)
    return total


def test_accepts_hopper_fp8_accumulation() -> None:
    case = Case("e4m3-tensor", out="fp32")
    out = _accumulate_like_hopper(case.a64[:128], case.b64[:128])
    problem = Gemm(m=128, n=128, k=K, recipe=case.problem.recipe, out="fp32")
    reference = gemm_reference(
        case.a64[:128], case.b64[:128], gemm_arithmetic(problem, decode=False)
    )
    verdict = compare(out.to(torch.float32), reference)
    assert verdict.ok, verdict.reason
    # A bound that is never approached could not reject anything.
    assert verdict.relative_rms > 1e-3
    # The decoded path multiplies in fp16 with fp32 sums: there, this loss is a fault.
    strict = gemm_reference(case.a64[:128], case.b64[:128], gemm_arithmetic(problem, decode=True))
    assert not compare(out.to(torch.float32), strict).ok


@pytest.mark.parametrize("name", KINDS)
def test_rejects_a_scale_that_is_off_by_two_on_one_tile(cases: dict[str, Case], name: str) -> None:
    case = cases[name]
    wrong = case.a64.clone()
    wrong[:128, :128] *= 2  # one block along K of one row of tiles: 1/32 of the sum
    out = case.honest
    out[:128, :128] = (wrong @ case.b64.T)[:128, :128].to(case.dtype)
    verdict = compare(out, case.reference)
    assert not verdict.ok
    row, col = (int(x) for x in re.search(r"\((\d+), (\d+)\)", verdict.reason).groups())
    assert row < 128
    assert col < 128


def test_rejects_one_wrong_32x32_scale_block() -> None:
    case = Case("jetfire")
    wrong = case.a64.clone()
    wrong[32:64, 64:96] *= 2
    assert not compare((wrong @ case.b64.T).to(case.dtype), case.reference).ok


def test_rejects_one_wrong_1x128_scale() -> None:
    case = Case("deepseek-fp8")
    wrong = case.a64.clone()
    wrong[77, 128:256] *= 2
    verdict = compare((wrong @ case.b64.T).to(case.dtype), case.reference)
    assert not verdict.ok


@pytest.mark.parametrize("name", KINDS)
def test_rejects_a_dropped_k_tail(name: str) -> None:
    # 64 of 4160; e4m3-row allows for 14-bit sums over the whole of K and still sees it.
    case = Case(name, k=K + 64)
    out = (case.a64[:, :K] @ case.b64[:, :K].T).to(case.dtype)
    assert not compare(out, case.reference).ok


@pytest.mark.parametrize("name", KINDS)
def test_rejects_swapped_rows(cases: dict[str, Case], name: str) -> None:
    out = cases[name].honest
    out[[3, 4]] = out[[4, 3]]
    verdict = compare(out, cases[name].reference)
    assert not verdict.ok
    assert verdict.reason.startswith("element (3, ")


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
def test_rejects_poison_left_in_one_element(cases: dict[str, Case], poison: float) -> None:
    out = cases["int8-row"].honest
    out[M - 1, N - 1] = poison
    verdict = compare(out, cases["int8-row"].reference)
    assert not verdict.ok
    assert verdict.reason.startswith(f"element ({M - 1}, {N - 1}) is {poison}")
    assert verdict.max_error_over_bound == math.inf


def test_nan_must_stand_where_the_reference_has_it() -> None:
    a = torch.randn(16, 64, dtype=torch.float64)
    b = torch.randn(32, 64, dtype=torch.float64)
    a[5, 0] = math.nan
    problem = Gemm(m=16, n=32, k=64, recipe=recipe("bf16"), out="fp32")
    reference = gemm_reference(a, b, gemm_arithmetic(problem, decode=False))
    assert compare((a @ b.T).to(torch.float32), reference).ok
    healed = torch.nan_to_num(a) @ b.T
    verdict = compare(healed.to(torch.float32), reference)
    assert not verdict.ok
    assert verdict.reason.startswith("element (5, 0)")


def test_overflow_to_infinity_is_expected_where_the_output_type_has_it() -> None:
    a = torch.full((16, 64), 100.0, dtype=torch.float64)
    problem = Gemm(m=16, n=16, k=64, recipe=recipe("fp16"), out="fp16")
    reference = gemm_reference(a, a, gemm_arithmetic(problem, decode=False))
    out = torch.full((16, 16), math.inf, dtype=torch.float16)
    assert compare(out, reference).ok
    assert not compare(torch.full_like(out, 65504.0), reference).ok


@pytest.mark.parametrize("name", [*KINDS, *MORE])
def test_bounds_are_finite_and_far_below_the_result(name: str) -> None:
    reference = Case(name).reference
    typical = float(reference.exact.square().mean().sqrt())
    assert 0 < float(reference.bound.amin())
    assert float(reference.bound.amax()) < 1.5 * typical
    assert float(reference.tile_rms_limit.amax()) < 0.08 * typical


def _truncated(values: torch.Tensor) -> torch.Tensor:
    """To bf16 as Triton's interpreter does it."""
    bits = values.to(torch.float32).view(torch.int32) & -(1 << 16)
    return bits.view(torch.float32).to(torch.bfloat16)


@pytest.mark.parametrize("name", [*KINDS, *MORE])
def test_one_per_cent_too_much_is_rejected_where_no_tensor_core_multiplies(name: str) -> None:
    case = Case(name, k=400)
    arithmetic = gemm_arithmetic(case.problem, decode=False, interpreted=True)
    reference = gemm_reference(case.a64, case.b64, arithmetic)
    assert compare(_truncated(reference.exact), reference).ok
    assert not compare(_truncated(reference.exact * 1.01), reference).ok


def test_refuses_operands_that_do_not_fit() -> None:
    problem = Gemm(m=4, n=4, k=8, recipe=recipe("bf16"))
    arithmetic = gemm_arithmetic(problem, decode=False)
    with pytest.raises(ValueError, match="float64 operands"):
        gemm_reference(torch.ones(4, 8), torch.ones(4, 8), arithmetic)
    with pytest.raises(ValueError, match="do not multiply"):
        gemm_reference(torch.ones(4, 8).double(), torch.ones(4, 9).double(), arithmetic)
    reference = gemm_reference(torch.ones(4, 8).double(), torch.ones(4, 8).double(), arithmetic)
    with pytest.raises(ValueError, match="output has shape"):
        compare(torch.ones(4, 5), reference)
