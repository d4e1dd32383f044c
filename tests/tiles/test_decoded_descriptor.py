"""What the family of decoded products serves, its space, its rules, its defaults and its costs."""

from dataclasses import replace

import numpy as np
import pytest

from sim import gpu_names, load_gpu
from sim.model import price
from tiles.formats import element
from tiles.kernels import Accepted, ConfigTable, NumericPath, Rejected, kernel
from tiles.kernels.decoded_formats import inner_problem, template_element
from tiles.kernels.decoded_gemm import DecodedGemmConfig, TritonDecodedGemm
from tiles.kernels.triton.decoded_element import named_element, wide_type
from tiles.problems import Gemm, Quantize
from tiles.recipes import Recipe, recipe

FAMILY = TritonDecodedGemm()
H200 = load_gpu("h200")
BASE = DecodedGemmConfig(
    block_m=64,
    block_n=128,
    block_k=64,
    group_m=1,
    num_warps=4,
    num_stages=3,
    tma=False,
    persistent=False,
    staged=False,
    native=False,
)


def gemm(
    activation: str, weight: str | None = None, m: int = 4096, n: int = 4096, k: int = 4096
) -> Gemm:
    pair = Recipe.of("pair", activation=activation, weight=weight, source="a test")
    return Gemm(m=m, n=n, k=k, recipe=pair)


def test_is_registered() -> None:
    assert isinstance(kernel("triton_decoded_gemm"), TritonDecodedGemm)
    assert FAMILY.template.is_file()


SERVED = [
    ("e3m4fn.tensor", "e3m4fn.row"),
    ("e4m3fn.tensor", "e3m4fn.row"),
    ("ffp8_e4m3.tensor+pow2", "ffp8_e3m4.tensor+pow2"),
    ("posit8es1", "posit8es2"),
    ("e4m3fn.mx", "e4m3fn.mx"),
    ("e3m2fn.mx", "e2m1fn.mx"),
    ("nvfp4", "e2m1fn.b16x16+e4m3fn+two-level"),
    ("uint8.row", "uint8.tensor"),
    ("e4m3.b1x128", "e4m3.b128x128"),
    ("bf16", "e2m1fn.mx"),
]


@pytest.mark.parametrize(("activation", "weight"), SERVED)
def test_serves_with_legal_configurations_of_both_kinds(activation: str, weight: str) -> None:
    for m in (1, 100, 4096):
        problem = gemm(activation, weight, m)
        assert FAMILY.refusal(problem, H200.limits) is None
        assert FAMILY.path(problem, H200.limits) is NumericPath.EMULATED
        space = FAMILY.legal_space(problem, H200.limits).accepted
        assert space["staged"].sum() > 50
        in_loop = int((~space["staged"]).sum())
        assert in_loop == 0 if inner_problem(problem).recipe.blockwise else in_loop > 50


@pytest.mark.parametrize(
    ("problem", "gpu", "reason"),
    [
        (Quantize(rows=8, cols=8, target=recipe("jetfire").activation), "h200", "serves gemm"),
        (gemm("nf4.g128"), "h200", "floats, integers and posits of 4, 6 or 8 bits"),
        (gemm("posit16es1"), "h200", "floats, integers and posits of 4, 6 or 8 bits"),
        (gemm("int6.row"), "h200", None),
        (gemm("e3m4fn.g128"), "h200", "takes scales in fp32, e8m0fnu or e4m3fn"),
        (gemm("uint8.b1x128"), "h200", "zero points go with"),
        (gemm("e3m4fn.b1x48+e8m0fnu"), "h200", "no power of two"),
        (gemm("e3m4fn.b1x16"), "h200", "multiples of 32"),
        (gemm("bf16.row", "int8.row"), "h200", "16-bit operands without scales"),
        (gemm("fp16", "e2m1fn.mx"), "h200", "no 16-bit float holds both operands"),
        (gemm("e4m3fn.row"), "h200", "as it is stored: triton_gemm"),
        (gemm("e4m3fn.row"), "a100", None),
        (gemm("e4m3fn.mx"), "mi300x", "instructions of NVIDIA"),
        (gemm("e4m3fn.mx"), "mi355x", None),
        (gemm("e4m3fn.mx", "e2m1fn.mx"), "mi355x", None),
        (gemm("e4m3fn.mx", k=64), "mi355x", "K 64: scaled MFMA takes 128 at a time"),
        (gemm("nvfp4"), "mi355x", "instructions of NVIDIA"),
        (gemm("e3m2fn.mx"), "mi355x", "instructions of NVIDIA"),
        (gemm("posit8es1"), "mi355x", "instructions of NVIDIA"),
        (Gemm(m=1, n=8, k=8, recipe=recipe("llm-int8")), "h200", "outliers"),
    ],
)
def test_refuses_what_it_does_not_serve(problem: Gemm, gpu: str, reason: str | None) -> None:
    told = FAMILY.refusal(problem, load_gpu(gpu).limits)
    assert told is None if reason is None else reason in (told or "")


