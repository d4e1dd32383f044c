"""Batched and grouped GEMMs compile, without a GPU, to what they were written for."""

import pytest

pytest.importorskip("torch")
pytest.importorskip("triton")

from own_process import Outcomes, compiled
from products_compile_cases import CASES

QUICK = ("contiguous",)


OUTCOMES = Outcomes(CASES, QUICK, compiled("products_compile_cases.py"))


@pytest.mark.parametrize("case", OUTCOMES.parameters())
def test_legal_configurations_do_not_spill_and_fit_their_estimate(case: str) -> None:
    found = OUTCOMES[case]
    assert found["legal"] == ""
    assert found["stack_bytes"] == 0
    assert found["smem_bytes"] <= found["estimate"] <= found["smem_bytes"] + 8 * 2**10
    assert found["st.global.v4"] >= 2
    # A layout conversion inside the loop would send the accumulator through shared memory.
    assert found["layout changes"] == 0


@pytest.mark.parametrize("case", OUTCOMES.parameters())
def test_hopper_multiplies_by_warpgroups_and_loads_in_the_background(case: str) -> None:
    found = OUTCOMES[case]
    # Tiles below 64 rows have no warpgroup products.
    assert found["mma"] == ("mma" if case == "decode" else "wgmma")
    gathered = case in ("gathered", "decode")
    assert (found["cp.async.bulk.tensor"] > 0) == (case != "pointers")
    assert (found["cp.async.cg"] > 0) == (gathered or case == "pointers")


@pytest.mark.parametrize(
    "case",
    OUTCOMES.parameters(lambda case: case[0].startswith("grouped") and "block_m" not in case[1]),
)
def test_registers_leave_room_for_programs_side_by_side(case: str) -> None:
    ctas = CASES[case][1].get("ctas_per_sm", 2)
    found = OUTCOMES[case]
    assert -(-found["registers"] // 8) * 8 * found["threads"] * ctas <= 65536
