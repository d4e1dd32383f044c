"""The decoded product compiles to the instructions that it was written for, without a GPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("triton")

pytestmark = pytest.mark.slow

RUNNER = Path(__file__).with_name("decoded_compile_cases.py")


@pytest.fixture(scope="module")
def compiled() -> list[dict]:
    done = subprocess.run(
        [sys.executable, str(RUNNER)],
        capture_output=True,
        text=True,
        env={k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"},
        cwd=RUNNER.parents[2],
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def kernels_of(compiled: list[dict], kernel: str) -> dict[str, dict]:
    return {record["case"]: record for record in compiled if record["kernel"] == kernel}


def test_nothing_spills_nor_takes_more_shared_memory_than_estimated(compiled: list[dict]) -> None:
    for record in compiled:
        assert record["stack_bytes"] == 0, record
    own = kernels_of(compiled, "gemm_decoded") | kernels_of(compiled, "gemm_block_scaled")
    for record in own.values():
        assert record["smem_bytes"] <= record["estimated_smem_bytes"], record


def test_products_take_the_fastest_instructions_of_the_gpu(compiled: list[dict]) -> None:
    kinds = {name: r["mma"] for name, r in kernels_of(compiled, "gemm_decoded").items()}
    kinds |= {name: r["mma"] for name, r in kernels_of(compiled, "gemm_scaled").items()}
    expected = {"few rows": "mma", "ampere": "mma", "blackwell": "tcgen05"}
    for name, kind in kinds.items():
        assert kind == expected.get(name, "wgmma"), name


def test_codes_come_through_the_pipeline_and_scales_ahead_of_it(compiled: list[dict]) -> None:
    # Scales of either side that are folded, one short load each.
    scales = {"mixed fp8": 0, "posit8": 0, "mxfp8 by bf16": 1}
    for name, record in kernels_of(compiled, "gemm_decoded").items():
        assert record["copies_in_loop"] >= 2, name
        assert record["loads_in_loop"] == scales.get(name, 2), name
        # 6-bit codes come in words, three for sixteen; the others 16 bytes at a time.
        assert record["wide_copies"] > 0, name


def test_decoded_operands_are_not_overwritten_before_they_are_multiplied(
    compiled: list[dict],
) -> None:
    assert {r["case"]: r["left_running"] for r in compiled if r["left_running"]} == {}


def test_staged_products_decode_each_operand_once_and_multiply_through_descriptors(
    compiled: list[dict],
) -> None:
    passes = [record["case"] for record in compiled if record["kernel"] == "decode_operand"]
    products = kernels_of(compiled, "gemm_scaled")
    assert sorted(set(passes)) == sorted(products)
    assert len(products) == 2
    for record in products.values():
        assert record["tma_copies"] > 0
    for record in compiled:
        if record["kernel"] == "decode_operand":
            assert record["wide_stores"] > 0, record
            assert record["registers"] <= 64, record
    first = kernels_of(compiled, "decode_operand")["staged mxfp8"]
    assert first["wide_loads"] > 0


def test_block_scaled_tensor_cores_take_codes_and_scales_undecoded(compiled: list[dict]) -> None:
    kinds = {name: r["kind"] for name, r in kernels_of(compiled, "gemm_block_scaled").items()}
    assert kinds == {
        "native mxfp8": "mxf8f6f4",
        "native mxfp4": "mxf4",
        "native nvfp4": "mxf4nvf4",
        "native mixed": "mxf8f6f4",
    }
    for name, record in kernels_of(compiled, "gemm_block_scaled").items():
        assert record["copies_in_loop"] == 2, name
        assert record["wide_copies"] > 0, name
