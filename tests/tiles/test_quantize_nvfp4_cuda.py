"""The NVFP4 quantisation in CUDA C++: space, rules, refusals, what NVRTC makes of it."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cupy_arrays import array
from nvrtc_compile import compile_cuda

from bench.sass import loops
from sim import load_gpu, price
from sim.two_walks_model import CODE_STEP, FIND_STEP, HELD_SHARE
from tiles.kernels import Accepted, ConfigTable, Rejected, kernel
from tiles.kernels.cuda import quantize_nvfp4
from tiles.kernels.cuda_quantize_nvfp4 import CudaQuantizeNvfp4Config
from tiles.problems import parse_problem

H200 = load_gpu("h200").limits
PROBLEM = parse_problem("quantize:8192x8192:nvfp4:bf16")
GOOD = {"num_warps": 16, "stages": 7, "held": 0, "fused": True, "kept_mib": 0}
SOURCE = Path(quantize_nvfp4.__file__).with_name(quantize_nvfp4.SOURCE)
FAMILY = kernel("cuda_quantize_nvfp4")


@pytest.mark.parametrize("gpu", ["a100", "h200", "l40s", "rtx3090", "b200"])
@pytest.mark.parametrize("shape", ["8192x8192", "1x16", "130x80", "262144x4096"])
def test_default_is_legal_and_every_legal_configuration_is_taken_and_priced(
    gpu: str, shape: str
) -> None:
    problem, made = parse_problem(f"quantize:{shape}:nvfp4:bf16"), load_gpu(gpu)
    default = FAMILY.default(problem, made.limits)
    assert isinstance(FAMILY.judge(problem, default, made.limits), Accepted)
    space = FAMILY.legal_space(problem, made.limits)
    assert len(space.accepted) > 30
    for config in space.accepted:
        assert len(quantize_nvfp4.options(problem.shape, config.to_dict())) == 2 - config.fused
    priced = price(problem, FAMILY, space.accepted, made)
    assert np.isfinite(priced.time_us).all()
    assert (priced.dram_read_bytes <= priced.l2_read_bytes).all()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"num_warps": 0}, "0 warps"),
        ({"num_warps": 33}, "33 warps"),
        ({"stages": 1}, "1 stages"),
        ({"stages": 65}, "65 stages"),
        ({"kept_mib": -1}, "kept_mib -1"),
        ({"held": 8}, "held 8: at most the 7 stages"),
        ({"held": 2, "fused": False}, "held 2: at most"),
        ({"held": 4}, "about 136 registers a thread > 128 at 512"),
        ({"stages": 8}, "smem 264448 B > 232448 B on h200"),
    ],
)
def test_rules_name_what_does_not_fit(change: dict[str, Any], reason: str) -> None:
    verdict = FAMILY.judge(PROBLEM, CudaQuantizeNvfp4Config(**(GOOD | change)), H200)
    assert isinstance(verdict, Rejected)
    assert reason in verdict.reason


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("gemm:64x64x64:bf16:bf16", "serves quantize problems"),
        ("quantize:64x64:e2m1fn.mx:bf16", "writes nvfp4"),
        ("quantize:64x64:nvfp4+sr:bf16", "writes nvfp4"),
        ("quantize:64x64:nvfp4:fp16", "reads bf16, not fp16"),
        ("quantize:64x64:nvfp4:bf16:transposed", "no transposed copy"),
        ("quantize:64x64:nvfp4:bf16:swizzled", "no swizzled scales"),
        ("quantize:64x72:nvfp4:bf16", "whole blocks of 16, not 72"),
    ],
)
def test_refusals_say_why(text: str, reason: str) -> None:
    assert reason in (FAMILY.refusal(parse_problem(text), H200) or "")


def test_refuses_other_gpus() -> None:
    amd = dataclasses.replace(H200, gpu="mi300x", vendor="amd", capability=942)
    old = dataclasses.replace(H200, gpu="v100", capability=70)
    assert "not an NVIDIA GPU" in (FAMILY.refusal(PROBLEM, amd) or "")
    assert "capability 80" in (FAMILY.refusal(PROBLEM, old) or "")


def _arrays(**changes: Any) -> dict[str, Any]:
    good = {
        "x": array((64, 96), "uint16"), "codes": array((64, 48), "uint8"),
        "scales": array((64, 6), "uint8"), "tensor_scale": array((1,), "float32"),
        "workspace": array((3,), "int32"), "config": GOOD,
    }  # fmt: skip
    return good | changes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"config": GOOD | {"num_warps": 40}}, "num_warps = 40"),
        ({"config": GOOD | {"stages": 1}}, "stages = 1"),
        ({"config": GOOD | {"kept_mib": 5000}}, "kept_mib = 5000"),
        ({"config": GOOD | {"held": 8}}, "held = 8"),
        ({"config": GOOD | {"held": 1, "fused": False}}, "held = 1"),
        ({"config": GOOD | {"depth": 2}}, "config has fields"),
        ({"x": array((64, 72), "uint16")}, "x has 72 columns"),
        ({"x": array((64, 96), "uint16", pointer=4104)}, "x begins at no multiple of 16"),
        ({"codes": array((64, 48), "uint8", pointer=4100)}, "codes begins at no multiple of 8"),
        ({"codes": array((64, 96), "uint8")}, r"codes has shape \(64, 96\)"),
        ({"workspace": array((2,), "int32")}, r"workspace has shape \(2,\)"),
        ({"workspace": array((3,), "int32", strides=(8,))}, "workspace has strides"),
    ],
)
def test_launch_refuses(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        quantize_nvfp4.prepare(**_arrays(**change))


def test_two_launches_or_one_whose_ctas_meet() -> None:
    (one,), _ = quantize_nvfp4.prepare(**_arrays())
    two, _ = quantize_nvfp4.prepare(**_arrays(config=GOOD | {"fused": False}))
    assert one.cooperative
    assert [call.cooperative for call in two] == [False, False]
    assert one.smem_bytes == 2304 + 16 * 7 * 2048
    # 384 blocks are six steps: one CTA of 16 warps.
    assert one.ctas == two[1].ctas == 1
    assert "-DEVEN=1" in one.options
    assert "-DEVEN=0" in quantize_nvfp4.options((63, 96), GOOD)[0]


class _Kernel:
    """A compiled kernel that notes how it is launched."""

    shared_size_bytes, max_dynamic_shared_size_bytes = 0, 0

    def __init__(self) -> None:
        self.launched: list[tuple[Any, ...]] = []

    def __call__(self, grid: Any, block: Any, arguments: Any, **options: Any) -> None:
        self.launched.append((grid, block, options))

    @property
    def kernel(self) -> Any:
        """What CuPy launches cooperatively."""
        return self


@pytest.mark.parametrize("fused", [True, False])
def test_launches_one_cta_a_multiprocessor_and_together_where_they_meet(
    fused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = _Kernel()
    monkeypatch.setattr(quantize_nvfp4, "functions", lambda *_: (made,))
    monkeypatch.setattr(quantize_nvfp4, "multiprocessors", lambda device: 5)
    monkeypatch.setattr("tiles.kernels.cuda.launches.shared_memory_bytes", lambda device: 227 << 10)
    followed: list[tuple[Any, ...]] = []
    monkeypatch.setattr(
        "tiles.kernels.cuda.launches.launch_dependent",
        lambda kernel, grid, threads, held, smem, stream: followed.append((grid, threads, smem)),
    )
    arrays = _arrays(
        x=array((4096, 96), "uint16"), codes=array((4096, 48), "uint8"),
        scales=array((4096, 6), "uint8"), config=GOOD | {"fused": fused},
    )  # fmt: skip
    quantize_nvfp4.launch(**arrays)
    shared = 2304 + 16 * 7 * 2048
    together = {"shared_mem": shared, "enable_cooperative_groups": True}
    assert made.launched == ([((5,), (512,), together)] if fused else [])
    assert followed == ([] if fused else [(5, 512, shared)] * 2)
    assert made.max_dynamic_shared_size_bytes == shared


@pytest.mark.parametrize("find_and_code", [True, False], ids=["fused", "two"])
def test_compiles_without_warnings(find_and_code: bool) -> None:
    config = GOOD | {
        "fused": find_and_code,
        "kept_mib": 16 * find_and_code,
        "held": 3 * find_and_code,
    }
    for options in quantize_nvfp4.options((8192, 8192), config):
        found = compile_cuda(SOURCE, (*options, "--gpu-architecture=sm_80"))
        assert not found.log
        assert len(re.findall(r"cp\.async\.cg\.shared", found.ptx)) >= 4


@pytest.mark.slow
def test_its_loops_have_the_instructions_that_the_model_counts() -> None:
    """Others are for tensors whose scales are no normal numbers, and a loop around all."""
    (options,) = quantize_nvfp4.options((8192, 8192), GOOD)
    found = compile_cuda(SOURCE, (*options, "--gpu-architecture=sm_90"))
    bodies = loops(found.machine_code())
    counted = {
        opcode: min(len(body) for body in bodies if any(opcode in one for one in body))
        for opcode in ("VIADDMNMX", "VHMNMX")
    }
    assert counted == {
        "VIADDMNMX": pytest.approx(CODE_STEP, rel=0.1),
        "VHMNMX": pytest.approx(FIND_STEP, rel=0.2),
    }


def test_what_the_sms_keep_is_not_read_again() -> None:
    gpu = load_gpu("h200")
    one, two, few, held = (
        price(PROBLEM, FAMILY, ConfigTable.of([CudaQuantizeNvfp4Config(**config)]), gpu)
        for config in (GOOD, GOOD | {"fused": False}, GOOD | {"stages": 2}, GOOD | {"held": 3})
    )
    step = gpu.sm_count * 16 * 2048
    # What the L2 has of the first walk's end lies on the SMs as well.
    from_l2 = HELD_SHARE * gpu.l2_bytes
    assert from_l2 < 7 * step
    saved = two.dram_read_bytes[0] - one.dram_read_bytes[0]
    assert saved == pytest.approx(7 * step - from_l2)
    assert one.dram_read_bytes[0] - held.dram_read_bytes[0] == 3 * step
    assert held.time_us[0] < one.time_us[0] < few.time_us[0]
    assert one.time_us[0] < two.time_us[0]
    assert one.terms_us["cuda_cores"][0] < one.terms_us["dram"][0]


def test_reads_are_those_that_a_counter_had() -> None:
    """``ncu`` on an H200: 208 MB of two walks through 134 (docs/kernels.md)."""
    config = CudaQuantizeNvfp4Config(**GOOD | {"held": 3, "kept_mib": 32})
    told = price(PROBLEM, FAMILY, ConfigTable.of([config]), load_gpu("h200"))
    assert told.dram_read_bytes[0] == pytest.approx(208e6, rel=0.01)