@pytest.mark.parametrize(
    ("activation", "change", "rule"),
    [
        ("e4m3fn.mx", {"block_m": 48}, "tile shape"),
        ("e4m3fn.mx", {"block_n": 8}, "dot size"),
        ("e4m3fn.mx", {"tma": True}, "in the loop"),
        ("e4m3fn.mx", {"persistent": True}, "in the loop"),
        ("e3m4fn.b1x128", {}, "promotion"),
        ("e3m4fn.b1x128", {"staged": True, "block_k": 256}, "quant block"),
        ("e4m3fn.mx", {"block_n": 256, "block_k": 256, "num_stages": 5}, "shared memory"),
        ("e4m3fn.mx", {"block_m": 256, "block_n": 256}, "registers"),
        ("e4m3fn.mx", {"staged": True, "block_m": 256, "block_n": 256}, "registers"),
        ("e4m3fn.mx", {"num_warps": 64, "block_n": 256}, "threads"),
        ("e4m3fn.mx", {"native": True, "block_m": 128, "block_k": 128}, "native"),
    ],
)
def test_rules(activation: str, change: dict, rule: str) -> None:
    verdict = FAMILY.judge(gemm(activation), replace(BASE, **change), H200.limits)
    assert isinstance(verdict, Rejected), verdict
    assert verdict.rule == rule, verdict.reason


def test_tma_needs_a_gpu_that_has_it() -> None:
    config = replace(BASE, staged=True, tma=True)
    problem = gemm("e4m3fn.mx")
    assert isinstance(FAMILY.judge(problem, config, H200.limits), Accepted)
    verdict = FAMILY.judge(problem, config, load_gpu("a100").limits)
    assert isinstance(verdict, Rejected)
    assert verdict.rule == "tma"


def test_block_scaled_tensor_cores_are_used_where_the_gpu_has_them() -> None:
    b200 = load_gpu("b200")
    direct = replace(BASE, block_m=128, block_k=128, native=True)
    for activation, weight, kind in (
        ("e4m3fn.mx", "e2m1fn.mx", NumericPath.NATIVE),
        ("nvfp4", "e2m1fn.b16x16+e4m3fn+two-level", NumericPath.NATIVE),
        ("nvfp4", "e2m1fn.mx", NumericPath.EMULATED),
        ("e3m2fn.mx", "e3m2fn.mx", NumericPath.EMULATED),
        ("mxint8.mx", "mxint8.mx", NumericPath.EMULATED),
    ):
        problem = gemm(activation, weight)
        assert FAMILY.path(problem, b200.limits) is kind
        assert FAMILY.path(problem, H200.limits) is NumericPath.EMULATED
        verdict = FAMILY.judge(problem, direct, b200.limits)
        assert isinstance(verdict, Accepted) == (kind is NumericPath.NATIVE), verdict
        assert isinstance(FAMILY.judge(problem, direct, H200.limits), Rejected)
        table = FAMILY.legal_space(problem, b200.limits).accepted
        assert table["native"].any() == (kind is NumericPath.NATIVE)
        best = table.config(int(price(problem, FAMILY, table, b200).ranking()[0]))
        assert isinstance(best, DecodedGemmConfig)
        assert best.native == (kind is NumericPath.NATIVE)


