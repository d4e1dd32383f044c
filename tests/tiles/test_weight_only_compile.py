"""The weight-only product compiles to the instructions that it was written for, without a GPU."""

import pytest

pytest.importorskip("torch")
pytest.importorskip("triton")

from own_process import Outcomes, compiled
from weight_only_compile_cases import CASES

QUICK = ("decode",)


OUTCOMES = Outcomes(CASES, QUICK, compiled("weight_only_compile_cases.py"))
every_case = pytest.mark.parametrize("name", OUTCOMES.parameters())


@every_case
def test_no_configuration_spills_or_takes_more_than_estimated(name: str) -> None:
    facts = OUTCOMES[name]["facts"]
    assert facts["stack_bytes"] == 0
    assert 0 <= OUTCOMES[name]["estimated_smem_bytes"] - facts["smem_bytes"] <= 16 * 2**10


@every_case
def test_pipelines_are_as_deep_as_asked(name: str) -> None:
    assert OUTCOMES[name]["facts"]["pipeline_depth"] >= 3


@every_case
def test_decode_steps_multiply_by_mma_and_larger_tiles_by_wgmma(name: str) -> None:
    assert OUTCOMES[name]["facts"]["mma"] == ("mma" if name.startswith("decode") else "wgmma")


@every_case
def test_weights_go_from_shared_memory_to_registers_in_loads_of_16_bytes(name: str) -> None:
    assert OUTCOMES[name]["wide_shared_loads"] > 0
    assert OUTCOMES[name]["tma_copies" if "tma" in name else "wide_copies"] > 0


@every_case
def test_decoded_weights_stay_in_registers(name: str) -> None:
    assert OUTCOMES[name]["stored_again"] == 0


@every_case
def test_decoded_weights_are_not_overwritten_before_they_are_multiplied(name: str) -> None:
    assert OUTCOMES[name]["left_running"] == 0
