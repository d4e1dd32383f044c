"""Spaces, rules and defaults of the quantisation families, and laws of the rule they implement."""

import dataclasses

import numpy as np
import pytest
from config_rows import distinct_rows
from gpu_limits import H200
from hypothesis import given, settings
from hypothesis import strategies as st

from tiles.formats import FloatElement, TensorFormat, dequantize, quantize
from tiles.kernels import Accepted, ConfigTable, Limits, Rejected, kernel, kernels
from tiles.kernels.cuda import quantize_blocks
from tiles.kernels.cuda_quantize import CudaQuantizeConfig
from tiles.kernels.quantize import TritonQuantizeConfig
from tiles.problems import Quantize, parse_problem

A100 = dataclasses.replace(H200, gpu="a100", capability=80, smem_bytes_per_cta=166912)
MI300 = dataclasses.replace(
    H200, gpu="mi300x", vendor="amd", capability=942, warp_threads=64, smem_bytes_per_cta=65536
)
FAMILIES = ("triton_quantize", "cuda_quantize")

problems = st.builds(
    Quantize,
    rows=st.integers(1, 300) | st.sampled_from([4096, 65536]),
    cols=st.integers(1, 300) | st.sampled_from([1024, 4096, 14336, 2**18]),
    source=st.sampled_from(["bf16", "fp16", "fp32"]),
    target=st.builds(
        lambda element, scaling: TensorFormat.parse(f"{element}.{scaling}"),
        st.sampled_from(["int8", "e4m3fn", "e5m2"]),
        st.sampled_from(["tensor", "row", "b1x128", "b128x128", "b32x32"])
        | st.builds("b{}x{}".format, st.integers(1, 600), st.integers(1, 600)),
    ),
)


#: What the CUDA C++ family alone serves of the two.
turned = st.builds(
    Quantize,
    rows=st.integers(1, 300) | st.sampled_from([4096, 65536]),
    cols=st.integers(1, 300) | st.sampled_from([1024, 4096]),
    source=st.sampled_from(["bf16", "fp16", "fp32"]),
    target=st.builds(
        lambda extent, more: TensorFormat.parse(f"int8.b{extent}x{extent}{more}"),
        st.sampled_from([16, 32, 64, 128]),
        st.sampled_from(["", "+sr"]),
    ),
    transposed=st.booleans(),
)


