"""Products with outliers apart compile to the instructions that they were written for."""

import json

import pytest
from own_process import lines_of

pytest.importorskip("torch")
pytest.importorskip("triton")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def compiled() -> dict[str, dict]:
    records = map(json.loads, lines_of("outlier_compile_cases.py"))
    return {record["case"]: record for record in records}


def test_nothing_spills_nor_takes_more_shared_memory_than_estimated(
    compiled: dict[str, dict],
) -> None:
    for record in compiled.values():
        assert record["stack_bytes"] == 0, record
        assert record["registers"] < 255, record
        assert record["smem_bytes"] <= record["estimated_smem_bytes"], record


def test_both_loops_multiply_on_tensor_cores_with_loads_ahead(compiled: dict[str, dict]) -> None:
    for name, record in compiled.items():
        assert record["mma"] == ("mma" if "ampere" in name else "wgmma"), name
        assert record["products"] == [1, 1], name
        assert record["copies"] == [2, 2], name
        # 16 bytes a copy: nothing masks columns that are not in use.
        assert record["narrow_copies"] == 0, name
