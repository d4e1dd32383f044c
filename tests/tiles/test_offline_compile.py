"""What compilers that need no GPU say of a configuration."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from own_process import lines_of

import sim
from tiles.kernels import offline_cuda
from tiles.kernels.compile_facts import CompileFacts, OfflineCompileError
from tiles.kernels.cuda.modules import BINARIES
from tiles.kernels.nvrtc import Compiled, compile_code
from tiles.kernels.offline_cuda import facts_of

H200 = sim.load_gpu("h200").limits


@pytest.fixture(scope="module")
def cases() -> dict[str, dict[str, Any]]:
    """Every case, compiled in a process without Triton's interpreter."""
    lines = [json.loads(line) for line in lines_of("offline_compile_cases.py")]
    return {line["case"]: line for line in lines}


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ("wgmma", {"target": "sm_90", "threads": 256, "pipeline_depth": 3, "mma": "wgmma"}),
        # mma.sync reads registers: one stage fewer than the configuration asks for.
        ("small tile", {"pipeline_depth": 3, "mma": "mma", "threads": 128}),
        ("ampere decodes", {"target": "sm_80", "mma": "mma"}),
        ("too large", {"refusal": "smem 393248 B > 232448 B on h200", "pipeline_depth": 4}),
        ("tensor scale, two kernels", {"mma": "", "pipeline_depth": 0, "stack_bytes": 0}),
        ("cuda", {"target": "sm_90", "smem_bytes": 0, "threads": 256, "stack_bytes": 0}),
    ],
)
def test_facts(cases: dict[str, dict[str, Any]], case: str, expected: dict[str, Any]) -> None:
    found = cases[case]
    assert {key: found[key] for key in expected} == expected
    assert 16 < found["registers"] <= 255


def test_facts_are_those_of_a_direct_compilation(cases: dict[str, dict[str, Any]]) -> None:
    compared = [case for case in cases.values() if "direct" in case]
    assert len(compared) == 4
    for case in compared:
        assert [case["smem_bytes"], case["registers"], case["stack_bytes"]] == case["direct"]


def test_static_shared_memory_is_counted_without_the_systems(tmp_path: Path) -> None:
    source = tmp_path / "kernel.cu"
    source.write_text(
        'extern "C" __global__ void f(float* x) { __shared__ float s[500]; s[threadIdx.x] = *x;'
        " __syncthreads(); *x = s[499 - threadIdx.x]; }"
    )
    for name in ("h200", "a100"):
        facts = facts_of(source, (), 128, sim.load_gpu(name).limits)
        assert facts is not None
        assert (facts.smem_bytes, facts.threads) == (2000, 128)
    assert facts_of(source, (), 128, sim.load_gpu("mi300x").limits) is None


def test_source_that_does_not_compile_has_its_log(tmp_path: Path) -> None:
    source = tmp_path / "kernel.cu"
    source.write_text('extern "C" __global__ void f() { nonsense; }')
    with pytest.raises(OfflineCompileError, match='identifier "nonsense" is undefined'):
        facts_of(source, (), 128, H200)


def test_a_binary_is_compiled_once_whatever_the_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, folder = tmp_path / "kernel.cu", tmp_path / "binaries"
    source.write_text('extern "C" __global__ void f(float* x) { x[threadIdx.x] *= 2; }')
    monkeypatch.setenv(BINARIES, str(folder))
    compiled: list[str] = []

    def counted(code: str, name: str, options: Sequence[str]) -> Compiled:
        compiled.append(name)
        return compile_code(code, name, options)

    monkeypatch.setattr(offline_cuda, "compile_code", counted)
    first = facts_of(source, ("-DA",), 128, H200)
    assert first is not None
    assert facts_of(source, ("-DA",), 128, H200) == first
    other = facts_of(source, ("-DA",), 256, H200)  # the source does not say how many threads
    assert other == replace(first, threads=256)
    assert len(compiled) == 1
    (facts,), (binary,) = folder.glob("*.json"), folder.glob("*.cubin")
    for missing in (facts, binary):  # a launch needs the binary, whoever keeps the facts
        missing.unlink()
        assert facts_of(source, ("-DA",), 128, H200) == first
        assert missing.is_file()
    facts.write_text("torn")
    assert facts_of(source, ("-DA",), 128, H200) == first
    assert len(compiled) == 4
    facts_of(source, ("-DB",), 128, H200)
    assert len(compiled) == 5


def test_an_empty_log_does_not_overwrite_the_space_that_python_shares() -> None:
    made = compile_code('extern "C" __global__ void f() {}', "kernel.cu", ["-arch=sm_90"])
    assert made.log == ""
    assert bytes.fromhex("20") == bytes([32])
    assert bytes([32]).decode() == "\N{SPACE}"


def test_a_launch_of_several_kernels_has_the_largest_of_each() -> None:
    common: dict[str, Any] = {"compiler": "c", "target": "sm_90", "stack_bytes": 0}
    one = CompileFacts(threads=128, smem_bytes=5, registers=90, pipeline_depth=0, mma="", **common)
    two = CompileFacts(
        threads=64, smem_bytes=7, registers=30, pipeline_depth=2, mma="wgmma", **common
    )
    largest = CompileFacts.largest([one, two])
    assert (largest.threads, largest.smem_bytes, largest.registers) == (128, 7, 90)
    assert (largest.pipeline_depth, largest.mma) == (2, "wgmma")