@settings(max_examples=60, deadline=None)
@given(problem=turned, limits=st.sampled_from([H200, A100]))
def test_transposed_copies_and_random_bits_have_a_legal_default_and_space(
    problem: Quantize, limits: Limits
) -> None:
    chosen = kernel("cuda_quantize")
    assert chosen.refusal(problem, limits) is None
    verdict = chosen.judge(problem, chosen.default(problem, limits), limits)
    assert isinstance(verdict, Accepted), verdict
    space = chosen.legal_space(problem, limits)
    scaling = problem.target.scaling
    assert scaling is not None
    # The descriptor's rules and the launcher's are one: every legal row has options.
    for row in range(0, len(space.accepted), 1 + len(space.accepted) // 12):
        quantize_blocks.options(
            source=problem.source,
            target="int8",
            block=(scaling.rows or 0, scaling.cols or 0),
            shape=problem.shape,
            aligned=False,
            config=space.accepted.config(row).to_dict(),
            transposed=problem.transposed,
        )


@pytest.mark.parametrize("limits", [H200, A100, MI300], ids=lambda limits: limits.gpu)
@pytest.mark.parametrize("family", FAMILIES)
def test_default_is_legal_for_every_problem_served(family: str, limits: Limits) -> None:
    @settings(max_examples=150, deadline=None)
    @given(problem=problems)
    def check(problem: Quantize) -> None:
        chosen = kernel(family)
        if chosen.refusal(problem, limits) is None:
            verdict = chosen.judge(problem, chosen.default(problem, limits), limits)
            assert isinstance(verdict, Accepted), verdict

    check()


@settings(max_examples=40, deadline=None)
@given(problem=problems, family=st.sampled_from(FAMILIES))
def test_space_has_legal_rows_and_a_reason_for_every_other(problem: Quantize, family: str) -> None:
    chosen = kernel(family)
    if chosen.refusal(problem, H200) is not None:
        return
    space = chosen.legal_space(problem, H200)
    assert len(space.accepted) > 0
    assert distinct_rows(space.table) == len(space.table) <= 1000
    rejected = list(space.rejected)
    assert len(rejected) + len(space.accepted) == len(space.table)
    for refused in rejected[:: max(1, len(rejected) // 20)]:
        assert refused.rule
        assert refused.reason
        assert "\n" not in refused.reason


TRITON = TritonQuantizeConfig(
    block_rows=32, block_cols=128, num_warps=4, num_stages=1, software_cast=False
)
CUDA = CudaQuantizeConfig(threads=256, lanes=16, vector=8, unroll=1)


@pytest.mark.parametrize(
    ("config", "change", "problem", "limits", "reason"),
    [
        (TRITON, {"block_cols": 96}, "bf16", H200, "block_cols 96"),
        (TRITON, {"num_warps": 64}, "bf16", H200, "2048 threads > 1024"),
        (TRITON, {"num_stages": 3}, "bf16", H200, "num_stages 3: without a loop"),
        (TRITON, {"block_cols": 64}, "bf16", H200, "neither consists of whole 1x128"),
        (TRITON, {"block_rows": 256, "block_cols": 512}, "bf16", H200, "registers"),
        (TRITON, {}, "bf16", A100, "a100 has no instruction that rounds to e4m3fn"),
        (CUDA, {"threads": 48}, "bf16", H200, "48 threads"),
        (CUDA, {"lanes": 12}, "bf16", H200, "12 lanes"),
        (CUDA, {"lanes": 32}, "bf16", H200, "32 lanes for the 16 vectors"),
        (CUDA, {"vector": 3}, "bf16", H200, "vector 3"),
        (CUDA, {"lanes": 1, "unroll": 2}, "fp32", H200, "unroll 2: it must be 1"),
        (CUDA, {"lanes": 2, "threads": 1024}, "fp32", H200, "registers a thread > 64"),
    ],
)
def test_rules_name_rule_and_values(
    config: TritonQuantizeConfig | CudaQuantizeConfig,
    change: dict[str, int],
    problem: str,
    limits: Limits,
    reason: str,
) -> None:
    family = "triton_quantize" if config is TRITON else "cuda_quantize"
    verdict = kernel(family).judge(
        parse_problem(f"quantize:4096x4096:e4m3fn.b1x128:{problem}"),
        dataclasses.replace(config, **change),
        limits,
    )
    assert isinstance(verdict, Rejected)
    assert reason in verdict.reason


@pytest.mark.parametrize(
    ("family", "problem", "limits", "reason"),
    [
        ("triton_quantize", "gemm:64x64x64:bf16:bf16", H200, "serves quantize problems"),
        ("triton_quantize", "quantize:64x64:bf16.row:fp32", H200, "not bf16"),
        ("cuda_quantize", "quantize:64x64:int8.row:bf16", MI300, "not an NVIDIA GPU"),
        ("cuda_quantize", "quantize:64x64:int8.tensor:bf16", H200, "use triton_quantize"),
        ("cuda_quantize", "quantize:64x64:e4m3fn.b32x32+sr:bf16", H200, "rounds int8 stochast"),
        ("cuda_quantize", "quantize:64x64:int8.b32x32+rtz:bf16", H200, "nearest even or stoch"),
        ("cuda_quantize", "quantize:64x64:int8.b32x32+fp16:bf16", H200, "fp32 absmax scales"),
        ("cuda_quantize", "quantize:64x64:int8.b32x32+pow2:bf16", H200, "fp32 absmax scales"),
        ("cuda_quantize", "quantize:64x64:e4m3fn.b32x32+nosat:bf16", H200, "saturates"),
        ("cuda_quantize", "quantize:64x64:int8.b1x32:bf16:transposed", H200, "square blocks"),
        ("cuda_quantize", "quantize:64x64:int8.b8x8:bf16:transposed", H200, "from 16 on"),
        ("cuda_quantize", "quantize:64x64:int8.b256x256:bf16:transposed", H200, "at most"),
    ],
)
def test_refusal_says_why(family: str, problem: str, limits: Limits, reason: str) -> None:
    assert reason in (kernel(family).refusal(parse_problem(problem), limits) or "")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"lanes": 64}, "2 vectors of 8 for each of 64 lanes"),
        ({"vector": 1, "lanes": 128}, "patches of four rows"),
        ({"threads": 96}, "3 blocks a CTA"),
        ({"threads": 512, "unroll": 4}, "bytes: at most 49152"),
    ],
)
def test_rules_of_transposed_copies_name_what_does_not_fit(
    change: dict[str, int], reason: str
) -> None:
    problem = parse_problem("quantize:256x256:int8.b32x32:bf16:transposed")
    good = {"threads": 256, "lanes": 32, "vector": 8, "unroll": 1}
    chosen = kernel("cuda_quantize")
    assert isinstance(chosen.judge(problem, CudaQuantizeConfig(**good), H200), Accepted)
    verdict = chosen.judge(problem, CudaQuantizeConfig(**(good | change)), H200)
    assert isinstance(verdict, Rejected)
    assert reason in verdict.reason
    with pytest.raises(ValueError, match=r"transposed copy|are turned"):
        quantize_blocks.options(
            source="bf16", target="int8", block=(32, 32), shape=(256, 256), aligned=True,
            config=good | change, transposed=True,
        )  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_family_is_registered_and_its_template_exists(family: str) -> None:
    assert kernels()[family].template.is_file()


