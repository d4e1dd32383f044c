"""What the weight-only family serves, its space, its rules and its defaults."""

from dataclasses import replace

import pytest

from sim import gpu_names, load_gpu
from sim.model import price
from tiles.kernels import Accepted, ConfigTable, NumericPath, Rejected, kernel
from tiles.kernels.weight_only import TritonWeightOnly, WeightOnlyConfig
from tiles.kernels.weight_only_rules import MAX_SPLIT_TILES
from tiles.problems import Gemm, Quantize
from tiles.recipes import Recipe, recipe

FAMILY = TritonWeightOnly()
H200 = load_gpu("h200")
BASE = WeightOnlyConfig(
    block_m=16,
    block_n=64,
    group_m=1,
    split_k=1,
    num_warps=4,
    num_stages=4,
    tma=False,
    fold=False,
)


def gemm(weight: str, m: int = 16, n: int = 4096, k: int = 4096, activation: str = "bf16") -> Gemm:
    pair = Recipe.of("pair", activation=activation, weight=weight, source="a test")
    return Gemm(m=m, n=n, k=k, recipe=pair)


SERVED = [
    ("bf16", "int4.g32"),
    ("fp16", "int4.g64"),
    ("bf16", "int4.g128"),
    ("bf16", "uint4.g128"),
    ("fp16", "int8.row"),
    ("bf16", "int8.g128"),
    ("bf16", "e4m3fn.row"),
    ("bf16", "e4m3fn.g64"),
    ("bf16", "e2m1fn.mx"),
    ("fp16", "nvfp4"),
]


def test_is_registered() -> None:
    assert isinstance(kernel("triton_weight_only"), TritonWeightOnly)
    assert FAMILY.template.is_file()


@pytest.mark.parametrize(("activation", "weight"), SERVED)
def test_serves_packed_weights_with_legal_configurations(activation: str, weight: str) -> None:
    for m in (1, 32, 4096):
        problem = gemm(weight, m, activation=activation)
        assert FAMILY.refusal(problem, H200.limits) is None
        assert FAMILY.path(problem, H200.limits) is NumericPath.EMULATED
        assert len(FAMILY.legal_space(problem, H200.limits).accepted) > 100


@pytest.mark.parametrize(
    ("problem", "gpu", "reason"),
    [
        (Quantize(rows=8, cols=8, target=recipe("jetfire").activation), "h200", "serves gemm"),
        (gemm("int8.row", activation="int8.row"), "h200", "plain bf16 or fp16 activations"),
        (gemm("bf16"), "h200", "takes scaled int4"),
        (gemm("nf4.g128"), "h200", "takes scaled int4"),
        (gemm("int4.g48"), "h200", "groups along K are 16, 32, 64 or multiples of 128"),
        (gemm("int8.g32"), "h200", "groups along K are multiples of 64"),
        (gemm("uint4.row"), "h200", "zero points go with groups"),
        (gemm("int8.col"), "h200", "whole columns"),
        (gemm("e2m1fn.mx", activation="fp16"), "h200", "the range of bf16"),
        (gemm("int4.g128"), "mi300x", "instructions of NVIDIA"),
        (Gemm(m=1, n=8, k=8, recipe=recipe("llm-int8")), "h200", "outliers"),
    ],
)
def test_refuses_what_it_does_not_serve(problem: Gemm, gpu: str, reason: str) -> None:
    assert reason in (FAMILY.refusal(problem, load_gpu(gpu).limits) or "")


@pytest.mark.parametrize(
    ("weight", "change", "rule"),
    [
        ("int4.g128", {"block_m": 24}, "tile shape"),
        ("int4.g128", {"split_k": 0}, "tile shape"),
        ("int4.g32", {}, "fold"),
        ("int8.row", {"fold": True}, "fold"),
        ("int4.g128", {"fold": True}, "layout"),
        ("uint4.g64", {}, "layout"),
        ("int4.g128", {"block_m": 32, "block_n": 256, "num_stages": 16}, "shared memory"),
        ("int4.g128", {"block_n": 512, "num_warps": 2}, "registers"),
        ("int4.g128", {"block_m": 64}, "oversized tile"),
        ("int4.g128", {"block_n": 32}, "warps"),
        ("int4.g128", {"split_k": 16}, "split"),
        ("int4.g128", {"split_k": 8, "num_stages": 6}, "stages"),
        ("int4.g128", {"group_m": 8}, "raster"),
    ],
)
def test_rules(weight: str, change: dict, rule: str) -> None:
    verdict = FAMILY.judge(gemm(weight), replace(BASE, **change), H200.limits)
    assert isinstance(verdict, Rejected), verdict
    assert verdict.rule == rule, verdict.reason


