"""The one-pass tile kernels without a GPU: in the interpreter, bit for bit."""

import pytest
from own_process import lines_of

pytest.importorskip("torch")
pytest.importorskip("triton")


@pytest.mark.parametrize(
    ("groups", "cases"),
    [
        ("sample", 17),
        pytest.param("nearest exponents", 15, marks=pytest.mark.slow),
        pytest.param("stochastic transposed smallest", 12, marks=pytest.mark.slow),
        pytest.param("tensor dequantized", 10, marks=pytest.mark.slow),
    ],
)
def test_interpreted_kernels_equal_the_codec_bit_for_bit(groups: str, cases: int) -> None:
    *differences, count = lines_of("tile_kernel_cases.py", *groups.split(), interpret=True)
    assert differences == []
    assert int(count) == cases