@pytest.mark.parametrize("family", FAMILIES)
def test_judging_one_row_agrees_with_judging_the_table(family: str) -> None:
    problem = parse_problem("quantize:130x300:int8.b32x32:fp32")
    chosen = kernel(family)
    space = chosen.legal_space(problem, H200)
    for row in range(0, len(space.table), 37):
        verdict = chosen.judge(problem, space.table.config(row), H200)
        assert isinstance(verdict, Accepted) == (space.first_broken[row] == len(space.rules))
        assert ConfigTable.of([verdict.config]).config(0) == verdict.config


matrices = st.integers(0, 2**32 - 1).map(
    lambda seed: (
        np.random.default_rng(seed).standard_normal((9, 40))
        * 10.0 ** np.random.default_rng(seed).integers(-20, 20)
    ).astype(np.float32)
)
formats = st.sampled_from(
    [
        TensorFormat.parse(f"{element}.{scaling}")
        for element in ("int8", "e4m3fn", "e5m2")
        for scaling in ("tensor", "row", "b1x16", "b4x8")
    ]
)


@settings(max_examples=60, deadline=None)
@given(x=matrices, fmt=formats)
def test_scales_are_positive_and_errors_within_half_a_step(
    x: np.ndarray, fmt: TensorFormat
) -> None:
    quantized = quantize(x, fmt)
    assert (quantized.scales > 0).all()
    assert (np.abs(quantized.values) <= fmt.element.max).all()
    assert fmt.scaling is not None
    rows, cols = fmt.scaling.rows or 9, fmt.scaling.cols or 40
    scale = np.kron(quantized.scales, np.ones((rows, cols)))[:9, :40].astype(np.float64)
    if isinstance(fmt.element, FloatElement):
        ratio = np.maximum(np.abs(x / scale), 2.0**fmt.element.min_exponent)
        step = 2.0 ** (np.floor(np.log2(ratio)) - fmt.element.mantissa_bits)
    else:
        step = np.ones_like(scale)
    # The fp32 quotient may land on a tie that the exact one misses by half an fp32 ulp.
    slack = 1 + 2.0**-14
    assert (np.abs(x - dequantize(quantized)) <= step / 2 * scale * slack).all()


@settings(max_examples=60, deadline=None)
@given(x=matrices, fmt=formats)
def test_quantizing_again_changes_no_code(x: np.ndarray, fmt: TensorFormat) -> None:
    once = quantize(x, fmt)
    again = quantize(dequantize(once).astype(np.float32), fmt)
    np.testing.assert_array_equal(again.codes, once.codes)
