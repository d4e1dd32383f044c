"""The sample of a huge matrix holds what can go wrong; needs no GPU."""

import pytest
from huge_tensors import sampled


@pytest.mark.parametrize(("rows", "cols"), [(131200, 16512), (262400, 16512), (2**31 + 5, 1)])
def test_the_first_the_last_and_what_passes_two_to_the_31_are_looked_at(
    rows: int, cols: int
) -> None:
    found = sampled(rows, cols)
    assert found == sorted(set(found))
    assert {0, rows - 1, 2**31 // cols - 1, min(2**31 // cols + 1, rows - 1)} <= set(found)
    assert found[-1] < rows
    assert len(found) < 700


def test_a_matrix_that_is_not_huge_is_no_case() -> None:
    with pytest.raises(AssertionError):
        sampled(1000, 1000)