def test_a_split_k_has_as_many_tiles_as_are_counted() -> None:
    many = replace(gemm("int4.g128", k=16384), m=8, n=MAX_SPLIT_TILES * 64)
    split = replace(BASE, block_m=8, block_n=64, split_k=2)
    assert isinstance(FAMILY.judge(many, split, H200.limits), Accepted)
    verdict = FAMILY.judge(replace(many, n=many.n + 1), split, H200.limits)
    assert isinstance(verdict, Rejected)
    assert verdict.rule == "split tiles"
    assert f"of {MAX_SPLIT_TILES + 1} tiles" in verdict.reason


def test_tma_needs_a_gpu_that_has_it_and_aligned_rows() -> None:
    tma = replace(BASE, tma=True)
    assert isinstance(FAMILY.judge(gemm("int4.g128"), tma, H200.limits), Accepted)
    for problem, gpu, rule in (
        (gemm("int4.g128"), "a100", "tma"),
        (gemm("int4.g128", k=1001), "h200", "tma alignment"),
    ):
        verdict = FAMILY.judge(problem, tma, load_gpu(gpu).limits)
        assert isinstance(verdict, Rejected)
        assert verdict.rule == rule


@pytest.mark.parametrize("gpu", [g for g in gpu_names() if load_gpu(g).vendor == "nvidia"])
def test_default_is_legal_for_any_shape(gpu: str) -> None:
    limits = load_gpu(gpu).limits
    for activation, weight in SERVED:
        for m in (1, 3, 17, 200, 5000):
            for n, k in ((1, 1), (33, 70), (4096, 4096), (50000, 130)):
                problem = gemm(weight, m, n, k, activation)
                config = FAMILY.default(problem, limits)
                verdict = FAMILY.judge(problem, config, limits)
                assert isinstance(verdict, Accepted), f"{problem}: {verdict}"


def predicted_us(problem: Gemm) -> float:
    table = FAMILY.legal_space(problem, H200.limits).accepted
    return price(problem, FAMILY, table, H200).best().time_us


def test_predicted_time_of_a_decode_step_follows_the_bytes_of_its_weights() -> None:
    four, eight = (predicted_us(gemm(w, 1, 28672, 8192)) for w in ("int4.g128", "int8.row"))
    packed_us = gemm("int4.g128", 1, 28672, 8192).min_bytes / H200.dram_read_gb_per_s / 1e3
    assert packed_us < four < 1.6 * packed_us
    assert 1.5 < eight / four < 2.2


def test_predicted_time_grows_with_every_extent_and_binds_on_products_at_prefill() -> None:
    base = predicted_us(gemm("int4.g128", 2048))
    for shape in ({"m": 4096}, {"m": 2048, "n": 8192}, {"m": 2048, "k": 8192}):
        assert predicted_us(gemm("int4.g128", **shape)) > 1.3 * base
    problem = gemm("int4.g128", 8192)
    table = FAMILY.legal_space(problem, H200.limits).accepted
    assert price(problem, FAMILY, table, H200).best().binding == "tensor"


def test_every_legal_configuration_has_a_finite_price_and_no_less_than_the_bytes() -> None:
    problem = gemm("uint4.g64", 48, 5000, 1111)
    table = FAMILY.legal_space(problem, H200.limits).accepted
    priced = price(problem, FAMILY, table, H200)
    assert (priced.time_us > problem.min_bytes / H200.dram_gb_per_s / 1e3).all()
    assert (priced.time_us < 1e4).all()
    assert isinstance(table, ConfigTable)
