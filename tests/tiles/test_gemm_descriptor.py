"""The scaled GEMM's space, legality rules, defaults and refusals."""

from dataclasses import replace

import pytest
from config_rows import distinct_rows
from gemm_cases import BASE, GEMM, gemm
from gpu_limits import A100, H200

from sim import gpu_names, load_gpu
from tiles.kernels import Accepted, Limits, NumericPath, Rejected
from tiles.kernels.gemm import MAX_INT32_K
from tiles.problems import Gemm, Quantize
from tiles.recipes import RECIPES, Recipe, recipe

MI300X = replace(
    A100,
    gpu="mi300x",
    vendor="amd",
    capability=942,
    smem_bytes_per_cta=65536,
    registers_per_sm=131072,
    warp_threads=64,
)
#: Recipes whose product the template computes, on every GPU of the workbench.
SERVED = (
    *("bf16", "bf16-kahan", "bf16-sr", "fp16", "e4m3-tensor", "e4m3-row", "e5m2-tensor"),
    *("e5m2-row", "fp8-bert", "fp8-ptq-e4m3", "fp8-ptq-e5m2", "fp8-lm", "deepseek-fp8"),
    *("e5m2-b128", "unit-scaling", "int8-tensor", "int8-ptq", "int8-row", "int8-b128", "jetfire"),
    *("jetfire-64", "jetfire-128", "int8-b1x128", "e4m3-b1x128", "e4m3-b128"),
    "jetfire-fp16-scales",
)
#: One of those that share a product.
PRODUCTS = tuple(
    {(recipe(name).activation, recipe(name).weight): name for name in reversed(SERVED)}.values()
)


@pytest.mark.parametrize("limits", [H200, A100, MI300X], ids=lambda limits: limits.gpu)
@pytest.mark.parametrize("name", PRODUCTS)
@pytest.mark.parametrize(
    "shape",
    ["1x1x1", "1x4096x4096", "16x7168x2048", "300x40x4096", "4096x4096x4096", "77x4097x4095"],
)
def test_default_is_legal_wherever_the_family_serves(limits: Limits, name: str, shape: str) -> None:
    for out in ("bf16", "fp32"):
        problem = gemm(f"gemm:{shape}:{name}:{out}")
        assert GEMM.refusal(problem, limits) is None
        config = GEMM.default(problem, limits)
        assert isinstance(GEMM.judge(problem, config, limits), Accepted)


@pytest.mark.parametrize("name", PRODUCTS)
def test_space_keeps_a_useful_part_and_accounts_for_the_rest(name: str) -> None:
    problem = gemm(f"gemm:4096x4096x4096:{name}:bf16")
    space = GEMM.legal_space(problem, H200)
    assert distinct_rows(space.table) == len(space.table)
    assert len(space.accepted) > 500
    assert sum(space.rejected_by_rule.values()) + len(space.accepted) == len(space.table)


def reject(problem: str, limits: Limits = H200, **fields: int | bool) -> Rejected:
    verdict = GEMM.judge(gemm(problem), replace(BASE, **fields), limits)
    assert isinstance(verdict, Rejected)
    return verdict


LARGE = "gemm:4096x4096x4096"


def test_accepts_the_base_configuration() -> None:
    assert isinstance(GEMM.judge(gemm(f"{LARGE}:bf16:bf16"), BASE, H200), Accepted)


@pytest.mark.parametrize(
    ("problem", "limits", "fields", "rule", "reason"),
    [
        (f"{LARGE}:bf16:bf16", H200, {"block_m": 96}, "tile shape", "block_m 96"),
        (f"{LARGE}:bf16:bf16", H200, {"num_stages": 0}, "tile shape", "num_stages"),
        (f"{LARGE}:bf16:bf16", H200, {"block_m": 8}, "dot size", "8x128x64"),
        (f"{LARGE}:int8-row:bf16", H200, {"block_k": 16}, "dot size", "16x16x32"),
        (f"{LARGE}:jetfire:bf16", H200, {}, "quant block", "block_k 64 does not divide"),
        (f"{LARGE}:deepseek-fp8:bf16", H200, {"block_k": 256}, "quant block", "block k 128"),
        (f"{LARGE}:bf16:bf16", A100, {}, "tma", "a100 has no tensor memory access"),
        ("gemm:512x512x100:e4m3-row:bf16", H200, {}, "tma alignment", "K 100 B"),
        ("gemm:512x500x512:bf16:bf16", H200, {}, "tma alignment", "N 1000 B"),
        (f"{LARGE}:bf16:bf16", H200, {"block_m": 512, "block_n": 16}, "tma box", "256"),
        (f"{LARGE}:bf16:bf16", H200, {"num_warps": 64, "tma": False}, "threads", "2048 threads"),
        (
            f"{LARGE}:bf16:bf16",
            H200,
            {"num_stages": 8},
            "shared memory",
            "smem 264192 B > 232448 B on h200",
        ),
        (
            f"{LARGE}:bf16:bf16",
            H200,
            {"block_m": 256, "block_n": 256, "num_stages": 2},
            "registers",
            "256 of 255",
        ),
        (
            f"{LARGE}:deepseek-fp8:bf16",
            H200,
            {"block_n": 256, "num_warps": 4},
            "registers",
            "512 of 255",
        ),
        ("gemm:16x4096x4096:bf16:bf16", H200, {"group_m": 1}, "oversized tile", "128x128x64"),
        (f"{LARGE}:bf16:bf16", H200, {"block_m": 16, "block_n": 16}, "warps", "8 warps share"),
        ("gemm:4096x4096x64:bf16:bf16", H200, {"num_stages": 4}, "stages", "1 K-iterations"),
        ("gemm:100x4096x4096:bf16:bf16", H200, {}, "raster", "one row of tiles"),
    ],
    ids=lambda value: value if isinstance(value, str) and " " in value else None,
)
def test_refuses_with_rule_and_values(
    problem: str, limits: Limits, fields: dict[str, int | bool], rule: str, reason: str
) -> None:
    verdict = reject(problem, limits, **fields)
    assert verdict.rule == rule
    assert reason in verdict.reason


