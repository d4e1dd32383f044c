"""A kernel family compiles for every GPU of a data file, to the instructions that it is priced on.

Other tests compile for capabilities 8.0, 9.0 and 10.0; these add the targets that are left.
"""

import json
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("triton")

from own_process import lines_of

from sim import gpu_names, load_gpu

pytestmark = pytest.mark.slow

#: Targets that other tests compile for: an H20 is compiled for as an H200 is.
ELSEWHERE = {80, 90, 100}


@pytest.fixture(scope="module")
def compiled() -> dict[tuple[str, str], dict[str, Any]]:
    records = [json.loads(line) for line in lines_of("target_compile_cases.py")]
    return {(record["gpu"], record["recipe"]): record for record in records}


def test_every_target_is_compiled_for(compiled: dict[tuple[str, str], dict[str, Any]]) -> None:
    here = {load_gpu(gpu).capability for gpu, _ in compiled}
    assert {load_gpu(gpu).capability for gpu in gpu_names()} <= here | ELSEWHERE


@pytest.mark.parametrize(
    ("gpu", "recipe", "instruction"),
    [
        ("rtx3090", "int8-row", "mma.sync.aligned.m16n8k32.row.col.satfinite.s32.s8.s8.s32"),
        ("l40s", "e4m3-row", "mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32"),
        ("b300", "mxfp4", "tcgen05.mma.cta_group::1.kind::mxf4"),
        ("mi300x", "bf16", "v_mfma_f32_32x32x8_bf16"),
        ("mi355x", "e4m3-row", "v_mfma_f32_32x32x64_f8f6f4"),
        ("mi355x", "mxfp8-e4m3", "v_mfma_scale_f32_32x32x64_f8f6f4"),
        ("mi355x", "mxfp4", "v_mfma_scale_f32_32x32x64_f8f6f4"),
    ],
)
def test_products_take_the_native_instruction(
    compiled: dict[tuple[str, str], dict[str, Any]], gpu: str, recipe: str, instruction: str
) -> None:
    record = compiled[gpu, recipe]
    assert record["binary"]
    assert record["instructions"] == [instruction]
    assert record["smem_bytes"] <= load_gpu(gpu).smem_bytes_per_cta
