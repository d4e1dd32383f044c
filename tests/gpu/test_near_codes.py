"""Which codes are near each other: those of values within the kernels' bound; needs no GPU."""

import pytest
import torch
from near_codes import assert_near, either_sign

from tiles.formats import TensorFormat
from tiles.kernels.dataflow_reference import Inputs, outcome
from workbench.nn import Codes, ReferenceBackend

TWIN = ReferenceBackend()
FMT = "int8.b128x128"
OUT = TensorFormat.parse(f"{FMT}+sr")
SEED = 0x9E3779B97F4A7C15


def drawn(seed: int) -> Codes:
    x = torch.randn(512, 1024, generator=torch.Generator().manual_seed(seed))
    return TWIN.quantize(x, TensorFormat.parse(FMT))


def test_values_within_the_bound_round_to_codes_that_are_near() -> None:
    """Off by all of the bound, towards the other side of zero: farther than any kernel."""
    x, dy = drawn(1), drawn(2).dequantize(torch.float64)
    exact = outcome("gelu-bwd", Inputs(x=x.dequantize(torch.float64), other=dy))
    expected = TWIN.quantize(exact.values.float(), OUT, seed=SEED)
    moved_by = exact.error * torch.where(exact.values < 0, 1.0, -1.0)
    found = TWIN.quantize((exact.values + moved_by).float(), OUT, seed=SEED)
    with pytest.raises(pytest.fail.Exception, match=r"code -?1 at"):
        assert_near(found, expected, share=0.1)
    either = either_sign("gelu-bwd", x, dy)
    assert 0 < int(either.sum()) < 2e-2 * either.numel()  # most where the gradient is 0
    assert_near(found, expected, share=0.1, either=either)


@pytest.mark.parametrize(("wanted", "wrong"), [(1, -1), (2, 0), (-1, 2)])
def test_other_codes_two_steps_apart_are_told(wanted: int, wrong: int) -> None:
    expected, found = drawn(1), drawn(1)
    expected.main.codes[3, 5], found.main.codes[3, 5] = wanted, wrong
    either = torch.zeros(512, 1024, dtype=torch.bool)
    either[3, 5] = (wanted, wrong) != (1, -1)
    with pytest.raises(pytest.fail.Exception, match=f"code {wrong} at 3, 5, wanted {wanted}"):
        assert_near(found, expected, either=either)