def test_default_is_legal_for_every_shape_format_and_gpu() -> None:
    for gpu in gpu_names():
        limits = load_gpu(gpu).limits
        for activation, weight in SERVED:
            for m, n, k in ((1, 1, 1), (5, 40, 24), (200, 33, 4100), (4096, 4096, 4096)):
                problem = gemm(activation, weight, m, n, k)
                if FAMILY.refusal(problem, limits) is None:
                    default = FAMILY.default(problem, limits)
                    verdict = FAMILY.judge(problem, default, limits)
                    assert isinstance(verdict, Accepted), f"{gpu} {problem} {verdict}"


@pytest.mark.parametrize(
    ("left", "right", "wide"),
    [
        (("e3m4fn", ""), ("e4m3fn", ""), "fp16"),
        (("e2m1fn", "e4m3fn"), ("e2m1fn", "e4m3fn"), "fp16"),
        (("posit8es1", ""), ("posit8es1", ""), "fp16"),
        (("posit8es1", ""), ("posit8es2", ""), "bf16"),
        (("e4m3fn", "e8m0fnu"), ("e4m3fn", ""), "bf16"),
        (("uint8", ""), ("int8", ""), "fp16"),
        (("bf16", ""), ("int8", ""), "bf16"),
    ],
)
def test_multiplied_type_holds_every_code_exactly(
    left: tuple[str, str], right: tuple[str, str], wide: str
) -> None:
    sides = [(named_element(name), scale, name) for name, scale in (left, right)]
    assert wide_type(*sides) == wide


def test_named_elements_are_those_of_the_catalogue() -> None:
    for name in ("e4m3fn", "e5m2", "e3m4fn", "e3m2fn", "e2m3fn", "e2m1fn", "int8", "mxint8"):
        assert named_element(name) == template_element(element(name))
    for name in ("int4", "uint8", "uint4", "posit8es0", "posit8es1", "posit8es2", "bf16", "fp16"):
        assert named_element(name) == template_element(element(name))
    with pytest.raises(ValueError, match="choose one of"):
        named_element("e9m9")


def test_costs_are_positive_and_decoding_once_wins_for_many_rows() -> None:
    for activation, weight in SERVED:
        for m in (16, 8192):
            problem = gemm(activation, weight, m)
            table = FAMILY.legal_space(problem, H200.limits).accepted
            priced = price(problem, FAMILY, table, H200)
            assert np.isfinite(priced.time_us).all()
            assert priced.time_us.min() > 0
            best = table.config(int(priced.ranking()[0]))
            assert isinstance(best, DecodedGemmConfig)
            if m == 8192:
                assert best.staged
    bf16 = Gemm(m=8192, n=4096, k=4096, recipe=recipe("bf16"))
    family = kernel("triton_gemm")
    plain = price(bf16, family, family.legal_space(bf16, H200.limits).accepted, H200)
    # Decoding costs something, and at most a few streams through memory.
    assert 1.0 < priced.time_us.min() / plain.time_us.min() < 1.5


def test_table_of_one_configuration_is_priced_like_the_whole() -> None:
    problem = gemm("e4m3fn.mx")
    table = FAMILY.legal_space(problem, H200.limits).accepted
    whole = price(problem, FAMILY, table, H200)
    for row in (0, len(table) // 2, len(table) - 1):
        one = price(problem, FAMILY, ConfigTable.of([table.config(row)]), H200)
        assert one.time_us[0] == pytest.approx(whole.time_us[row])


def test_scaled_mfma_takes_codes_as_they_are_and_nothing_else() -> None:
    limits = load_gpu("mi355x").limits
    for problem in (gemm("e4m3fn.mx"), gemm("e2m1fn.mx"), gemm("e4m3fn.mx", m=3, n=70, k=100)):
        assert FAMILY.path(problem, limits) is NumericPath.NATIVE
        assert FAMILY.space(problem, limits)["native"].all()
        assert isinstance(FAMILY.judge(problem, FAMILY.default(problem, limits), limits), Accepted)
    decoding = FAMILY.judge(gemm("e4m3fn.mx"), BASE, limits)
    assert isinstance(decoding, Rejected)
    assert decoding.rule == "decoding"
