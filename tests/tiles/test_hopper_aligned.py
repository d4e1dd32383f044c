"""The Hopper product of aligned MX operands without a GPU: compiled, judged, refused."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from config_sample import sample
from hopper_aligned_cases import config
from hopper_gemm_cases import gemm
from nvrtc_compile import compile_cuda, stages_given_up_unread

from sim import load_gpu
from tiles.formats.torch_codec import quantize_tensor
from tiles.kernels import ConfigTable, NumericPath, kernel
from tiles.kernels.accuracy import compare
from tiles.kernels.cuda import align_mx_scales, gemm_hopper, gemm_hopper_aligned
from tiles.kernels.hopper_aligned_gemm import (
    BLOCK_M,
    HopperAlignedConfig,
    HopperAlignedGemm,
    aligned_smem_bytes,
)
from tiles.kernels.hopper_gemm import CHAINED_N
from tiles.kernels.mx_alignment import aligned_reference
from tiles.problems import Gemm, parse_problem

FOLDER = Path(gemm_hopper.__file__).parent
FAMILY = HopperAlignedGemm()
H200 = load_gpu("h200").limits
SHAPE = "4096x4096x4096"


def check_compiled(problem: Gemm, one: HopperAlignedConfig) -> None:
    """No spill, and the registers and the shared memory that were promised."""
    name = problem.recipe.activation.element.name
    fields = one.to_dict()
    options = gemm_hopper_aligned.options(element=name, out=problem.out, scales="mx", config=fields)
    found = compile_cuda(FOLDER / "gemm_hopper.cu", (*options, "--ptxas-options=-v"))
    assert "warning" not in found.log
    assert "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads" in found.log
    assert stages_given_up_unread(found.ptx) == []
    used = re.search(r"Used (\d+) registers.* (\d+) bytes smem", found.log)
    assert used is not None, found.log
    assert int(used[1]) * gemm_hopper_aligned.THREADS <= H200.registers_per_sm
    dynamic = gemm_hopper_aligned.smem_bytes(scales="mx", config=fields)
    assert aligned_smem_bytes(ConfigTable.of([one]))[0] == dynamic + int(used[2])
    # A compiler that cannot follow the accumulators waits for every product at once.
    waits = found.ptx.count("wgmma.wait_group")
    assert found.machine_code().count("WARPGROUP.DEPBAR") == waits


def test_the_default_compiles_without_a_spill() -> None:
    problem = gemm(f"gemm:{SHAPE}:mxfp8-e4m3:bf16")
    check_compiled(problem, FAMILY.default(problem, H200))


def samples() -> list[tuple[Gemm, HopperAlignedConfig]]:
    """Every tile, and every value of every other field."""
    problems = {out: gemm(f"gemm:{SHAPE}:{recipe}:{out}") for recipe, out in
                (("mxfp8-e4m3", "bf16"), ("mxfp8-e5m2", "fp32"))}  # fmt: skip
    tables = {out: FAMILY.legal_space(problem, H200).accepted for out, problem in problems.items()}
    chosen = sample(tables, apart=("block_m",), free=("group_m",))
    return [
        (problems[out], one)
        for out, configs in chosen.items()
        for one in configs
        if isinstance(one, HopperAlignedConfig)
    ]


@pytest.mark.slow
def test_every_tile_compiles_without_a_spill() -> None:
    for problem, one in samples():
        check_compiled(problem, one)


@pytest.mark.parametrize("element", align_mx_scales.ERRORS)
def test_the_alignment_compiles_to_conversions_of_pairs(element: str) -> None:
    options = (*align_mx_scales.options(element), "--ptxas-options=-v")
    found = compile_cuda(FOLDER / align_mx_scales.SOURCE, options)
    assert "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads" in found.log
    code = found.machine_code()
    for instruction in ("LDG.E.EF.128", "STG.E.128", "HMUL2", "F2FP"):
        assert instruction in code, instruction
    used = re.search(r"Used (\d+) registers", found.log)
    assert used is not None
    assert int(used[1]) <= 48  # five CTAs of 256 threads


@pytest.mark.parametrize("recipe", ["mxfp8-e4m3", "mxfp8-e5m2"])
def test_serves_mx_of_eight_bit_floats(recipe: str) -> None:
    problem = gemm(f"gemm:{SHAPE}:{recipe}:bf16")
    assert FAMILY.refusal(problem, H200) is None
    assert FAMILY.path(problem, H200) is NumericPath.NATIVE
    assert kernel("hopper_aligned_gemm").name == FAMILY.name


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (f"gemm:{SHAPE}:deepseek-fp8:bf16", "aligns E8M0 scales of 1x32 on both sides"),
        (f"gemm:{SHAPE}:mxint8:bf16", "multiplies two of one element of e4m3fn, e5m2"),
        (f"gemm:{SHAPE}:jetfire:int8.b32x32", "writes bf16, fp16 or fp32"),
        ("gemm:64x64x72:mxfp8-e4m3:bf16", "K: rows of 72 bytes"),
        ("gemm:64x60x64:mxfp8-e4m3:bf16", "N: rows of 120 bytes"),
        ("quantize:64x64:e4m3fn.mx:bf16", "serves gemm problems"),
    ],
)
def test_says_why_it_refuses(text: str, reason: str) -> None:
    found = FAMILY.refusal(parse_problem(text), H200)
    assert found is not None
    assert reason in found


def test_is_for_capability_90_alone() -> None:
    problem = gemm(f"gemm:{SHAPE}:mxfp8-e4m3:bf16")
    assert "capability 90" in str(FAMILY.refusal(problem, load_gpu("b200").limits))


@pytest.mark.parametrize(
    "shape", [SHAPE, "2048x3072x768", "1x128x64", "300x136x1040", "4096x2112x7168"]
)
def test_a_default_is_legal(shape: str) -> None:
    problem = gemm(f"gemm:{shape}:mxfp8-e4m3:bf16")
    one = FAMILY.default(problem, H200)
    assert FAMILY.judge(problem, one, H200).config == one
    assert len(FAMILY.legal_space(problem, H200).accepted) > 0
    broken = [r.name for r in FAMILY.rules(problem, ConfigTable.of([one]), H200) if r.broken[0]]
    assert broken == []


@pytest.mark.parametrize(
    ("fields", "rule"),
    [
        ({"block_m": 64}, "tile shape"),
        ({"block_n": 96}, "tile shape"),
        ({"stages": 9}, "counts"),
        ({"store_buffers": 3}, "counts"),
        ({"block_n": 160}, "registers"),
        ({"stages": 5}, "shared memory"),
    ],
)
def test_a_rule_names_what_is_wrong(fields: dict[str, int], rule: str) -> None:
    problem = gemm(f"gemm:{SHAPE}:mxfp8-e4m3:bf16")
    rules = FAMILY.rules(problem, ConfigTable.of([config(**fields)]), H200)
    assert next(r for r in rules if r.broken[0]).name == rule
    # What the rules let through the launcher takes.
    if rule in ("tile shape", "counts", "registers"):
        with pytest.raises(ValueError, match=r"block_m|block_n|stages"):
            gemm_hopper_aligned.options(
                element="e4m3fn", out="bf16", scales="mx", config=config(**fields).to_dict()
            )


def test_the_launcher_takes_every_legal_tile() -> None:
    chosen = samples()
    assert {(one.block_m, one.block_n) for _, one in chosen} == {
        (m, n) for m in BLOCK_M for n in CHAINED_N if m == 128 or n <= 128
    }
    for _, one in chosen:
        gemm_hopper_aligned.options(element="e4m3fn", out="bf16", scales="mx", config=one.to_dict())


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_both_texts_run_on_a_cpu_one_behind_the_other_stay_within_the_bound() -> None:
    from align_on_host import align
    from hopper_gemm_host import run

    problem = gemm("gemm:300x136x400:mxfp8-e4m3:fp32")
    generator = torch.Generator().manual_seed(1)
    formats = (problem.recipe.activation, problem.recipe.weight)
    sides = []
    for rows, fmt in zip(problem.shape[:2], formats, strict=True):
        x = torch.randn(rows, problem.k, generator=generator)
        x[:, ::97] *= 1e3  # blocks whose neighbours are far larger
        sides.append(quantize_tensor(x, fmt))
    operands = [(side.bits.numpy(), side.scale_bits.numpy()) for side in sides]
    (a, a_scale), (b, b_scale) = align(operands, "e4m3fn")
    c, complaint = run(
        a,
        b,
        a_scale,
        b_scale,
        element="e4m3fn",
        out="fp32",
        scales="b1x128_b1x128",
        config=config(block_n=64).to_dict() | {"pingpong": False, "chained": True},
        ctas=2,
    )
    assert complaint == ""
    reference = aligned_reference(problem, sides[0], sides[1])
    accuracy = compare(torch.from_numpy(c.copy()), reference)
    assert accuracy.ok, accuracy
    # The alignment is seen: the exact product is another one.
    assert float((torch.from_numpy(c.copy()) - reference.exact).abs().max()) > 0


def test_parameters_are_laid_out_as_the_source_has_them() -> None:
    assert align_mx_scales.PARAMETERS.itemsize == 2 * 8 * 8 + 16
    assert np.dtype(align_mx_scales.PARAMETERS["a"]).names == align_mx_scales.Side._fields