def test_serves_only_what_it_can_multiply_exactly_enough() -> None:
    row = recipe("int8-row")
    long = Gemm(m=16, n=16, k=MAX_INT32_K + 1, recipe=row)
    assert "int32 accumulator could overflow" in (GEMM.refusal(long, H200) or "")
    # Promotion empties the integer accumulator every 32 elements.
    promoted = Gemm(m=16, n=16, k=MAX_INT32_K + 1, recipe=recipe("jetfire"))
    assert GEMM.refusal(promoted, H200) is None
    quantize = Quantize(rows=4, cols=128, target=row.activation)
    assert "serves gemm problems" in (GEMM.refusal(quantize, H200) or "")
    no_int8 = replace(H200, native_elements=frozenset({"bf16"}))
    assert "int8 has no path" in (GEMM.refusal(gemm(f"{LARGE}:int8-row:bf16"), no_int8) or "")
    mixed = replace(row, weight=recipe("e4m3-row").weight)
    assert "no tensor core multiplies int8 by e4m3fn" in (
        GEMM.refusal(Gemm(m=16, n=16, k=64, recipe=mixed), H200) or ""
    )
    turing = replace(A100, gpu="t4", capability=75)
    assert "capability 75 < 80" in (GEMM.refusal(gemm(f"{LARGE}:bf16:bf16"), turing) or "")


def test_path_says_where_8_bit_floats_are_decoded() -> None:
    problem = gemm(f"{LARGE}:e4m3-row:bf16")
    assert GEMM.path(problem, H200) is NumericPath.NATIVE
    assert GEMM.path(problem, A100) is NumericPath.EMULATED
    # A direct cast has no scales; its elements are decoded all the same.
    assert GEMM.path(gemm(f"{LARGE}:unit-scaling:bf16"), A100) is NumericPath.EMULATED


@pytest.mark.parametrize("gpu", gpu_names())
@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_served_or_refused_in_one_line(name: str, gpu: str) -> None:
    limits = load_gpu(gpu).limits
    problem = gemm(f"gemm:512x512x512:{name}:bf16")
    reason = GEMM.refusal(problem, limits)
    assert (reason is None) == (name in SERVED), reason
    if reason is None:
        elements = {str(f.element) for f in (recipe(name).activation, recipe(name).weight)}
        native = elements <= limits.native_elements
        assert (GEMM.path(problem, limits) is NumericPath.NATIVE) == native
    else:
        assert "\n" not in reason
        assert 10 < len(reason) < 160


@pytest.mark.parametrize(
    ("activation", "weight", "reason"),
    [
        ("int8.row", "mxint8.row", "not mxint8"),
        ("e4m3fn.row", "e3m4fn.row", "not e3m4fn"),
        ("bf16", "fp16", "no tensor core multiplies bf16 by fp16"),
        ("bf16", "int8.row", "no tensor core multiplies bf16 by int8"),
        ("e4m3fn.row", "int8.row", "no tensor core multiplies e4m3fn by int8"),
        ("int8.b32x32+sr", "int8.b32x32", "not int8.b32x32+sr"),
        ("int8.b32x32", "int8.b32x32+fp16", None),
        ("int8.b32x32", "int8.b32x32+bf16", "fp32 or fp16 absmax scales"),
        ("int8.b32x32+fp16+mse", "int8.b32x32", "fp32 or fp16 absmax scales"),
        ("e4m3fn.mx", "e4m3fn.row", "not e4m3fn.mx"),
        ("e4m3fn.tensor+pow2", "e4m3fn.row", "not e4m3fn.tensor+pow2"),
        ("int8.row", "int8.row+mse", "not int8.row+mse"),
        ("bf16+sr", "bf16", "not bf16+sr"),
        ("int8.b1x48", "int8.row", "multiples of 32, not 48"),
        ("int8.col", "int8.col", "multiples of 32, not 1"),
        ("e4m3fn.row", "e5m2.b128x128", None),
        ("int8.b32x32", "int8.tensor", None),
        ("e4m3fn", "e4m3fn.row", None),
    ],
)
def test_a_pair_of_formats_is_refused_by_its_own_reason(
    activation: str, weight: str, reason: str | None
) -> None:
    one = Recipe.of("pair", activation=activation, weight=weight, source="a test")
    refused = GEMM.refusal(Gemm(m=64, n=64, k=128, recipe=one), H200)
    assert (refused is None) if reason is None else (reason in (refused or ""))


def test_outliers_that_no_kernel_multiplies_are_never_dropped() -> None:
    for name, says in (("llm-int8", "|x| > 6"), ("int8-fallback", "20 % of the blocks")):
        refused = GEMM.refusal(gemm(f"{LARGE}:{name}:bf16"), H200) or ""
        assert "has no second product for outliers" in refused
        assert says in refused
        plain = replace(recipe(name), outliers=None)
        assert GEMM.refusal(Gemm(m=64, n=64, k=64, recipe=plain), H200) is None
